"""The words of a mathematical expression: numbers, symbols, functions and signs, of plain text and of LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MAX_CHARS = 500  # of an expression; the longest answers of competition problems have some 150
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "log", "ln", "exp",
     "sqrt", "abs", "factorial", "floor", "ceil", "gcd", "lcm", "max", "min", "binomial"}
)  # fmt: skip
_ALIASES = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "lg": "log", "binom": "binomial", "ceiling": "ceil",
    "cosec": "csc",
}  # fmt: skip
_SYMBOLS = {
    "pi": "pi", "π": "pi", "infty": "oo", "∞": "oo", "infinity": "oo", "oo": "oo", "emptyset": "emptyset",
    "varnothing": "emptyset", "∅": "emptyset",
}  # fmt: skip
_GREEK = frozenset(
    ["alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu",
     "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda",
     "Sigma", "Phi", "Psi", "Omega"]
)  # fmt: skip
_SPACING = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|quad|qquad|limits|!|,|;|:|\s)(?![A-Za-z])|\\(?=\$)|~|\$"
)
_UNIT = re.compile(r"(?<=[^\s])(?:\\[ ,;!]|\s)*\\(?:text|mathrm)\{[^{}]{0,40}\}(?:\^\{?[23]\}?)?\s*\Z")
_NAMED = re.compile(r"\\(?:mathrm|text|mathbf|operatorname|mathit)\{([^{}]{0,40})\}")
_WORD = re.compile(
    r"(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<command>\\(?:[A-Za-z]+|[{}\\%|]))"
    r"|(?P<name>[A-Za-zπ∞∅]+)"
    r"|(?P<sign>\*\*|<=|>=|!=|[-+−±*/^=<>≤≥≠∈∪(){}\[\],;|!%°√×·÷_&])"
)


class Unreadable(Exception):
    """The text is no expression that is known here."""


@dataclass(frozen=True)
class Token:
    """One word. The last of every list has the kind "end" and no text."""

    kind: Literal["number", "symbol", "function", "sign", "end"]
    text: str


def words(text: str) -> list[Token]:
    """The words of a text, in order.

    Raises:
        Unreadable: too long, or something in it is none.
    """
    if len(text) > MAX_CHARS:
        raise Unreadable(f"over {MAX_CHARS} characters")
    text = _UNIT.sub("", text.strip().removesuffix("$"))
    text = _NAMED.sub(r" \1 ", _SPACING.sub(" ", text))
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _WORD.match(text, at)
        if match is None:
            raise Unreadable(f"{text[at]!r} is not known")
        at = match.end()
        if match["number"]:
            tokens.append(Token("number", match["number"].replace(",", "")))
        elif match["command"]:
            tokens.append(_command(match["command"]))
        elif match["name"]:
            tokens += _name(match["name"], tokens)
        else:
            tokens.append(Token("sign", match["sign"]))
    return [*_with_subscripts(tokens), Token("end", "")]


def _command(text: str) -> Token:
    name = text[1:]
    if name in ("dfrac", "tfrac", "cfrac"):
        return Token("sign", "\\frac")
    if name in ("vert", "mid", "lvert", "rvert", "|"):
        return Token("sign", "|")
    if name == "lbrace" or name == "rbrace":
        return Token("sign", "\\{" if name == "lbrace" else "\\}")
    return _known(name) or Token("sign", text)


def _known(name: str) -> Token | None:
    """A function or symbol with a name of its own."""
    name = _ALIASES.get(name, name)
    if name in FUNCTIONS and name not in ("sqrt",):
        return Token("function", name)
    if name in _SYMBOLS or name in _GREEK:
        return Token("symbol", _SYMBOLS.get(name, name))
    return None


def _name(name: str, before: list[Token]) -> list[Token]:
    """A word of letters: a function, a symbol, or a product of symbols of one letter each."""
    if before and before[-1].text == "{" and len(before) > 1 and before[-2].text in ("\\begin", "\\end"):
        return [Token("sign", name)]
    if name == "sqrt":
        return [Token("function", "sqrt")]
    if name in ("or", "and"):
        return [Token("sign", ",")]
    if (found := _known(name)) is not None:
        return [found]
    if len(name) > 3:
        raise Unreadable(f"{name[:20]!r} is no name that is known")  # prose, not a product
    return [Token("symbol", _SYMBOLS.get(letter, letter)) for letter in name]


def _with_subscripts(tokens: list[Token]) -> list[Token]:
    """Symbols joined with their subscripts: x_1, x_{12}."""
    found: list[Token] = []
    rest = tokens[::-1]
    while rest:
        token = rest.pop()
        found.append(token)
        if token.kind != "symbol" or not rest or rest[-1].text != "_":
            continue
        rest.pop()
        braced = bool(rest) and rest[-1].text == "{"
        if braced:
            rest.pop()
        if not rest or rest[-1].kind not in ("number", "symbol"):
            raise Unreadable("a subscript that is neither a number nor a letter")
        found[-1] = Token("symbol", f"{token.text}_{rest.pop().text}")
        if braced and (not rest or rest.pop().text != "}"):
            raise Unreadable("a subscript of several parts")
    return found
