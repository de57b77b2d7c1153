"""Patches in the unified form, applied to a text exactly: every line that a patch keeps or removes must be there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kweek.errors import DataError

_HEAD = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@.*")
_NO_NEWLINE = "\\ No newline at end of file"


@dataclass(frozen=True)
class _Hunk:
    """One part of a patch: `old` is what must be there, `new` what takes its place; lines with their ends."""

    line: int
    old: list[str]
    new: list[str]


def apply_patch(text: str, patch: str) -> str:
    """The text with a patch applied.

    The line numbers of a part are a hint: it goes where its lines are, which must be one place, or the hinted one.

    Raises:
        DataError: it is no patch, or a part of it is nowhere, or in several places none of which is hinted.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # only "\n" ends a line here
    made: list[str] = []
    done = 0
    for number, hunk in enumerate(_hunks(patch), 1):
        place = _place(lines, hunk, done, len(made) - done, number)
        made += lines[done:place] + hunk.new
        done = place + len(hunk.old)
    return "".join(made + lines[done:])


def _place(lines: list[str], hunk: _Hunk, first: int, moved: int, number: int) -> int:
    """Index of the line at which a part goes in; the hint is right in the old text, or in what is made so far."""
    size = len(hunk.old)
    hinted = [hunk.line - 1, hunk.line - 1 - moved] if size else [hunk.line, hunk.line - moved]
    if not size:
        return min(max(hinted[0], first), len(lines))
    places = [at for at in range(first, len(lines) - size + 1) if lines[at : at + size] == hunk.old]
    if len(places) == 1:
        return places[0]
    for hint in hinted:
        if hint in places:
            return hint
    why = "is nowhere in the document" if not places else f"fits in {len(places)} places"
    raise DataError(f"part {number} of the patch {why}", fix="copy its lines from the document, exactly")


def _hunks(patch: str) -> list[_Hunk]:
    hunks: list[_Hunk] = []
    for number, line in enumerate(patch.split("\n"), 1):
        if head := _HEAD.fullmatch(line):
            hunks.append(_Hunk(int(head[1]), [], []))
        elif not hunks:
            if line and not line.startswith(("--- ", "+++ ", "diff ", "index ")):
                raise _no_patch(number)
        elif line == _NO_NEWLINE:
            _cut_newline(hunks[-1], patch.split("\n")[number - 2][:1])
        elif line[:1] in (" ", "-", "+"):
            if line[0] != "+":
                hunks[-1].old.append(line[1:] + "\n")
            if line[0] != "-":
                hunks[-1].new.append(line[1:] + "\n")
        elif line == "" and number == len(patch.split("\n")):
            break
        elif line == "":  # an empty line that is kept, its blank lost on the way
            hunks[-1].old.append("\n")
            hunks[-1].new.append("\n")
        else:
            raise _no_patch(number)
    if not hunks:
        raise _no_patch(1)
    return hunks


def _cut_newline(hunk: _Hunk, sign: str) -> None:
    for side, signs in ((hunk.old, " -"), (hunk.new, " +")):
        if sign in signs and side:
            side[-1] = side[-1].removesuffix("\n")


def _no_patch(line: int) -> DataError:
    fix = 'begin each part with "@@ -line +line @@" and each of its lines with a blank, "-" or "+"'
    return DataError("this is no patch", where=f"line {line} of the patch", fix=fix)
