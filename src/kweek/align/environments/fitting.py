"""An environment without the items that leave a model no room for an answer."""

from __future__ import annotations

from kweek.align.environment import Environment, Episode, Item, Split
from kweek.errors import DataError
from kweek.protocols import TokenInterceptor
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer


class Fitting:
    """Another environment, less what does not fit: one long prompt in a file must not end a run at its hundredth step.

    Args:
        inner: gives items and judges.
        tokenizer: of the model.
        max_positions: of the model; a prompt and one answer must fit.

    Attributes:
        too_long: ids of the items that were left out so far.
    """

    def __init__(self, inner: Environment, tokenizer: Tokenizer, max_positions: int) -> None:
        self.inner, self._tokenizer, self.max_positions = inner, tokenizer, max_positions
        self.name, self.max_new_tokens, self.max_turns = inner.name, inner.max_new_tokens, inner.max_turns
        self.too_long: set[str] = set()

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Those of the inner environment that fit, and others in place of those that do not.

        Raises:
            DataError: none fits.
        """
        asked = count
        while True:
            found = self.inner.items(key, asked, split)
            fitting = [item for item in found if self._fits(item)]
            if len(fitting) >= count or len(found) < asked:
                break
            asked += count - len(fitting)
        if not fitting:
            raise DataError(
                f"no prompt leaves room for an answer of {self.max_new_tokens} tokens in {self.max_positions} "
                "positions",
                where=self.name,
                fix="give shorter prompts, or allow fewer tokens for an answer",
            )
        return fitting[:count]

    def begin(self, item: Item) -> Episode:
        """A fresh attempt."""
        return self.inner.begin(item)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """That of the inner environment."""
        return self.inner.interceptor(tokenizer)

    def _fits(self, item: Item) -> bool:
        if item.id in self.too_long:
            return False
        room = self.max_positions - self.max_new_tokens
        if len(encode_prompt(self._tokenizer, item.messages)) <= room:
            return True
        self.too_long.add(item.id)
        return False
