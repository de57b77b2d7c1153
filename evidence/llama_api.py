"""llama.cpp by its C interface, from the prebuilt package xllamacpp: nothing between its decode call and the clock.

The structures and functions are those of the llama.cpp backend; its messages are kept quiet there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_int32, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kweek.engine.llama_cpp.library import PACKAGE, Batch, load

F32, F16, Q8_0 = 0, 1, 8  # ggml types of the cache


def available() -> bool:
    """Whether the peer is installed."""
    return find_spec(PACKAGE) is not None


class LlamaCpp:
    """A GGUF file in llama.cpp, at its best setting: flash attention on unless told otherwise, a cache per sequence."""

    def __init__(
        self,
        path: Path,
        *,
        sequences: int = 1,
        context: int = 128,
        threads: int = 1,
        flash: bool = True,
        cache_type: int = F16,
        rows: int = 512,
    ) -> None:
        library = load().functions
        library.llama_memory_clear.argtypes = [c_void_p, c_bool]
        library.llama_get_logits_ith.argtypes = [c_void_p, c_int32]
        library.llama_get_logits_ith.restype = POINTER(ctypes.c_float)
        self._library = library
        params = library.llama_model_default_params()
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        settings = library.llama_context_default_params()
        settings.ctx, settings.batch, settings.ubatch = sequences * context, rows, rows
        settings.seq_max, settings.unified, settings.no_perf = sequences, False, True
        settings.threads = settings.threads_batch = threads
        settings.flash, settings.type_k, settings.type_v = int(flash), cache_type, cache_type
        self._context = library.llama_init_from_model(self._model, settings)
        if not self._model or not self._context:
            raise RuntimeError("llama.cpp could not load the file")
        self._arrays = [np.zeros(rows, np.int32) for _ in range(4)]
        self._wanted = np.zeros(rows, np.int8)
        tokens, positions, counts, sequence = self._arrays
        counts[:] = 1
        pointers = (POINTER(c_int32) * rows)()
        for i in range(rows):
            pointers[i] = ctypes.cast(sequence.ctypes.data + 4 * i, POINTER(c_int32))
        self._pointers = pointers
        self._batch = Batch(
            0,
            tokens.ctypes.data,
            None,
            positions.ctypes.data,
            counts.ctypes.data,
            pointers,
            self._wanted.ctypes.data,
        )

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[int]
    ) -> None:
        """One call over rows; `wanted` is 1 for the rows whose logits are computed."""
        count = len(tokens)
        self._arrays[0][:count], self._arrays[1][:count], self._arrays[3][:count] = (
            tokens,
            positions,
            sequences,
        )
        self._wanted[:count] = wanted
        self._batch.num_tokens = count
        if self._library.llama_decode(self._context, self._batch):
            raise RuntimeError("llama_decode failed")

    def logits(self, row: int, vocab_size: int) -> np.ndarray:
        """(V,) of a row of the last call."""
        return np.ctypeslib.as_array(
            self._library.llama_get_logits_ith(self._context, row), (vocab_size,)
        ).copy()

    def clear(self) -> None:
        """Forget all sequences."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

    def forget_after(self, sequence: int, length: int) -> None:
        """Keep the first `length` tokens of a sequence."""
        memory = self._library.llama_get_memory(self._context)
        if not self._library.llama_memory_seq_rm(memory, sequence, length, -1):
            raise RuntimeError("llama.cpp could not shorten a sequence")

    def close(self) -> None:
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
