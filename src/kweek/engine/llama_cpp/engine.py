"""A GGUF file as a `LanguageModel`, computed by llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kweek.engine.batch import BatchEngine
from kweek.engine.llama_cpp.backend import LlamaBackend
from kweek.engine.llama_cpp.model import LlamaModel
from kweek.engine.scheduler import Scheduler
from kweek.errors import CheckpointError
from kweek.model.config import ModelConfig
from kweek.model.gguf import config_of
from kweek.model.gguf_file import GGUFFile
from kweek.protocols import ShouldStop, never

NUM_SLOTS = 8  # sequences at once: their keys and values take memory before they are used
CONTEXT = 4096  # tokens of a sequence, for the same reason; at most what the file names


class LlamaCppEngine(BatchEngine):
    """A `LanguageModel` over a GGUF file; every field of a `Request` means what it means to `Engine`.

    Log-probabilities are the model's own, before bias, mask and truncation, because llama.cpp only computes logits. A
    budget in FLOP is refused where Kweek does not know the layout and so not its cost; FLOP are then nan.

    Args:
        path: of the file.
        num_slots, context: sequences at once, and tokens of each.
        threads, exact: see `LlamaBackend`.
    """

    def __init__(
        self,
        path: Path,
        *,
        should_stop: ShouldStop = never,
        token_bytes: Sequence[bytes] | None = None,
        num_slots: int = NUM_SLOTS,
        context: int = CONTEXT,
        threads: int = 1,
        exact: bool = False,
    ) -> None:
        super().__init__(num_slots, 1, should_stop=should_stop, token_bytes=token_bytes)
        self.model = LlamaModel(path)
        if token_bytes is None:
            self._token_bytes = [self.model.piece(token) for token in range(self.model.vocab_size)]
        self.backend = LlamaBackend(
            self.model, _config(path), num_slots=num_slots + 1, context=context, threads=threads, exact=exact
        )

    def _current(self) -> Scheduler:
        """See `BatchEngine`; weights in a file do not change."""
        if self._scheduler is None:
            self._scheduler = Scheduler(self.backend, self._num_slots, self._token_bytes)
        return self._scheduler


def _config(path: Path) -> ModelConfig | None:
    """The network's shape, None where Kweek does not know the layout."""
    try:
        with GGUFFile(path) as file:
            return config_of(file)
    except CheckpointError:
        return None
