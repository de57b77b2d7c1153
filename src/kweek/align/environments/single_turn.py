"""Questions with one answer each: items and a verifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kweek.align.environment import Episode, Item, Split
from kweek.align.environments.pool import Pool
from kweek.align.verifiers.function import Judge, as_verifier
from kweek.protocols import Message, Score, TokenInterceptor, Verifier
from kweek.tokenize.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256  # a short chain of thought and an answer
_END_THINK = "</think>"


def answer_of(message: Message) -> str:
    """What an assistant's message answers: its text after any thinking, empty where it has none."""
    content = message.get("content")
    return content.rpartition(_END_THINK)[2].strip() if isinstance(content, str) else ""


class OneAnswer:
    """An episode that ends with the first answer."""

    def __init__(self, item: Item, verifier: Verifier) -> None:
        self._item, self._verifier = item, verifier
        self._answer: str | None = None

    def step(self, message: Message) -> Sequence[Message]:
        """Take the answer; nothing follows."""
        if self._answer is None:
            self._answer = answer_of(message)
        return ()

    def score(self) -> Score:
        """The verifier's judgement; an episode without an answer is unreadable."""
        return (
            Score(0.0, parsed=False)
            if self._answer is None
            else self._verifier(self._answer, self._item.gold)
        )


class SingleTurn:
    """An environment of fixed items.

    Args:
        name: for records.
        items: as `Pool` takes them.
        verifier: any function `(answer, gold)`; one that is not Kweek's own runs in a process of its own.
        max_new_tokens: of an answer.
        interceptor: makes the tool that answers in the middle of an answer.

    Raises:
        DataError: no items, or one question with two golds.
    """

    max_turns = 1

    def __init__(
        self,
        name: str,
        items: Sequence[Item] | Mapping[Split, Sequence[Item]],
        verifier: Judge,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        interceptor: Callable[[Tokenizer], TokenInterceptor] | None = None,
    ) -> None:
        self.name, self.max_new_tokens = name, max_new_tokens
        self.pool = Pool(items)
        self.verifier = as_verifier(verifier)
        self._interceptor = interceptor

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Items of a split in keyed order; fewer where there are not so many. Raises DataError where there are none."""
        return self.pool.draw(key, count, split)

    def begin(self, item: Item) -> Episode:
        """A fresh attempt."""
        return OneAnswer(item, self.verifier)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """The tool that answers in the middle of an answer, if there is one."""
        return self._interceptor(tokenizer) if self._interceptor else None
