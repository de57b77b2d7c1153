"""llama.cpp by its C interface, from the prebuilt package xllamacpp: nothing between its decode call and the clock.

The structures are those of llama.h in xllamacpp 2026.10.11549; their defaults are read back and checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np

VERSION = "2026.10.11549"
F32, F16, Q8_0 = 0, 1, 8  # ggml types of the cache


class ModelParams(ctypes.Structure):
    _fields_ = [
        ("devices", c_void_p), ("overrides", c_void_p), ("gpu_layers", c_int32), ("split_mode", c_int),
        ("load_mode", c_int), ("lazy_mode", c_int), ("main_gpu", c_int32), ("tensor_split", c_void_p),
        ("progress", c_void_p), ("progress_data", c_void_p), ("kv_overrides", c_void_p),
        *((name, c_bool) for name in ("vocab_only", "check", "extra_buffers", "no_host", "no_alloc", "load_mtp")),
    ]  # fmt: skip


class ContextParams(ctypes.Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("ctx", "batch", "ubatch", "seq_max", "rs_seq", "outputs", "outputs_seq")),
        ("threads", c_int32), ("threads_batch", c_int32),
        *((name, c_int) for name in ("type", "rope", "pooling", "attention", "flash")),
        *((name, c_float) for name in ("base", "scale", "ext", "attn", "fast", "slow")),
        ("orig", c_uint32), ("defrag", c_float), ("eval", c_void_p), ("eval_data", c_void_p),
        ("type_k", c_int), ("type_v", c_int), ("moe_cache", c_size_t), ("abort", c_void_p), ("abort_data", c_void_p),
        *((name, c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "unified")),
        ("samplers", c_void_p), ("num_samplers", c_size_t), ("other", c_void_p),
    ]  # fmt: skip


class Batch(ctypes.Structure):
    _fields_ = [
        ("num_tokens", c_int32), ("token", c_void_p), ("embd", c_void_p), ("pos", c_void_p), ("num_seq", c_void_p),
        ("seq", POINTER(POINTER(c_int32))), ("logits", c_void_p),
    ]  # fmt: skip


def available() -> bool:
    """Whether the peer is installed."""
    return find_spec("xllamacpp") is not None


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
        import xllamacpp

        if xllamacpp.__version__ != VERSION:
            raise RuntimeError(f"written for xllamacpp {VERSION}, found {xllamacpp.__version__}")
        library = ctypes.CDLL(next(str(p) for p in Path(xllamacpp.__file__).parent.glob("*.so")))
        library.llama_model_default_params.restype = ModelParams
        library.llama_context_default_params.restype = ContextParams
        for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_get_memory"):
            getattr(library, name).restype = c_void_p
        library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, ModelParams]
        library.llama_init_from_model.argtypes = [c_void_p, ContextParams]
        library.llama_decode.argtypes = [c_void_p, Batch]
        library.llama_get_memory.argtypes = library.llama_free.argtypes = (
            library.llama_model_free.argtypes
        ) = [c_void_p]
        library.llama_memory_clear.argtypes = [c_void_p, c_bool]
        library.llama_get_logits_ith.argtypes, library.llama_get_logits_ith.restype = (
            [c_void_p, c_int32],
            POINTER(c_float),
        )
        self._library = library
        library.llama_backend_init()
        params = library.llama_model_default_params()
        self._model = library.llama_model_load_from_file(str(path).encode(), params)
        settings = library.llama_context_default_params()
        if (settings.ctx, settings.batch, settings.ubatch) != (512, 2048, 512):
            raise RuntimeError("llama.cpp's structures are not those that this file was written for")
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

    def close(self) -> None:
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
