"""Extraction: the sentences that have most to do with a question, to the letter and in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.system.compression.protected import Protected
from kweek.system.compression.relevance import Relevance, by_words
from kweek.system.compression.segments import Segment, segments
from kweek.system.compression.spans import Span, joined, meeting, merged

Count = Callable[[str], int]
"""How many tokens a text has."""

#: Of a passage's relevance, added to each of its sentences: what answers stands where the matter is spoken of.
PASSAGE_SHARE = 0.5
#: Of the more relevant neighbour's: pronouns point to the sentence before.
NEIGHBOUR_SHARE = 0.3


@dataclass(frozen=True)
class Chosen:
    """What is kept of a text, ascending, and the FLOP of choosing."""

    spans: list[Span]
    flop: float


def extract(
    text: str,
    question: str,
    budget: int,
    count: Count,
    protected: Protected,
    relevance: Relevance = by_words,
) -> Chosen:
    """Whole sentences, blocks of code and rows, best first until `budget` tokens are full.

    Nothing that is kept is changed, so nothing protected is damaged; what is needed is kept whatever the budget.
    """
    parts = united(segments(text), protected)
    scores, flop = scored(text, question, parts, relevance)
    needed = {n for n, part in enumerate(parts) if any(part.span.meets(span) for span in protected.needed)}
    chosen = fill(text, [[part.span] for part in parts], scores, needed, budget, count)
    return Chosen(chosen, flop)


def united(parts: Sequence[Segment], protected: Protected) -> list[Segment]:
    """The segments, those that share a protected span made one: whatever the rules of sentences say, it stays whole."""
    result: list[Segment] = []
    for part in parts:
        before = result[-1] if result else None
        across = before is not None and any(
            span.start < before.span.end and part.span.start < span.end
            for span in meeting(part.span, protected.whole)
        )
        if before is not None and across:
            result[-1] = Segment(Span(before.span.start, part.span.end), before.passage, before.code)
        else:
            result.append(part)
    return result


def scored(
    text: str, question: str, parts: Sequence[Segment], relevance: Relevance
) -> tuple[list[float], float]:
    """The sentences' relevance, with a share of their passage's and of their neighbours', and the FLOP of it."""
    own = relevance(question, [text[part.span.start : part.span.end] for part in parts])
    members: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        members.setdefault(part.passage, []).append(number)
    whole = [text[parts[group[0]].span.start : parts[group[-1]].span.end] for group in members.values()]
    around = relevance(question, whole)
    passages = dict(zip(members, around.values, strict=True))
    values = []
    for number, part in enumerate(parts):
        group = members[part.passage]
        beside = [own.values[other] for other in (number - 1, number + 1) if group[0] <= other <= group[-1]]
        nearby = NEIGHBOUR_SHARE * max(beside, default=0.0)
        values.append(own.values[number] + PASSAGE_SHARE * passages[part.passage] + nearby)
    return values, own.flop + around.flop + 5.0 * len(parts)


def fill(
    text: str,
    choices: Sequence[Sequence[Span]],
    scores: Sequence[float],
    needed: set[int],
    budget: int,
    count: Count,
) -> list[Span]:
    """The needed ones, and the best of the rest that fit beside them; of equals the first.

    Args:
        choices: in the order of the text, what would be kept of each sentence.
    """
    taken = set(needed)

    def kept() -> list[Span]:
        return merged(span for number in sorted(taken) for span in choices[number])

    sizes = [count(joined(text, spans)) for spans in choices]
    room = budget - count(joined(text, kept()))
    added: list[int] = []
    for number in sorted(range(len(choices)), key=lambda n: (-scores[n], n)):
        if number not in taken and sizes[number] <= room:
            taken.add(number)
            added.append(number)
            room -= sizes[number]
    while added and count(joined(text, kept())) > budget:
        taken.discard(added.pop())  # blanks between sentences are tokens, too
    return kept()
