"""llama.cpp as a `Backend`: it computes logits, tokens are drawn here by the rule of `Request`.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_int32

import numpy as np
import numpy.typing as npt
import torch

from kweek.engine.backend import MAX_ROWS, Fed, ForeignSizes
from kweek.engine.choosing import take
from kweek.engine.llama_cpp.library import Batch
from kweek.engine.llama_cpp.model import LlamaModel
from kweek.engine.native.rows import CHOICE, Rows
from kweek.errors import KweekError
from kweek.model.config import ModelConfig

_F32, _F16 = 0, 1  # ggml's types
_FLASH_AUTO, _FLASH_OFF = -1, 0


class LlamaBackend:
    """Slots over one llama.cpp context.

    Args:
        model: opened by llama.cpp.
        config: of the same file where Kweek knows its layout, for FLOP.
        num_slots: sequences held at once; each gets its own keys and values in advance.
        context: positions of a slot; at most those that the file names.
        threads: of llama.cpp. 1 because its threads spin, and two on one core are a thousand times slower than one.
        exact: no flash attention, which rounds to fp16 inside, and keys and values in fp32.
    """

    max_rows, rides = MAX_ROWS, False

    def __init__(
        self,
        model: LlamaModel,
        config: ModelConfig | None,
        *,
        num_slots: int,
        context: int,
        threads: int = 1,
        exact: bool = False,
    ) -> None:
        self.model, self.num_slots, self.rewinds = model, num_slots, model.rewinds
        functions = self._functions = model.functions
        context = min(context, model.trained_positions)
        settings = functions.llama_context_default_params()
        settings.ctx, settings.batch, settings.ubatch = num_slots * _padded(context), MAX_ROWS, MAX_ROWS
        settings.seq_max, settings.unified, settings.swa_full = num_slots, False, True
        settings.threads = settings.threads_batch = threads
        settings.no_perf = True
        settings.flash = _FLASH_OFF if exact else _FLASH_AUTO
        settings.type_k = settings.type_v = _F32 if exact else _F16
        model.library.complaint = ""
        self._context = functions.llama_init_from_model(model.handle, settings)
        if not self._context:
            raise KweekError(
                f"llama.cpp makes no room for {num_slots} sequences of {context} tokens: "
                f"{model.library.complaint or 'it does not say why'}",
                where=str(model.path),
                fix="ask for a shorter context",
            )
        self._memory = functions.llama_get_memory(self._context)
        positions = min(context, int(functions.llama_n_ctx_seq(self._context)))
        self.config = ForeignSizes(model.vocab_size, positions, config)
        self.logits = np.zeros((0, model.vocab_size), np.float32)
        self.lse = np.zeros(0, np.float32)
        self._ends = [0] * num_slots  # positions that each slot holds
        self._arrays = [np.zeros(MAX_ROWS, np.int32) for _ in range(4)]
        self._wanted = np.zeros(MAX_ROWS, np.int8)
        self._batch = self._tie()

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._functions.llama_free(self._context)

    def _tie(self) -> Batch:
        """A batch that reads from the arrays of this object."""
        tokens, positions, counts, slots = self._arrays
        counts[:] = 1
        self._pointers = (POINTER(c_int32) * MAX_ROWS)()
        for i in range(MAX_ROWS):
            self._pointers[i] = ctypes.cast(slots.ctypes.data + 4 * i, POINTER(c_int32))
        return Batch(
            0, tokens.ctypes.data, None, positions.ctypes.data, counts.ctypes.data, self._pointers,
            self._wanted.ctypes.data,
        )  # fmt: skip

    def reserve(self, slot: int, tokens: int) -> None:
        """See `Backend`; every slot has had its memory from the beginning."""

    def release(self, slot: int) -> None:
        """See `Backend`; the memory of one slot cannot be given back alone."""

    def run(self, rows: Rows, steps: int = 1, fed: Sequence[Fed] = ()) -> npt.NDArray[np.void]:
        """See `Backend`."""
        choices = np.zeros((len(rows), steps), CHOICE)
        rows["produced"], rows["done"] = 0, rows["remaining"] <= 0
        waiting = list(fed)
        for _ in range(steps):
            active = np.flatnonzero(rows["done"] == 0)
            if not len(active) and not waiting:
                break
            now = [Fed(int(row["slot"]), int(row["position"]), [int(row["token"])]) for row in rows[active]]
            before = sum(len(piece.token_ids) for piece in waiting)
            self.logits = self._decode([*waiting, *now], range(before, before + len(now)))
            waiting = []
            self.lse = torch.from_numpy(self.logits).logsumexp(-1).numpy()
            take(rows, active.tolist(), self.logits, self.lse, choices)
        return choices

    def forward(self, fed: Sequence[Fed], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        self.logits = self._decode(fed, wanted)
        return self.logits

    def logprobs(self, targets: Sequence[int]) -> list[float]:
        """See `Backend`."""
        table_BV = torch.from_numpy(self.logits[: len(targets)]).log_softmax(-1)
        return [float(value) for value in table_BV.gather(-1, torch.tensor(targets)[:, None])[:, 0]]

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        # Between separate caches llama.cpp copies all or nothing.
        self._functions.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._ends[target] = self._ends[source]
        self._rewind(target, length)

    def _rewind(self, slot: int, length: int) -> None:
        """Keep the first `length` positions of a slot."""
        if length >= self._ends[slot]:
            return
        if not self._functions.llama_memory_seq_rm(self._memory, slot, length or -1, -1):
            raise KweekError("llama.cpp cannot take this model back to an earlier token")
        self._ends[slot] = length

    def _decode(self, fed: Sequence[Fed], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """One call over all tokens; logits (wanted, V), a copy."""
        count = sum(len(piece.token_ids) for piece in fed)
        if count > MAX_ROWS:
            raise ValueError(f"{count} tokens are more than {MAX_ROWS}")
        tokens, positions, _, slots = self._arrays
        at = 0
        for piece in fed:
            end = at + len(piece.token_ids)
            if piece.position < self._ends[piece.slot]:
                self._rewind(piece.slot, piece.position)
            tokens[at:end], slots[at:end] = piece.token_ids, piece.slot
            positions[at:end] = range(piece.position, piece.position + len(piece.token_ids))
            self._ends[piece.slot] = piece.position + len(piece.token_ids)
            at = end
        self._wanted[:count] = 0
        self._wanted[list(wanted)] = 1
        self._batch.num_tokens = count
        self.model.library.complaint = ""
        if (status := self._functions.llama_decode(self._context, self._batch)) != 0:
            why = self.model.library.complaint or "no room for keys and values"
            raise KweekError(f"llama.cpp failed with status {status}: {why}", where=str(self.model.path))
        shape = (len(wanted), self.model.vocab_size)
        if not shape[0]:
            return np.zeros(shape, np.float32)
        found = self._functions.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, shape).copy()


def _padded(context: int) -> int:
    """What llama.cpp makes of a context: a multiple of 256."""
    return -(-context // 256) * 256
