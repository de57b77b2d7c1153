"""Mathematical expressions as people write them, in plain text or LaTeX, read into trees without running anything.

`sympy`'s own reader passes what it reads to `eval`, which no text of a model may reach; this one knows numbers, names,
operators and a list of functions. A tree is a list `[kind, …]` of texts and trees, hence JSON.

Kinds: `["number", "1.5"]`, `["symbol", "x"]`, `["add" | "multiply" | "power" | "divide", a, b]`, `["minus", a]`,
`["either", a, b]` (±), `["degrees", a]`, `["function", name, a…]`, `["sequence", brackets, a…]` (ordered: (1, 2),
[0, 1)), `["set", a…]`, `["list", a…]` (without brackets, in any order), `["union", a…]`, `["relation", sign, a, b]`,
`["matrix", row…]`.
"""

from __future__ import annotations

from typing import Any

from kweek.align.verifiers.expression_words import Token, Unreadable, words

Tree = list[Any]

MAX_DEPTH = 40  # of brackets, roots and exponents within each other; people write three or four
MAX_TREE_DEPTH = 150  # as many terms in a row; far below where Python's stack ends
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "≤": "<=", "≥": ">=", "\\le": "<=", "\\leq": "<=",
    "\\ge": ">=", "\\geq": ">=", "\\lt": "<", "\\gt": ">", "\\ne": "!=", "\\neq": "!=", "≠": "!=", "!=": "!=",
    "\\in": "in", "∈": "in",
}  # fmt: skip
_TIMES = frozenset({"*", "\\cdot", "\\times", "×", "·"})
_DIVIDED = frozenset({"/", "\\div", "÷"})
_CLOSING = {"(": ")]", "[": ")]", "\\{": ["\\}"], "{": "}"}
_STARTS = frozenset({"(", "{", "\\sqrt", "\\frac", "√"})  # of a factor, beside numbers and names


def parse(text: str) -> Tree:
    """The tree of a text.

    >>> parse("2x+1")
    ['add', ['multiply', ['number', '2'], ['symbol', 'x']], ['number', '1']]

    Raises:
        Unreadable: it is no expression, or is longer or deeper than people write.
    """
    reader = _Reader(words(text))
    found = reader.items(())
    if reader.token.kind != "end":
        raise Unreadable(f"{reader.token.text!r} is not expected")
    tree = found[0] if len(found) == 1 else ["list", *found]
    if depth(tree) > MAX_TREE_DEPTH:
        raise Unreadable("of more operations than people write")
    return tree


def depth(tree: Tree) -> int:
    """Levels of a tree, counted without recursion."""
    level, count = [tree], 0
    while level:
        count += 1
        level = [branch for node in level for branch in node if isinstance(branch, list)]
    return count


