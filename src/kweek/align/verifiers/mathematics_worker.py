"""Whether two expressions are mathematically equal: by their values, at more digits than chance can match.

Two expressions that agree to 30 digits at five points that have nothing to do with them are equal; no simplification
is sought, whose time nobody knows. Numbers too large to be anybody's answer are refused before they are computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from kweek.align.verifiers.expression import Tree

_DIGITS = 40  # of every value
_TOLERANCE = Fraction(1, 10**30)  # relative; ten digits are left for what cancels
_MAX_LOG = 3_000  # decimal digits of an exact number; 1000! has 2,568
_MAX_ARGUMENT = 1_000  # of a factorial or binomial
_NUM_POINTS = 5
_MAX_ITEMS = 8  # of a list in any order: the pairings are tried one after another
_COMPOSED = frozenset({"sequence", "set", "list", "union", "matrix", "relation", "either"})


class NoValue(Exception):
    """An expression that means nothing, or more than is computed here."""


def compare(pair: Sequence[Tree]) -> bool | str:
    """Whether an answer's tree and the gold's are equal; "answer" or "gold" where that one has no value."""
    # An equation answers an equation; where the other side gives none, x = 5 is 5.
    unwrap = not all(map(_relational, pair))
    meant = {}
    for name, tree in zip(("gold", "answer"), reversed(pair), strict=True):
        try:
            meant[name] = _meant(tree, unwrap)
            _check(meant[name])
        except (NoValue, ArithmeticError, ValueError, TypeError):
            return name
    return meant["answer"] == meant["gold"] or _same(meant["answer"], meant["gold"])


def _relational(tree: Tree) -> bool:
    return tree[0] == "relation" or (tree[0] == "list" and any(part[0] == "relation" for part in tree[1:]))


def _meant(tree: Tree, unwrap: bool) -> Tree:
    """The tree without what people leave out (x =, a degree sign around everything), ± written out as a list."""
    if unwrap and tree[0] == "relation" and tree[1] in ("=", "in") and tree[2][0] == "symbol":
        return _meant(tree[3], unwrap)
    if tree[0] == "degrees":
        return _meant(tree[1], unwrap)
    if tree[0] == "minus" and tree[1][0] == "degrees":
        return _meant(["minus", tree[1][1]], unwrap)
    if tree[0] == "list":
        parts = [_meant(part, unwrap) for part in tree[1:]]
        return ["list", *(leaf for part in parts for leaf in (part[1:] if part[0] == "list" else [part]))]
    variants = _variants(tree)
    return variants[0] if len(variants) == 1 else ["list", *variants]


def _variants(tree: Tree) -> list[Tree]:
    """The expressions that ± stands for; every ± is chosen by itself."""
    if tree[0] == "either":
        return [leaf for branch in tree[1:] for leaf in _variants(branch)]
    choices = [_variants(part) if isinstance(part, list) and tree[0] != "matrix" else [part] for part in tree]
    found = [list(choice) for choice in itertools.islice(itertools.product(*choices), _MAX_ITEMS + 1)]
    if len(found) > _MAX_ITEMS:
        raise NoValue
    return found


def _check(tree: Tree) -> None:
    """Make every expression of a tree once, so that what has no value is found on the side where it is."""
    if tree[0] == "matrix":
        for row in tree[1:]:
            for part in row:
                _number(part)
    elif tree[0] in _COMPOSED:
        for part in tree[1:]:
            if isinstance(part, list):
                _check(part)
    else:
        _number(tree)


def _same(one: Tree, other: Tree) -> bool:
    kinds = {one[0], other[0]}
    if not kinds & _COMPOSED:
        return _equal(_number(one), _number(other))
    if kinds == {"sequence"}:
        # (1, 2) is a point or an interval; [1, 2] is a closed interval or a list of Python.
        brackets = one[1] == other[1]
        return brackets and len(one) == len(other) and all(map(_same, one[2:], other[2:]))
    if kinds <= {"set", "list"}:  # whether somebody writes the braces is not asked
        return _same_in_any_order(one[1:], other[1:])
    if kinds == {"union"}:
        return _same_in_any_order(one[1:], other[1:])
    if kinds == {"matrix"}:
        shapes = [[len(row) for row in tree[1:]] for tree in (one, other)]
        rows = zip(one[1:], other[1:], strict=False)
        return shapes[0] == shapes[1] and all(all(map(_same, a, b)) for a, b in rows)
    return _same_relation(one, other) if kinds == {"relation"} else False


def _same_in_any_order(one: Sequence[Tree], other: Sequence[Tree]) -> bool:
    if len(one) != len(other) or len(one) > _MAX_ITEMS:
        return False
    left = list(other)
    for item in one:
        match = next((i for i, candidate in enumerate(left) if _same(item, candidate)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_relation(one: Tree, other: Tree) -> bool:
    """Whether two relations say the same: their differences are proportional, in the direction of the sign."""
    turned = {">": "<", ">=": "<="}
    sides = []
    for _, sign, left, right in (one, other):
        if sign in turned:
            left, right = right, left
        sides.append((turned.get(sign, sign), _number(["add", left, ["minus", right]])))
    (sign, first), (other_sign, second) = sides
    if sign != other_sign:
        return False
    values = [(a, b) for a, b in _values(first, second) if abs(a) > _TOLERANCE or abs(b) > _TOLERANCE]
    if len(values) < 2 or any(abs(a) <= _TOLERANCE or abs(b) <= _TOLERANCE for a, b in values):
        return _equal(first, second)
    ratios = [a / b for a, b in values]
    alike = all(abs(ratio - ratios[0]) <= abs(ratios[0]) * _sympy(_TOLERANCE) for ratio in ratios)
    return alike and (sign in ("=", "!=") or bool(ratios[0] > 0))


def _equal(one: Any, other: Any) -> bool:
    if one == other:
        return True
    if not (one.is_finite is not False and other.is_finite is not False):
        return False
    values = _values(one, other)
    tolerance = _sympy(_TOLERANCE)
    return bool(values) and all(abs(a - b) <= tolerance * (1 + abs(b)) for a, b in values)


def _values(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """Values of two expressions at the same points; where both are real somewhere, only from there."""
    import sympy

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    real, complex_ = [], []
    for number in range(4 * _NUM_POINTS if symbols else 1):
        point = {symbol: _coordinate(number, place) for place, symbol in enumerate(symbols)}
        pair = tuple(expression.evalf(_DIGITS, subs=point) for expression in (one, other))
        if not all(value.is_number and value.is_finite for value in pair):
            continue
        if all(_is_real(value) for value in pair):
            real.append((sympy.re(pair[0]), sympy.re(pair[1])))
        else:
            complex_.append(pair)
        if len(real) == 2 * _NUM_POINTS:
            break
    return real if len(real) >= min(_NUM_POINTS, len(complex_)) and real else complex_


def _coordinate(number: int, place: int) -> Any:
    """Of a point, at places of both signs that have nothing to do with anybody's answer."""
    import sympy

    sign = -1 if (number >> (place % 3)) & 1 else 1
    return sign * sympy.sqrt(7 + 2 * number + 10 * place).evalf(_DIGITS + 10) / 2


