"""Answers to problems with verifiable answers: one greedy answer, many samples, votes, forced beginnings."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kweek.data.stories import Problem
from kweek.errors import KweekError
from kweek.protocols import Completion, LanguageModel, Request, TokenInterceptor, Verifier
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

MAX_NEW_TOKENS = 96  # the longest right answer (four steps with the calculator) takes about 70
PromptKind = Literal["chat", "document"]


@dataclass(frozen=True)
class Outcome:
    """One attempt at one problem."""

    problem: Problem
    answer: str
    transcript: str
    correct: bool
    parsed: bool
    used_tool: bool
    num_new_tokens: int
    flop: float


@dataclass(frozen=True)
class Asker:
    """How problems are put to a model and its answers are read.

    `kind` "document" continues plain text, for a base model that has seen no chat: the last line is the answer.
    `beginning` is appended to the prompt as trusted markup (the forced-strategy control).
    """

    tokenizer: Tokenizer
    verifier: Verifier
    interceptor: TokenInterceptor | None
    kind: PromptKind = "chat"
    beginning: tuple[int, ...] = ()

    def prompt(self, question: str) -> list[int]:
        if self.kind == "document":
            return [self.tokenizer.special["<|endoftext|>"], *self.tokenizer.encode(question + "\n")]
        return [*encode_prompt(self.tokenizer, [{"role": "user", "content": question}]), *self.beginning]

    @property
    def stop_ids(self) -> frozenset[int]:
        names = ("<|im_end|>", "<|endoftext|>")
        return frozenset(self.tokenizer.special[name] for name in names)

    def request(self, item: Problem, temperature: float, seed: int) -> Request:
        return Request(
            self.prompt(item.question), MAX_NEW_TOKENS, temperature, seed, self.stop_ids, self.interceptor
        )

    def read(self, item: Problem, completion: Completion) -> Outcome:
        """Judge a completion. An answer that ran into the token limit is judged by what is there."""
        ids = [*self.beginning, *(t for t in completion.token_ids if t not in self.stop_ids)]
        if self.kind == "document":
            text = self.tokenizer.decode(ids).strip()
            answer = text.rsplit("\n", 1)[-1]
        else:
            close = self.tokenizer.special["</think>"]
            after = ids[len(ids) - ids[::-1].index(close) :] if close in ids else ids
            answer = self.tokenizer.decode(after).strip()
        score = self.verifier(answer, item.answer)
        return Outcome(
            item,
            answer,
            self.tokenizer.decode(ids),
            score.value == 1.0,
            score.parsed,
            self.tokenizer.special["<result>"] in ids,
            len(completion.token_ids),
            completion.flop,
        )


def attempt(
    model: LanguageModel,
    asker: Asker,
    items: Sequence[Problem],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    key: str = "greedy",
    max_rows: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Outcome]]:
    """`samples` attempts at every problem, in calls of at most `max_rows` rows.

    Seeds depend on `key`, the problem's content and the sample's number, so that adding problems changes
    nobody else's samples.

    Raises:
        KweekError: an attempt could not be made.
    """
    jobs = [
        (index, asker.request(item, temperature, sample_seed(key, item, number)))
        for index, item in enumerate(items)
        for number in range(samples)
    ]
    outcomes: list[list[Outcome]] = [[] for _ in items]
    for start in range(0, len(jobs), max_rows):
        part = jobs[start : start + max_rows]
        for (index, _), completion in zip(part, model.generate([r for _, r in part]), strict=True):
            if completion.error is not None:  # a failure is no wrong answer
                raise KweekError(completion.error)
            outcomes[index].append(asker.read(items[index], completion))
        if progress is not None:
            progress(min(start + max_rows, len(jobs)), len(jobs))
    return outcomes


def sample_seed(key: str, item: Problem, number: int) -> int:
    """A seed for one sample of one problem."""
    digest = hashlib.sha256(f"{key}\x1f{item.id}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def by_level(outcomes: Iterable[Outcome]) -> dict[str, list[bool]]:
    """Right or wrong under "all" and under each number of steps."""
    table: dict[str, list[bool]] = {"all": []}
    for outcome in outcomes:
        table["all"].append(outcome.correct)
        table.setdefault(str(outcome.problem.level), []).append(outcome.correct)
    return dict(sorted(table.items()))


def majority(outcomes: Sequence[Outcome]) -> bool:
    """Whether the most frequent parsed answer is right; ties go to the one that came first."""
    votes = Counter(outcome.answer for outcome in outcomes if outcome.parsed)
    if not votes:
        return False
    winner, _ = votes.most_common(1)[0]
    return next(outcome.correct for outcome in outcomes if outcome.answer == winner)


def majority_of(outcomes: Sequence[Outcome], k: int, *, draws: int = 32, seed: int = 0) -> float:
    """Expected correctness of a majority of `k` out of the given samples, over `draws` random subsets."""
    if k >= len(outcomes):
        return float(majority(outcomes))
    if k == 1:
        return float(np.mean([outcome.correct for outcome in outcomes]))
    generator = np.random.default_rng([seed, k, len(outcomes)])
    subsets = (generator.permutation(len(outcomes))[:k] for _ in range(draws))
    return float(np.mean([majority([outcomes[i] for i in subset]) for subset in subsets]))


def pass_at_k(outcomes: Sequence[Outcome], k: int) -> float:
    """Probability that at least one of `k` samples is right, from these outcomes."""
    return pass_of(sum(outcome.correct for outcome in outcomes), len(outcomes), k)


def pass_of(right: int, n: int, k: int) -> float:
    """Unbiased probability that at least one of `k` samples is right, where `right` of `n` were.

    Chen et al. 2021, arXiv 2107.03374, equation 1.
    """
    if n - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))
