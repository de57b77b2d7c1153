"""Where batches of rollouts come from; here: sampled when asked for, by the very weights that will learn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from kweek.align.collecting import Collected, Collector
from kweek.align.curriculum import Curriculum
from kweek.protocols import LanguageModel


class Source(Protocol):
    """Gives the batches of a course one after another, and is told when the weights have changed."""

    def begin(
        self, step: int, curriculum: Curriculum, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Go on before batch `step`, from what `state` and `tensors` gave; called once, with none of it at step 0."""
        ...

    def take(self, step: int) -> Collected:
        """The batch number `step`."""
        ...

    def publish(self, step: int, curriculum: Curriculum) -> None:
        """The network now holds what was learnt from `step` batches."""
        ...

    def state(self) -> dict[str, Any]:
        """What it takes to go on, as JSON, beside `tensors`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Weights that it takes to go on; none where the trainer's own are enough."""
        ...

    def close(self) -> None:
        """End whatever still runs."""
        ...


class Synchronous:
    """Samples a batch when it is asked for.

    Args:
        collector: makes the batches.
        model: over the network that is trained; sees its weights change.
    """

    def __init__(self, collector: Collector, model: LanguageModel) -> None:
        self._collector, self._model = collector, model
        self._curriculum = Curriculum()

    def begin(
        self, step: int, curriculum: Curriculum, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """See `Source`."""
        self._curriculum = curriculum

    def take(self, step: int) -> Collected:
        """See `Source`."""
        return self._collector.collect(self._model, step, step, self._curriculum)

    def publish(self, step: int, curriculum: Curriculum) -> None:
        """See `Source`."""
        self._curriculum = curriculum

    def state(self) -> dict[str, Any]:
        """See `Source`."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""