def _is_real(value: Any) -> bool:
    import sympy

    return bool(abs(sympy.im(value)) <= _sympy(_TOLERANCE) * (1 + abs(value)))


def _sympy(value: Fraction) -> Any:
    import sympy

    return sympy.Rational(value.numerator, value.denominator)


def _number(tree: Tree) -> Any:
    """A tree as an expression of sympy. Raises NoValue."""
    import sympy

    kind, *parts = tree
    if kind == "number":
        if len(parts[0]) > _MAX_LOG:
            raise NoValue
        return sympy.Rational(parts[0])
    if kind == "symbol":
        constants = {"e": sympy.E, "i": sympy.I, "pi": sympy.pi, "oo": sympy.oo}
        return constants.get(parts[0]) or sympy.Symbol(parts[0])
    if kind == "function":
        return _applied(parts[0], [_number(part) for part in parts[1:]])
    values = [_number(part) for part in parts]
    if kind == "add":
        return values[0] + values[1]
    if kind == "minus":
        return -values[0]
    if kind == "degrees":
        return values[0] * sympy.pi / 180
    if kind == "multiply":
        return values[0] * values[1]
    if kind == "divide":
        if values[1].is_zero:
            raise NoValue
        return values[0] / values[1]
    if kind == "power":
        return _power(*values)
    raise NoValue


def _power(base: Any, exponent: Any) -> Any:
    """A power whose exact digits can be written down."""
    if base.is_number and exponent.is_number:
        size = abs(exponent.evalf(6))
        log = abs(_log10(base))
        if not (size.is_finite and size * max(log, 1) <= _MAX_LOG):
            raise NoValue
        if base.is_zero and not exponent.is_positive:
            raise NoValue
    elif exponent.is_number and abs(exponent.evalf(6)) > _MAX_LOG:
        raise NoValue
    return base**exponent


def _log10(value: Any) -> Any:
    import sympy

    size = abs(value.evalf(6))
    return sympy.log(size, 10).evalf(6) if size.is_finite and size > 0 else sympy.Integer(0)


def _applied(name: str, arguments: list[Any]) -> Any:
    """A function's value. Raises NoValue for a wrong number of arguments and for values too large."""
    import sympy

    one: dict[str, Callable[[Any], Any]] = {
        "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling, "ln": sympy.log, "sqrt": sympy.sqrt,
        "factorial": sympy.factorial,
        **{n: getattr(sympy, n) for n in ("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan")},
        **{n: getattr(sympy, n) for n in ("sinh", "cosh", "tanh")},
    }  # fmt: skip
    if name == "exp" and len(arguments) == 1:
        return _power(sympy.E, arguments[0])
    if name in ("factorial", "binomial") and any(a.is_number and abs(a) > _MAX_ARGUMENT for a in arguments):
        raise NoValue
    if name in one and len(arguments) == 1:
        return one[name](arguments[0])
    if name == "log":  # to base 10 where none is given, as on a calculator; "ln" is the natural one
        if len(arguments) == 1:
            return sympy.log(arguments[0], 10)
        if len(arguments) == 2 and not (arguments[1] - 1).is_zero:
            return sympy.log(arguments[0], arguments[1])
    if name == "binomial" and len(arguments) == 2:
        return sympy.binomial(*arguments)
    if name in ("gcd", "lcm") and arguments and all(a.is_Integer for a in arguments):
        return getattr(sympy, f"i{name}")(*arguments) if len(arguments) > 1 else arguments[0]
    if name in ("max", "min") and arguments:
        return (sympy.Max if name == "max" else sympy.Min)(*arguments)
    raise NoValue
