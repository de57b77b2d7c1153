"""Text from others on a terminal: what models, files and programs have written must only be read there."""

from __future__ import annotations

import unicodedata

_TURNING = frozenset(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # change what stands before and after


def harmless(text: str) -> str:
    """The same with every sign spelled out that would make a terminal do something; line ends and tabs stay."""
    return "".join(repr(sign)[1:-1] if _acts(sign) else sign for sign in text)


def _acts(sign: str) -> bool:
    return sign in _TURNING or (unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t")
