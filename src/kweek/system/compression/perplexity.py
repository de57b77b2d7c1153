"""Words that a small model foresees are left out: what one can guess need not be said.

After LLMLingua (Jiang et al. 2023, arXiv 2310.05736) and LongLLMLingua (2310.06839), with three differences. What is
dropped is a word, not a token, because half a word is damage. Protected words stay. And what two protected spans had
between them never vanishes whole, because "Davis, whom Miller met" must not become "Davis Miller".

With a question a word counts for more where the question makes it likelier (2310.06839, equation 3, in logarithms);
without one the compressor is blind to what will be asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kweek.errors import KweekError
from kweek.protocols import LanguageModel, Request
from kweek.system.compression.extract import Chosen, Count, fill, united
from kweek.system.compression.protected import Protected
from kweek.system.compression.segments import segments
from kweek.system.compression.spans import Span, meeting, words
from kweek.tokenize.tokenizer import Tokenizer

WINDOW = 1024  # tokens read at once: some pages of context, and attention still costs less than the products
LEAST_WINDOW = 64  # tokens of text beside the question; of fewer nothing is foreseen
#: Share of the unprotected words of a kept sentence that stay. A mild one: most of the ratio comes from leaving out
#: whole sentences, which damages less than leaving out words.
KEEP_WORDS = 0.6
_OPENING = "Question: {question}\n\n"


@dataclass(frozen=True)
class Surprise:
    """What a model makes of every word of a text.

    Attributes:
        spans: the words.
        nats: negative log-probability of each, summed over its tokens, given what stands before it.
        gained: nats that the question takes from it; zeros without one.
        flop: of reading (nan where nobody knows).
    """

    spans: list[Span]
    nats: npt.NDArray[np.float64]
    gained: npt.NDArray[np.float64]
    flop: float

    @property
    def worth(self) -> npt.NDArray[np.float64]:
        """How much a word is worth keeping: what it tells, or what the question has to do with it."""
        return self.nats + self.gained


def surprise(
    text: str, question: str, model: LanguageModel, tokenizer: Tokenizer, window: int = WINDOW
) -> Surprise:
    """Score a text; with a question twice, with it and without.

    Args:
        question: "" scores blindly.
        window: tokens read at once, the question's among them; each window begins anew.

    Raises:
        KweekError: the model does not score prompts, or the question leaves no room for the text.
    """
    spans = words(text)
    starts = [0, *(span.end for span in spans)]
    pieces = tokenizer.encode_batch([text[at : span.end] for at, span in zip(starts, spans, strict=False)])
    opening = [tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id]
    asked = tokenizer.encode(_OPENING.format(question=question)) if question else []
    room = window - len(opening) - len(asked)
    if room < LEAST_WINDOW:
        raise KweekError(
            f"the question has {len(asked)} tokens of the {window} that are read at once", fix="shorten it"
        )
    pieces = [piece[:room] for piece in pieces]  # of a word that is longer its beginning is judged
    blind, flop = _nats(pieces, opening, model, room)
    gained = np.zeros(len(spans))
    if asked:
        seeing, more = _nats(pieces, opening + asked, model, room)
        gained, flop = blind - seeing, flop + more
    return Surprise(spans, blind, gained, flop)


def _nats(
    pieces: Sequence[Sequence[int]], opening: Sequence[int], model: LanguageModel, window: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Of every piece, after an opening that each window has."""
    groups = list(_windows(pieces, window))
    requests = [
        Request(
            [*opening, *(token for piece in pieces[first:last] for token in piece)], 0, prompt_logprobs=True
        )
        for first, last in groups
    ]
    nats: list[float] = []
    flop = 0.0
    for (first, last), done in zip(groups, model.generate(requests), strict=True):
        if done.prompt_logprobs is None:
            raise KweekError(
                f"the model does not score prompts ({done.error or done.stop_reason})",
                fix="compress by extraction, or with a model in this process",
            )
        flop += done.flop
        at = len(opening)
        for piece in pieces[first:last]:
            nats.append(-math.fsum(done.prompt_logprobs[at : at + len(piece)]))
            at += len(piece)
    return np.asarray(nats), flop


def _windows(pieces: Sequence[Sequence[int]], window: int) -> Iterator[tuple[int, int]]:
    """First and last piece of each window; none is longer than one."""
    first = size = 0
    for number, piece in enumerate(pieces):
        if size and size + len(piece) > window:
            yield first, number
            first, size = number, 0
        size += len(piece)
    if first < len(pieces):
        yield first, len(pieces)


def drop(
    text: str,
    question: str,
    budget: int,
    count: Count,
    protected: Protected,
    model: LanguageModel,
    tokenizer: Tokenizer,
    keep_words: float = KEEP_WORDS,
    window: int = WINDOW,
) -> Chosen:
    """Coarse to fine: of every sentence the words worth most, and of these sentences the best until the budget is full.

    A sentence is judged by what the question takes from it per token, blindly by how much it tells.

    Raises:
        KweekError: the model does not score prompts.
    """
    parts = united(segments(text), protected)
    found = surprise(text, question, model, tokenizer, window)
    needed = {n for n, part in enumerate(parts) if any(part.span.meets(span) for span in protected.needed)}
    shortened, scores = [], []
    for number, part in enumerate(parts):
        inside = [n for n, span in enumerate(found.spans) if part.span.holds(span)]
        judged = found.gained if question else found.nats
        scores.append(float(judged[inside].mean()) if inside else 0.0)
        whole = part.code or number in needed
        shortened.append([part.span] if whole else _shortened(text, found, inside, protected, keep_words))
    return Chosen(fill(text, shortened, scores, needed, budget, count), found.flop)


def _shortened(
    text: str, found: Surprise, inside: Sequence[int], protected: Protected, keep_words: float
) -> list[Span]:
    """The words of a sentence that stay."""
    held = {n: any(True for _ in meeting(found.spans[n], protected.whole)) for n in inside}
    free = [n for n in inside if not held[n]]
    worth = found.worth
    best = sorted(free, key=lambda n: (-worth[n], n))[: math.ceil(keep_words * len(free))]
    kept = {*best, *(n for n in inside if held[n])}
    run: list[int] = []
    for n in inside:  # of words between two protected spans the worthiest stays
        if held[n]:
            if run and run[0] > inside[0] and not kept.intersection(run):
                kept.add(max(run, key=lambda m: (len(text[slice(*found.spans[m])]) > 3, worth[m])))
            run = []
        else:
            run.append(n)
    return _rows(found.spans, sorted(kept))


def _rows(spans: Sequence[Span], chosen: Sequence[int]) -> list[Span]:
    """Neighbouring words as one span, with the blanks between them."""
    rows: list[Span] = []
    before: int | None = None
    for number in chosen:
        if before is not None and number == before + 1:
            rows[-1] = Span(rows[-1].start, spans[number].end)
        else:
            rows.append(spans[number])
        before = number
    return rows
