"""Models by role: what generates or judges, how it reads and writes, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kweek.compute.energy import WATTS_PER_BUSY_CORE
from kweek.compute.money import Prices
from kweek.engine.open import open_model
from kweek.errors import KweekError
from kweek.model.scorer import Scorer, scores
from kweek.protocols import LanguageModel, Message, TokenInterceptor
from kweek.system.cost import Cost
from kweek.system.interceptors import interceptor_of
from kweek.tokenize.chat import END_THINK, THINK, encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

Ids = Sequence[int]


class Counts(Protocol):
    """What a token costs; a `ModelConfig` and the sizes of every engine say so."""

    def num_flops_per_token(self, context_length: int) -> float:
        """FLOP per token of a sequence of `context_length` tokens; nan where nobody knows."""
        ...

    def num_flops_decode(self, position: int) -> float:
        """FLOP of one token at `position`, those before it cached; nan where nobody knows."""
        ...


@dataclass(frozen=True)
class Role:
    """A language model in a role.

    Attributes:
        model, tokenizer: what generates and scores.
        counts: what its tokens cost; None where nobody knows.
        max_positions: tokens that prompt and answer may take together.
        interceptor: the tool that answers in mid-generation, where the model was taught one.
        max_new_tokens: of one generation, where the scaffold does not say.
        temperature: likewise; 1 samples from the model as it is, which votes and verifiers live on.
        prices: None counts no money.
        shares_prompt: whether samples of one call read their prompt once, as our engine does.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    counts: Counts | None
    max_positions: int
    interceptor: TokenInterceptor | None = None
    max_new_tokens: int = 256
    temperature: float = 1.0
    prices: Prices | None = None
    shares_prompt: bool = False

    @classmethod
    def open(cls, where: Path, **more: Any) -> Role:
        """A model folder or file, opened by our engine with what it decides by itself; `more` as the attributes.

        Raises as `open_model`.
        """
        found = open_model(where)
        tool = interceptor_of(where, found.tokenizer)
        return cls(
            found.model, found.tokenizer, found.sizes, found.max_positions,
            **{"interceptor": tool, "shares_prompt": True, **more},
        )  # fmt: skip

    def encode(
        self, prompt: Sequence[Message] | Ids, think: bool | None = None, tools: Any = ()
    ) -> list[int]:
        """Ids of a chat up to where the model begins to write; ids are taken as they are.

        Raises as `encode_prompt`.
        """
        ids = [one for one in prompt if isinstance(one, int)]
        messages = [one for one in prompt if not isinstance(one, int)]
        return encode_prompt(self.tokenizer, messages, think=think, tools=tools) if messages else ids

    def is_thinking(self, prompt_ids: Ids) -> bool:
        """Whether a prompt ends inside the model's thoughts."""
        opening, closing = (self.tokenizer.special.get(name) for name in (THINK, END_THINK))
        last = next((index for index in reversed(prompt_ids) if index in (opening, closing)), None)
        return last is not None and last == opening

    def most(self, num_prompt: int, num_new: int, count: int = 1) -> Cost:
        """The most that generations from one prompt cost.

        Args:
            num_prompt: its tokens.
            num_new: new tokens of each.
            count: generations.
        """
        read, flop, unknown = count * num_prompt, 0.0, 0
        if self.counts is None:
            unknown = count
        else:
            reading = num_prompt * self.counts.num_flops_per_token(num_prompt)
            first = self.counts.num_flops_decode(0)
            slope = self.counts.num_flops_decode(1) - first
            steps = max(0, num_new - 1)  # the first new token comes with the prompt
            writing = first * steps + slope * sum(range(num_prompt, num_prompt + steps))
            flop = (reading if self.shares_prompt else count * reading) + count * writing
            if math.isnan(flop):
                flop, unknown = 0.0, count
        money = self.remote_money(read, count * num_new)
        return Cost(flop, unknown, read, 0, count * num_new, 0.0, 0.0, money)

    def reading(self, lengths: Sequence[int]) -> Cost:
        """What it costs to score texts of so many tokens."""
        if self.counts is None:
            flop = math.nan
        else:
            flop = sum(length * self.counts.num_flops_per_token(length) for length in lengths)
        known = not math.isnan(flop)
        read = sum(lengths)
        money = self.remote_money(read, 0)
        return Cost(flop if known else 0.0, 0 if known else len(lengths), read, money=money)

    def with_money(self, cost: Cost, seconds: float) -> Cost:
        """A cost with the time that the call took, and what that costs on this machine."""
        own = 0.0
        if self.prices is not None and not self._is_remote:
            own = self.prices.own(seconds * WATTS_PER_BUSY_CORE, seconds)
        return cost + Cost(seconds=seconds, money=own)

    def new_tokens_for(self, money: float, num_prompt: int) -> float:
        """New tokens that so much money pays for, after the prompt; infinitely many where tokens have no price."""
        if self.prices is None or not self._is_remote or not self.prices.million_written:
            return math.inf
        return max(0.0, (money - self.remote_money(num_prompt, 0)) * 1e6 / self.prices.million_written)

    @property
    def _is_remote(self) -> bool:
        return self.prices is not None and self.prices.million_read is not None

    def remote_money(self, num_read: float, num_written: float) -> float:
        """What a remote model's tokens cost; 0 for one on this machine."""
        return 0.0 if self.prices is None else self.prices.remote(num_read, num_written) or 0.0


@dataclass(frozen=True)
class Judge:
    """A model that gives a number to a text: a reward model, or one that judges the steps of a solution.

    Attributes:
        judge: a number for each sequence of token ids, larger is better.
        tokenizer: its own; ids of another vocabulary mean nothing to it.
        counts: what its tokens cost; None where nobody knows.
    """

    judge: Callable[[Sequence[Ids]], list[float]]
    tokenizer: Tokenizer
    counts: Counts | None

    @classmethod
    def of(cls, scorer: Scorer, tokenizer: Tokenizer) -> Judge:
        """A trained scorer; of one per token the last token's number counts, where a step ends."""

        pad = None if scorer.config.per_token else scorer.config.pad_token_id

        def judge(sequences: Sequence[Ids]) -> list[float]:
            whole = [list(one[:-1] if one[-1] == pad else one) for one in sequences]
            return [
                float(values.reshape(-1, scorer.config.num_labels)[-1, 0]) for values in scores(scorer, whole)
            ]

        return cls(judge, tokenizer, scorer.config)

    def reading(self, lengths: Sequence[int]) -> Cost:
        """What it costs to judge texts of so many tokens."""
        if self.counts is None:
            return Cost(num_unknown=len(lengths), tokens_in=sum(lengths))
        flop = sum(length * self.counts.num_flops_per_token(length) for length in lengths)
        return Cost(flop, tokens_in=sum(lengths))


Found = TypeVar("Found")


def find(roles: Mapping[str, object], name: str, kind: type[Found]) -> Found:
    """The role of a name. Raises KweekError naming those that there are."""
    found = roles.get(name)
    if not isinstance(found, kind):
        known = ", ".join(sorted(key for key, one in roles.items() if isinstance(one, kind))) or "none"
        what = "language model" if kind is Role else "judge"
        raise KweekError(
            f"the system has no {what} in the role {name!r}", fix=f"give it one; there are: {known}"
        )
    return found
