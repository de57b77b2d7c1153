"""Markup: HTML built from nested calls, where whatever is not already markup is escaped.

    tag("p", "1 < 2 ", tag("b", "always"), class_="note")
    -> <p class="note">1 &lt; 2 <b>always</b></p>

A report shows what models wrote, and a model may write anything; so there is no way to put text on the page
that does not pass through `text`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

VOID = frozenset({"br", "col", "hr", "img", "link", "meta"})
# What HTML cannot hold: controls but tab and newline, halves of surrogate pairs, two code points that are none.
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
Value: TypeAlias = "str | int | float | bool | Sequence[str] | None"


def text(raw: str) -> Markup:
    """Any string as HTML text: escaped, and every character that HTML cannot hold replaced by U+FFFD."""
    return Markup(html.escape(UNFIT.sub("\ufffd", raw), quote=True))


def join(*children: Child) -> Markup:
    """Several children, one after another; None is nothing."""
    return Markup("".join(_flatten(children)))


def tag(name: str, /, *children: Child, **attributes: Value) -> Markup:
    """One element. `class_` and `for_` lose their underscore, `aria_label` becomes `aria-label`.

    An attribute that is None, False or an empty list is left out; True stands alone; a list is joined by blanks.
    """
    opening = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in VOID:
        return Markup(opening)
    return Markup(f"{opening}{''.join(_flatten(children))}</{name}>")


def plain(number: float) -> str:
    """A number as short as a hundredth allows, for coordinates."""
    short = f"{number:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False or value == [] or value == "":
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if isinstance(value, float):
        return f' {name}="{plain(value)}"'
    if not isinstance(value, str | int):
        value = " ".join(value)
    return f' {name}="{text(str(value))}"'


def _flatten(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str | int):
            yield text(str(child))
        else:
            yield from _flatten(child)
