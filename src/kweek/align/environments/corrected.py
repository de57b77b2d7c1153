"""Second thoughts: after a wrong answer the model is told so, and may answer again for less."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kweek.align.environment import Environment, Episode, Item, Split
from kweek.errors import ConfigError
from kweek.protocols import Message, Score, TokenInterceptor
from kweek.tokenize.tokenizer import Tokenizer

DISCOUNT = 0.5  # a second answer is worth half a first: guessing on is then never better than thinking first


def hint(score: Score) -> str:
    """What the model is told after an answer that was not right; nothing of the right one."""
    if not score.parsed:
        return "That cannot be read as an answer. Give the answer alone, in the form that was asked for."
    return "That is not right. Look for the mistake and answer again."


class Corrected:
    """An environment of one answer, with further tries after the verifier's hint.

    Args:
        inner: gives items and judges answers.
        max_turns: answers in all.
        discount: of the value for every further answer, in [0, 1].
        hint: of the judgement to what the model is told. It must not tell the right answer.

    Raises:
        ConfigError: the inner environment has several turns already, or a number that cannot be meant.
    """

    def __init__(
        self,
        inner: Environment,
        *,
        max_turns: int = 2,
        discount: float = DISCOUNT,
        hint: Callable[[Score], str] = hint,
    ) -> None:
        if inner.max_turns != 1:
            raise ConfigError(f"{inner.name} has several turns already")
        if max_turns < 2 or not 0 <= discount <= 1:
            raise ConfigError("second thoughts need at least two turns and a discount from 0 to 1")
        self.inner, self.max_turns, self._discount, self._hint = inner, max_turns, discount, hint
        self.name, self.max_new_tokens = f"{inner.name}, corrected", inner.max_new_tokens

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Those of the inner environment."""
        return self.inner.items(key, count, split)

    def begin(self, item: Item) -> Episode:
        """A fresh attempt."""
        return _Attempt(self, item)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """That of the inner environment."""
        return self.inner.interceptor(tokenizer)

    def worth(self, turn: int) -> float:
        """Factor on the value of the answer number `turn`, from 1."""
        return float(self._discount ** (turn - 1))

    def told(self, score: Score) -> Message:
        """The message after an answer that was not right."""
        return {"role": "user", "content": self._hint(score)}


class _Attempt:
    def __init__(self, environment: Corrected, item: Item) -> None:
        self._environment, self._item = environment, item
        self._scores: list[Score] = []

    def step(self, message: Message) -> Sequence[Message]:
        """Judge the answer; unless it is right, or the last, it may be corrected."""
        if self._ended:
            return ()
        attempt = self._environment.inner.begin(self._item)
        attempt.step(message)
        self._scores.append(attempt.score())
        return () if self._ended else (self._environment.told(self._scores[-1]),)

    @property
    def _ended(self) -> bool:
        if not self._scores:
            return False
        last = self._scores[-1]
        return last.value >= 1.0 or last.error is not None or len(self._scores) >= self._environment.max_turns

    def score(self) -> Score:
        """The last answer's value, less the more answers it took. Parts: "turns", and "first", the first one's."""
        if not self._scores:
            return Score(0.0, parsed=False)
        last, turns = self._scores[-1], len(self._scores)
        parts = {**last.parts, "turns": float(turns), "first": self._scores[0].value}
        return Score(last.value * self._environment.worth(turns), last.parsed, last.error, parts)
