"""What compression may leave out with its sentence and never damage: numbers, identifiers, names, code, instructions.

The rules are of letters and signs. Names are found by capitals, so not in scripts without them, and in German every
noun is one; words for numbers, negations and instructions are English. What is protected without need costs tokens,
never truth.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from kweek.system.compression import english
from kweek.system.compression.segments import Segment, code_blocks, segments
from kweek.system.compression.spans import Span, meeting, merged, words

Kind = Literal["numbers", "identifiers", "names", "code", "instructions", "negations"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_AROUND = (
    "\"'“”‘’«»()[]{}<>*.,;:!?…—–-、。，！？；：「」『』（）"  # what may touch a word without being of it
)
_PAUSE = re.compile(r"[.,;:!?…)\]}、。，！？；：]\Z")
_INLINE = re.compile(r"(`+)(?!`)[^\n]+?(?<!`)\1(?!`)")
_SIGNS = re.compile(r"\w[_.:/\\@#=&~^|+]\w|->|::|://|\A[/~#@$%]\w|\w\(\)|[a-z][A-Z]|\A[A-Z]{2,}s?\Z")
#: Sentences that speak to whoever answers, not of the matter.
_INSTRUCTION = re.compile(
    r"(?:[-*•#>\s]|\d+[.)]\s)*(?:"
    r"(?:please|do not|don't|you (?:must|should|may|are|will|can)|"
    r"your (?:task|role|job|goal|answer|response|output|reply))\b|"
    r"(?:always|never|only) (?:answer|reply|respond|return|write|give|use|say|cite|quote|include|output|mention)\b|"
    r"(?:answer|respond|reply|output|translate|summari[sz]e|classify|rewrite|cite)\b|"
    r"(?:return|write|give|use|provide|produce|list|keep|include|explain|extract)\b.{0,200}?\b"
    r"(?:answers?|response|reply|output|json|format|words?|sentences?|bullets?|markdown|english)\b|"
    r"(?:instructions?|task|question|important|rules?|constraints?)\s*:)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Protected:
    """What was found in a text.

    Attributes:
        found: by kind, ascending and not overlapping: what a report counts.
        whole: spans that are kept whole or left out whole: all that was found, with the words a number counts and a
            negation denies, up to the limits of words.
        needed: spans that are kept whatever the budget: instructions.
    """

    found: Mapping[Kind, tuple[Span, ...]]
    whole: tuple[Span, ...]
    needed: tuple[Span, ...]


def protect(text: str, kinds: Collection[Kind] = KINDS) -> Protected:
    """Find the protected spans of a text."""
    parts, spoken = segments(text), words(text)
    code = merged([*code_blocks(text), *(Span(*match.span()) for match in _INLINE.finditer(text))])
    cores = [_core(text, word) for word in spoken]
    numbers = [core for core in cores if is_number(text[core.start : core.end])]
    every: dict[Kind, list[Span]] = {
        "numbers": numbers,
        "identifiers": [core for core in cores if _SIGNS.search(text[core.start : core.end])],
        "names": _names(text, parts),
        "code": code,
        "instructions": [
            part.span for part in parts if not part.code and _INSTRUCTION.match(_said(text, part))
        ],
        "negations": [core for core in cores if is_negation(text[core.start : core.end])],
    }
    found = {kind: tuple(merged(every[kind])) for kind in KINDS if kind in kinds}
    reach = [_reach(text, spoken, core, left=True) for core in found.get("numbers", ())]
    reach += [_reach(text, spoken, core, left=False) for core in found.get("negations", ())]
    whole = merged([*(_to_words(spoken, span) for group in found.values() for span in group), *reach])
    return Protected(found, tuple(whole), tuple(found.get("instructions", ())))


def is_number(word: str) -> bool:
    """Whether a word has a digit in it, or is one of the English words for numbers."""
    return any(unicodedata.category(letter)[0] == "N" for letter in word) or any(
        part in english.NUMBERS for part in word.lower().split("-")
    )


def is_negation(word: str) -> bool:
    """Whether an English word denies something."""
    lowered = word.lower().replace("’", "'")
    return lowered in english.NEGATIONS or lowered.endswith("n't")


def count_kept(found: Protected, kept: Collection[Span]) -> dict[Kind, tuple[int, int]]:
    """By kind, how many of those found lie in what was kept, and how many there were."""
    spans = merged(kept)
    starts = [span.start for span in spans]

    def is_kept(span: Span) -> bool:
        place = bisect_left(starts, span.start + 1) - 1
        return place >= 0 and spans[place].holds(span)

    return {kind: (sum(map(is_kept, group)), len(group)) for kind, group in found.found.items()}


def _core(text: str, word: Span) -> Span:
    """A word without the punctuation around it; a sign or currency before a number is part of it."""
    start, end = word
    while start < end and text[start] in _AROUND and not _signs_number(text, start, end):
        start += 1
    while start < end and text[end - 1] in _AROUND:
        end -= 1
    return Span(start, end)


def _signs_number(text: str, at: int, end: int) -> bool:
    return text[at] in "-–." and at + 1 < end and text[at + 1].isdigit()


def _said(text: str, part: Segment) -> str:
    return text[part.span.start : part.span.end]


def _to_words(spoken: list[Span], span: Span) -> Span:
    """The span up to the limits of the words that it begins and ends in."""
    touched = list(meeting(span, spoken[max(0, bisect_left(spoken, span) - 1) :]))
    return Span(min(span.start, touched[0].start), max(span.end, touched[-1].end)) if touched else span


def _reach(text: str, spoken: list[Span], core: Span, *, left: bool) -> Span:
    """A word with the one after it and, if `left`, the one before it, where no mark or line break is between."""
    place = max(0, bisect_left(spoken, Span(core.start + 1, 0)) - 1)
    start, end = spoken[place]
    if place + 1 < len(spoken) and _close(text, spoken[place], spoken[place + 1]):
        end = spoken[place + 1].end
    if left and place and _close(text, spoken[place - 1], spoken[place]):
        start = spoken[place - 1].start
    return Span(start, end)


def _close(text: str, word: Span, after: Span) -> bool:
    return not _PAUSE.search(text, word.start, word.end) and "\n" not in text[word.end : after.start]


def _names(text: str, parts: list[Segment]) -> list[Span]:
    """Rows of words with capitals in a sentence, with the particles inside them."""
    found: list[Span] = []
    for part in parts:
        if part.code:
            continue
        row: list[Span] = []  # words of the name so far, then particles that may belong to it
        last = 0  # how many of them end with a capital
        for number, word in enumerate(words(text, part.span)):
            core = _core(text, word)
            said = text[core.start : core.end]
            capital = (
                said[:1].isupper() and not (number == 0 and said.lower() in english.OPENERS) and said != "I"
            )
            if row and (not _joins(text, row[-1]) or not (capital or said in english.PARTICLES)):
                found += _row(text, row[:last])
                row, last = [], 0
            if capital:
                row.append(word)
                last = len(row)
            elif row:
                row.append(word)
        found += _row(text, row[:last])
    return found


def _joins(text: str, word: Span) -> bool:
    """Whether a name may go on after a word: no mark ends it, unless that is the full stop of a short form."""
    said = text[word.start : word.end]
    return not _PAUSE.search(said) or (said.endswith(".") and len(said) <= 3)


def _row(text: str, row: list[Span]) -> list[Span]:
    return [Span(_core(text, row[0]).start, _core(text, row[-1]).end)] if row else []
