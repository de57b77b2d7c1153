"""What the scheduler asks of whatever computes: slots of keys and values, and calls for any mix of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kweek.engine.native.rows import Rows
from kweek.model.config import ModelConfig

#: Rows of one call: as many as keep the activations of networks of 1M to 100M parameters in a core's cache.
MAX_ROWS = 256


class Sizes(Protocol):
    """What is asked of a model's shape; a `ModelConfig` has it, and more."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    def num_flops_per_token(self, context_length: int) -> float:
        """FLOP per token of a sequence of `context_length` tokens; nan where it is not known."""
        ...

    def num_flops_decode(self, position: int) -> float:
        """FLOP of one token at `position`, those before it cached; nan where it is not known."""
        ...


@dataclass(frozen=True)
class ForeignSizes:
    """`Sizes` of a model that something else computes; FLOP are known where the layout is one that Kweek knows."""

    vocab_size: int
    max_positions: int
    config: ModelConfig | None

    def num_flops_per_token(self, context_length: int) -> float:
        """See `Sizes`."""
        return math.nan if self.config is None else self.config.num_flops_per_token(context_length)

    def num_flops_decode(self, position: int) -> float:
        """See `Sizes`."""
        return math.nan if self.config is None else self.config.num_flops_decode(position)


@dataclass(frozen=True)
class Fed:
    """Tokens that only pass through the network: those of a prompt before its last, those that a tool forces."""

    slot: int
    position: int
    token_ids: Sequence[int]


class Backend(Protocol):
    """A network with slots.

    Attributes:
        max_rows: rows and fed tokens of one call of `run`; at least `MAX_ROWS`.
        rewinds: whether a slot can go back to an earlier position; one with a recurrent state cannot.
        rides: whether a row can choose from another's logits (`rides_on`), which costs nothing.
        logits: (rows, at least V) of the last call, in the order of its rows.
        lse: (rows,) the logarithm of the sum of their exponentials, after `run`.
    """

    @property
    def config(self) -> Sizes: ...

    @property
    def num_slots(self) -> int: ...

    @property
    def max_rows(self) -> int: ...

    @property
    def rewinds(self) -> bool: ...

    @property
    def rides(self) -> bool: ...

    @property
    def logits(self) -> npt.NDArray[np.float32]: ...

    @property
    def lse(self) -> npt.NDArray[np.float32]: ...

    def reserve(self, slot: int, tokens: int) -> None:
        """Make room for so many tokens in a slot, keeping what is in it; a slot also grows as the calls below need it.

        Raises:
            MemoryError: there is none; nothing has changed then.
        """
        ...

    def release(self, slot: int) -> None:
        """Give a slot's memory back, and forget what is in it."""
        ...

    def run(self, rows: Rows, steps: int = 1, fed: Sequence[Fed] = ()) -> npt.NDArray[np.void]:
        """Up to `steps` tokens for each row (of dtype `ROW`), which then says how many came and whether it paused.

        What is fed passes through the network first, with the same call; rows and fed tokens together are at most
        `max_rows`. Slots grow as they need. Returns choices (rows, steps) of dtype `CHOICE`.
        """
        ...

    def forward(self, fed: Sequence[Fed], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """Feed at most `MAX_ROWS` tokens; logits (wanted, V), valid until the next call.

        Args:
            wanted: offsets into all that is fed, one piece after another.
        """
        ...

    def logprobs(self, targets: Sequence[int]) -> list[float]:
        """Natural-log probability of one token for each row of logits of the last `forward`."""
        ...

    def fork(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot into another."""
        ...
