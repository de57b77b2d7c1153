"""How well search finds things in this very corpus: by words, by meaning, by both; and whether both pay.

The user's own questions are best. Without any, questions are made of the documents: a heading asks for the passage that
it stood over, or a sentence for the passage that it was taken from (the inverse cloze task of Lee, Chang & Toutanova
2019, section 4); it is removed from the passage before anything is indexed. Both favour search by words, as the author
of the question is the author of the answer: a gain of the other kind that shows in spite of it is one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import TYPE_CHECKING

import numpy as np

from kweek.errors import DataError
from kweek.protocols import Progress, silent
from kweek.stats.intervals import Interval, mean_interval, wilson
from kweek.stats.paired import Paired, paired_difference
from kweek.system.memory import analysis, vectors
from kweek.system.memory.chunks import HEADING
from kweek.system.memory.ranking import fuse
from kweek.system.memory.store import Store

if TYPE_CHECKING:
    from kweek.engine.embed import Embedder

#: Questions that are made: the interval around a share is then 5 points wide at most, to either side.
MAX_QUESTIONS = 400
#: Passages searched in: finding one of these is as hard as it gets in a folder of 15 MB.
MAX_PASSAGES = 20_000
LEAST_QUESTIONS = 20  # intervals of fewer are of no use
DEPTH = 10  # the places that count
_FUSED_DEPTH = 50
_LEAST_HEADING_WORDS, _LEAST_SENTENCE_WORDS, _LEAST_REST_WORDS = 2, 5, 8
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")

Search = Callable[[str, int], list[int]]


@dataclass(frozen=True)
class Question:
    """A question of the user: the passage sought holds `answer` (in any case) and is of `source`, where given."""

    text: str
    answer: str = ""
    source: str = ""


@dataclass(frozen=True)
class Row:
    """What one way of searching finds: shares of questions whose passage is first, or among ten; mean reciprocal rank
    (0 below the tenth place); milliseconds of the median question."""

    mode: str
    first: Interval
    among_ten: Interval
    reciprocal: Interval
    milliseconds: float


@dataclass(frozen=True)
class Appraisal:
    """The retrieval table of a corpus.

    Attributes:
        rows: by way of searching.
        questions: how many, and `made_of` what: "your questions", "headings and sentences".
        passages: searched in.
        difference: mean reciprocal rank of hybrid search less that of search by words, paired; None without an encoder.
        flop: spent on embedding.
    """

    rows: tuple[Row, ...]
    questions: int
    made_of: str
    passages: int
    difference: Paired | None
    flop: float

    @property
    def hybrid_pays(self) -> bool:
        """Whether hybrid search is better beyond chance: the whole 95% interval lies above zero."""
        return self.difference is not None and self.difference.lo > 0


@dataclass(frozen=True)
class Case:
    """A question, and what tells the passages that answer it."""

    text: str
    is_answer: Callable[[int], bool]


def appraise(
    store: Store, encoder: Embedder | None, questions: Sequence[Question] = (), *,
    max_questions: int = MAX_QUESTIONS, max_passages: int = MAX_PASSAGES, progress: Progress = silent,
) -> Appraisal:  # fmt: skip
    """Measure.

    Raises:
        DataError: fewer than twenty questions can be asked.
    """
    flop = encoder.flop if encoder else 0.0
    if encoder is not None:
        vectors.fill(store, encoder, progress)
    if questions:
        cases = [_user_case(store, question) for question in questions]
        place, matrix = store, vectors.Matrix(store) if encoder else None
    else:
        cases, place, matrix = made_cases(store, encoder, max_questions, max_passages)
    if len(cases) < LEAST_QUESTIONS:
        raise DataError(
            f"{len(cases)} questions can be asked, and fewer than {LEAST_QUESTIONS} show nothing",
            where=str(store.path),
            fix="index more documents, or give questions of your own",
        )
    searches = _searches(place, encoder, matrix)
    ranks: dict[str, list[float]] = {}
    rows = []
    for number, (mode, search) in enumerate(searches.items()):
        progress(number, len(searches), f"asking by {mode}")
        ranks[mode], row = _ask(mode, search, cases)
        rows.append(row)
    difference = paired_difference(ranks["hybrid"], ranks["bm25"]) if "hybrid" in ranks else None
    spent = encoder.flop - flop if encoder else 0.0
    made_of = "your questions" if questions else "headings and sentences"
    return Appraisal(tuple(rows), len(cases), made_of, place.num_chunks, difference, spent)


def _ask(mode: str, search: Search, cases: Sequence[Case]) -> tuple[list[float], Row]:
    reciprocal, took = [], []
    for case in cases:
        began = time.perf_counter()
        found = search(case.text, DEPTH)
        took.append(time.perf_counter() - began)
        rank = next((rank for rank, chunk in enumerate(found, start=1) if case.is_answer(chunk)), 0)
        reciprocal.append(1 / rank if rank else 0.0)
    first = wilson(sum(value == 1 for value in reciprocal), len(cases))
    among = wilson(sum(value > 0 for value in reciprocal), len(cases))
    return reciprocal, Row(mode, first, among, mean_interval(reciprocal), 1000 * float(np.median(took)))


def _searches(store: Store, encoder: Embedder | None, matrix: vectors.Matrix | None) -> dict[str, Search]:
    """The ways of searching that there are."""

    def words(question: str, k: int) -> list[int]:
        sought = " OR ".join(f'"{word}"' for word in analysis.asked(question))
        statement = "select rowid from words where words match ? order by rank limit ?"
        return [chunk for (chunk,) in store.all(statement, (sought, k))] if sought else []

    if encoder is None or matrix is None:
        return {"bm25": words}

    def meaning(question: str, k: int) -> list[int]:
        vector = vectors.unit(encoder.embed([question], truncate=True))[0]
        return [chunk for chunk, _ in matrix.search(vector, k)]

    def both(question: str, k: int) -> list[int]:
        return [
            chunk for chunk, _ in fuse([words(question, _FUSED_DEPTH), meaning(question, _FUSED_DEPTH)], k)
        ]

    return {"bm25": words, "dense": meaning, "hybrid": both}


def _user_case(store: Store, question: Question) -> Case:
    statement = (
        "select 1 from chunks c where c.id = ? and (? = '' or exists "
        "(select 1 from sources s where s.document = c.document and s.shown = ?))"
    )
    sought = question.answer.casefold()

    def is_answer(chunk: int) -> bool:
        if store.one(statement, (chunk, question.source, question.source)) is None:
            return False
        text: bytes = store.one("select text from chunks where id = ?", (chunk,))
        return sought in text.decode("utf-8").casefold()

    return Case(question.text, is_answer)


def made_cases(
    store: Store, encoder: Embedder | None, max_questions: int, max_passages: int
) -> tuple[list[Case], Store, vectors.Matrix | None]:
    """Questions made of the corpus, the passages without them, and their vectors."""
    rows = store.all(  # in the order of their hashes, which is none that means anything
        "select c.id, c.text from chunks c join documents d on d.id = c.document where d.kind != 'note' "
        "order by c.sha256 limit ?",
        (max_passages,),
    )
    place = Store(":memory:")
    cases: list[Case] = []
    numbers: dict[
        int, int
    ] = {}  # of a chunk there: in a fresh file a document of one chunk has the chunk's number
    rests: dict[int, str] = {}
    with place.change():
        for chunk, piece in rows:
            made = question_of(piece.decode("utf-8")) if len(cases) < max_questions else None
            rest = piece if made is None else made[1].encode("utf-8")
            numbers[chunk] = place.add_document(str(chunk), rest, [(0, len(rest))], kind="text")
            if made is not None:
                rests[numbers[chunk]] = made[1]
                cases.append(Case(made[0], partial(eq, numbers[chunk])))
    return cases, place, _matrix(store, encoder, numbers, rests)


def _matrix(
    store: Store, encoder: Embedder | None, numbers: dict[int, int], rests: dict[int, str]
) -> vectors.Matrix | None:
    """The vectors of some chunks under other numbers, of those that a question was taken from without it."""
    if encoder is None:
        return None
    matrix = vectors.Matrix(store)
    renamed = np.fromiter(
        (numbers.get(int(chunk), 0) for chunk in matrix.chunks_N), np.int64, len(matrix.chunks_N)
    )
    kept = (renamed > 0) & ~np.isin(renamed, list(rests))
    fresh = vectors.unit(encoder.embed(list(rests.values()), truncate=True))
    matrix.chunks_N = np.concatenate([renamed[kept], np.array(list(rests), dtype=np.int64)])
    matrix.vectors_ND = np.concatenate([matrix.vectors_ND[kept], fresh])
    return matrix


def question_of(text: str) -> tuple[str, str] | None:
    """A question whose answer is the passage, and the passage without it; None where it makes none.

    >>> question_of("# Opening hours\\nThe museum opens at nine every day, on Sundays at noon, and closes at six.")
    ('Opening hours', 'The museum opens at nine every day, on Sundays at noon, and closes at six.')
    """
    heading = HEADING.match(text.encode("utf-8"))
    if heading is not None:
        title = heading[0].decode("utf-8")
        rest = text[len(title) :].strip()
        if len(analysis.asked(title)) >= _LEAST_HEADING_WORDS and len(rest.split()) >= _LEAST_REST_WORDS:
            return title.lstrip("# "), rest
    sentences = [
        match for match in _SENTENCE.finditer(text) if len(analysis.asked(match[0])) >= _LEAST_SENTENCE_WORDS
    ]
    if not sentences:
        return None
    chosen = sentences[len(text) % len(sentences)]  # any; the same every time
    rest = (text[: chosen.start()] + text[chosen.end() :]).strip()
    return (chosen[0].strip(), rest) if len(rest.split()) >= _LEAST_REST_WORDS else None