class _Reader:
    """Recursive descent over tokens; one method for each level of binding."""

    def __init__(self, tokens: list[Token]) -> None:
        self._rest = tokens[::-1]
        self._depth = 0
        self._bars = 0  # absolute values that are open: within one, a bar closes it

    @property
    def token(self) -> Token:
        return self._rest[-1]

    def _next(self) -> Token:
        return self._rest.pop() if len(self._rest) > 1 else self._rest[-1]

    def _take(self, *texts: str) -> str | None:
        if self.token.kind != "end" and self.token.text in texts:
            return self._next().text
        return None

    def _need(self, *texts: str) -> str:
        if (found := self._take(*texts)) is None:
            raise Unreadable(f"{' or '.join(texts)} is missing")
        return found

    def items(self, closing: tuple[str, ...]) -> list[Tree]:
        """Relations between commas; none before a closing bracket."""
        if self.token.text in closing:
            return []
        found = [self._relation()]
        while self._take(",", ";"):
            found.append(self._relation())
        return found

    def _relation(self) -> Tree:
        left = self._union()
        if (sign := _RELATIONS.get(self.token.text)) is None:
            return left
        self._next()
        return ["relation", sign, left, self._union()]

    def _union(self) -> Tree:
        found = [self._sum()]
        while self._take("\\cup", "∪"):
            found.append(self._sum())
        return found[0] if len(found) == 1 else ["union", *found]

    def _sum(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        found = self._product()
        while sign := self._take("+", "-", "−", "±", "\\pm"):
            right = self._product()
            if sign in ("±", "\\pm"):
                found = ["either", ["add", found, right], ["add", found, ["minus", right]]]
            else:
                found = ["add", found, right if sign == "+" else ["minus", right]]
        self._depth -= 1
        return found

    def _product(self) -> Tree:
        found = self._signed()
        while True:
            if self._take(*_TIMES):
                found = ["multiply", found, self._signed()]
            elif self._take(*_DIVIDED):
                found = ["divide", found, self._signed()]
            elif self._begins_factor():
                found = self._beside(found)
            else:
                return found

    def _beside(self, left: Tree) -> Tree:
        """What stands beside a factor multiplies it; but 1\\frac12 is a mixed number, and two numbers are a slip."""
        if left[0] == "number" and self.token.kind == "number":
            raise Unreadable("two numbers side by side")
        mixed = left[0] == "number" and left[1].isdigit() and self.token.text == "\\frac"
        right = self._power()
        if mixed and right[0] == "divide" and [part[0] for part in right[1:]] == ["number", "number"]:
            return ["add", left, right]
        return ["multiply", left, right]

    def _begins_factor(self) -> bool:
        token = self.token
        if token.text == "|":
            return self._bars == 0
        return token.kind in ("number", "symbol", "function") or token.text in _STARTS

    def _signed(self) -> Tree:
        sign = self._take("+", "-", "−", "±", "\\pm")
        if sign is None:
            return self._power()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        found = self._signed()
        self._depth -= 1
        if sign in ("±", "\\pm"):
            return ["either", found, ["minus", found]]
        return found if sign == "+" else ["minus", found]

    def _power(self) -> Tree:
        base = self._factor()
        while True:
            if self._take("!"):
                base = ["function", "factorial", base]
            elif self._take("%", "\\%"):
                base = ["divide", base, ["number", "100"]]
            elif self._take("°", "\\circ"):
                base = ["degrees", base]
            elif self._take("^", "**"):
                if self._take("\\circ") or self._degrees_in_braces():
                    base = ["degrees", base]
                    continue
                return ["power", base, self._exponent()]
            else:
                return base

    def _degrees_in_braces(self) -> bool:
        if [token.text for token in self._rest[-1:-4:-1]] != ["{", "\\circ", "}"]:
            return False
        del self._rest[-3:]
        return True

    def _exponent(self) -> Tree:
        return self._group() if self.token.text == "{" else self._signed()

    def _factor(self) -> Tree:
        token = self._next()
        if token.kind in ("number", "symbol"):
            return [token.kind, token.text]
        if token.kind == "function":
            return self._function(token.text)
        if token.text == "√":
            return ["function", "sqrt", self._factor()]
        if token.text == "\\sqrt":
            degree = self._bracketed() if self.token.text == "[" else None
            inside = self._group()
            return (
                ["power", inside, ["divide", ["number", "1"], degree]]
                if degree
                else ["function", "sqrt", inside]
            )
        if token.text == "\\frac":
            return ["divide", self._group(), self._group()]
        if token.text == "|":
            self._bars += 1
            inside = self._sum()
            self._need("|")
            self._bars -= 1
            return ["function", "abs", inside]
        if token.text == "\\begin":
            return self._matrix()
        if token.text in _CLOSING:
            return self._brackets(token.text)
        raise Unreadable(f"{token.text!r} is not expected" if token.text else "it ends too early")

    def _brackets(self, opening: str) -> Tree:
        bars, self._bars = self._bars, 0
        closing = tuple(_CLOSING[opening])
        found = self.items(closing)
        close = self._need(*closing)
        self._bars = bars
        if opening == "\\{":
            return ["set", *found]
        if len(found) == 1 and opening + close in ("()", "{}", "[]"):
            return found[0]
        if opening == "{":
            return ["set", *found]
        return ["sequence", opening + close, *found]

    def _bracketed(self) -> Tree:
        self._need("[")
        found = self._sum()
        self._need("]")
        return found

    def _group(self) -> Tree:
        """What belongs to a command: braces, or one digit or letter (\\frac12)."""
        if self._take("{"):
            bars, self._bars = self._bars, 0
            found = self._sum()
            self._need("}")
            self._bars = bars
            return found
        token = self.token
        if token.kind == "number" and token.text.isdigit() and len(token.text) > 1:
            self._rest[-1] = Token("number", token.text[1:])
            return ["number", token.text[0]]
        return self._factor()

    def _function(self, name: str) -> Tree:
        base = power = None
        while self.token.text in ("_", "^"):
            if self._next().text == "_":
                base = self._group()
            else:
                power = self._exponent()
        if self.token.text == "(":
            self._next()
            arguments = self.items((")",))
            self._need(")")
        elif self.token.text == "{":
            arguments = [self._group() for _ in range(2 if name == "binomial" else 1)]
        else:
            arguments = [self._power()]
        found: Tree = ["function", name, *arguments, *([base] if base else [])]
        if power == ["minus", ["number", "1"]] and name in ("sin", "cos", "tan"):
            return ["function", f"a{name}", *arguments]
        return ["power", found, power] if power else found

    def _matrix(self) -> Tree:
        self._need("{")
        if self.token.text not in ("pmatrix", "bmatrix", "matrix"):
            raise Unreadable(f"a block {self.token.text!r}")
        name = self._next().text
        self._need("}")
        rows: list[list[Tree]] = [[]]
        while True:
            rows[-1].append(self._sum())
            if self._take("\\\\"):
                rows.append([])
            elif not self._take("&"):
                break
        for expected in ("\\end", "{", name, "}"):
            self._need(expected)
        return ["matrix", *rows]
