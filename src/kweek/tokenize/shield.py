"""The shield between text and control tokens: what a chat template renders is split without trusting content.

A template mixes its own literals, which mean control tokens where they spell them, with content, which
never does. So before the template sees it, content is disguised: every character with which a control token
could begin is replaced by a stand-in. The template is free to trim, cut, join, replace or upper-case;
whatever comes out, a stand-in is ordinary text. Marks and stand-ins are noncharacters, which Unicode
reserves for use inside a program (core specification, 23.7); where content holds one itself, U+FFFD takes
its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kweek.errors import CheckpointError

_NONCHARACTERS = [chr(0xFDD0 + i) for i in range(32)]
_NONCHARACTERS += [chr((plane << 16) + last) for plane in range(17) for last in (0xFFFE, 0xFFFF)]

OPEN, CLOSE, BARRIER = _NONCHARACTERS[:3]  # around what the model writes itself; between literal and content
_STAND_INS = _NONCHARACTERS[3:]

#: Names of the message format itself, which templates look up and compare.
_FIELDS = frozenset(
    {"content", "reasoning_content", "tool_calls", "tool_call_id", "function", "name", "arguments"}
    | {"type", "text", "id"}
)


class Disguise:
    """Replaces characters by stand-ins and back.

    Args:
        characters: those to replace, at most 63.
    """

    def __init__(self, characters: str) -> None:
        if len(characters) > len(_STAND_INS):
            raise CheckpointError(
                f"the control tokens begin with {len(characters)} different characters, "
                f"more than {len(_STAND_INS)}"
            )
        pairs = list(zip(characters, _STAND_INS, strict=False))
        self._on = str.maketrans({**dict.fromkeys(_NONCHARACTERS, "\ufffd"), **dict(pairs)})
        self._off = str.maketrans({BARRIER: None, **{stand_in: character for character, stand_in in pairs}})

    def put_on(self, text: str) -> str:
        """Content in disguise."""
        return text.translate(self._on)

    def take_off(self, text: str) -> str:
        """Content as it was, without barriers."""
        return text.translate(self._off)


class Shield:
    """Disguises content and splits rendered chats for one vocabulary.

    Args:
        added_tokens: entries of `tokenizer.json` that are control tokens: `content`, `id`, and `lstrip` and
            `rstrip`, which let a token swallow the blanks beside it.

    Attributes:
        characters: those that are disguised: the first ones of all control tokens, in either case.

    Raises:
        CheckpointError: the control tokens begin with more than 63 different characters.
    """

    def __init__(self, added_tokens: Iterable[Mapping[str, Any]]) -> None:
        tokens = sorted(added_tokens, key=lambda token: -len(token["content"]))  # the longest match counts
        self._ids = {token["content"]: token["id"] for token in tokens}
        firsts = {name[0] for name in self._ids}
        variants = {c for first in firsts for c in (first, first.lower(), first.upper()) if len(c) == 1}
        self.characters = "".join(sorted(variants))
        self._disguise = Disguise(self.characters)
        self._tails = {name[i:].lower() for name in self._ids for i in range(1, len(name))}
        self._heads = {tail[:i] for tail in self._tails for i in range(1, len(tail) + 1)}
        self._longest = max(map(len, self._ids), default=0)
        self._special = re.compile("|".join([OPEN, CLOSE, *map(_branch, tokens)]))

    def protect(self, text: str) -> str:
        """Content such that no template turns any of it into a control token."""
        blanks = len(text) - len(text.lstrip())
        disguised = self._disguise.put_on(text)
        if self._continues(text[blanks:]):  # checked, and barred, behind the blanks that a template may trim
            disguised = disguised[:blanks] + BARRIER + disguised[blanks:]
        return BARRIER + disguised if blanks and self._continues(text) else disguised

    def protect_except(self, text: str, allowed: Iterable[str]) -> str:
        """Like `protect`, but the control tokens `allowed` keep their meaning."""
        known = sorted((name for name in allowed if name in self._ids), key=len, reverse=True)
        if not known:
            return self.protect(text)
        parts = re.split("(" + "|".join(map(re.escape, known)) + ")", text)
        return "".join(part if i % 2 else self.protect(part) for i, part in enumerate(parts))

    def protect_all(self, value: Any) -> Any:
        """`protect` for every string of a message, keys too, but for the words of the format itself."""
        if isinstance(value, str):
            return self.protect(value)
        if isinstance(value, Mapping):
            return dict(self._protect_field(str(key), entry) for key, entry in value.items())
        if isinstance(value, Sequence):
            return [self.protect_all(entry) for entry in value]
        return value

    def _protect_field(self, key: str, value: Any) -> tuple[str, Any]:
        if key == "type" and value in ("text", "function"):
            return key, value
        return key if key in _FIELDS else self.protect(key), self.protect_all(value)

    def split(self, rendered: str) -> Iterator[int | str]:
        """Control ids, `OPEN`, `CLOSE`, and between them ordinary text as it was, in order."""
        at = 0
        for start, end in self.spans(rendered):
            if text := self._disguise.take_off(rendered[at:start]):
                yield text
            found = rendered[start:end]
            if found not in (OPEN, CLOSE) and found not in self._ids:
                found = found.strip()  # the blanks that the token swallows
            yield self._ids.get(found, found)
            at = end
        if text := self._disguise.take_off(rendered[at:]):
            yield text

    def spans(self, rendered: str) -> list[tuple[int, int]]:
        """Start and end of every mark and control token in a rendered chat."""
        return [match.span() for match in self._special.finditer(rendered)]

    def _continues(self, text: str) -> bool:
        """Whether a literal before `text` could make a control token together with its beginning."""
        head = text[: self._longest].lower()
        return head in self._heads or any(head[:i] in self._tails for i in range(1, len(head) + 1))


def _branch(token: Mapping[str, Any]) -> str:
    """The pattern of one control token with the blanks that it swallows."""
    left, right = r"\s*" if token.get("lstrip") else "", r"\s*" if token.get("rstrip") else ""
    return f"{left}{re.escape(token['content'])}{right}"
