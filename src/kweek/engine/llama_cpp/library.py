"""llama.cpp's own C interface, from the prebuilt package xllamacpp (the extra `llama`).

The package's server draws tokens itself and gives probabilities after rounding and in JSON. The functions below it give
the logits of every row, so all that a `Request` may ask for is computed here as it is for Kweek's own networks.

Structures are passed by value, so they must be those of the very version: of llama.h in xllamacpp 2026.10.11549, read
there, and their defaults are read back as a check.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from functools import lru_cache
from pathlib import Path

from kweek.errors import KweekError

PACKAGE, VERSION = "xllamacpp", "2026.10.11549"
_FIX = "install it: pip install 'kweek[llama]'"
_DEFAULTS = (512, 2048, 512, 1)  # n_ctx, n_batch, n_ubatch, n_seq_max
_ERROR = 4  # ggml's level of messages that say why something failed


class ModelParams(ctypes.Structure):
    """`llama_model_params`."""

    _fields_ = [
        ("devices", c_void_p), ("overrides", c_void_p), ("gpu_layers", c_int32), ("split_mode", c_int),
        ("load_mode", c_int), ("lazy_mode", c_int), ("main_gpu", c_int32), ("tensor_split", c_void_p),
        ("progress", c_void_p), ("progress_data", c_void_p), ("kv_overrides", c_void_p),
        *((name, c_bool) for name in ("vocab_only", "check", "extra_buffers", "no_host", "no_alloc", "load_mtp")),
    ]  # fmt: skip


class ContextParams(ctypes.Structure):
    """`llama_context_params`."""

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
    """`llama_batch`."""

    _fields_ = [
        ("num_tokens", c_int32), ("token", c_void_p), ("embd", c_void_p), ("pos", c_void_p), ("num_seq", c_void_p),
        ("seq", POINTER(POINTER(c_int32))), ("logits", c_void_p),
    ]  # fmt: skip


#: Result and arguments of every function that is used.
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_model_free": (None, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_n_params": (c_uint64, [c_void_p]),
    "llama_model_desc": (c_int32, [c_void_p, c_char_p, c_size_t]),
    "llama_model_is_recurrent": (c_bool, [c_void_p]),
    "llama_model_is_hybrid": (c_bool, [c_void_p]),
    "llama_model_is_diffusion": (c_bool, [c_void_p]),
    "llama_model_has_encoder": (c_bool, [c_void_p]),
    "llama_model_chat_template": (c_char_p, [c_void_p, c_char_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_is_control": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool]),
    "llama_detokenize": (c_int32, [c_void_p, c_void_p, c_int32, c_char_p, c_int32, c_bool, c_bool]),
}


class Library:
    """The functions, and what llama.cpp last complained of."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.functions, name)
            function.restype, function.argtypes = result, arguments
        self.complaint = ""
        # Kept, because C holds on to it; without one llama.cpp writes some hundred lines to standard error.
        self._listener = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(self._listen)
        self.functions.llama_log_set.restype, self.functions.llama_log_set.argtypes = (
            None,
            [c_void_p, c_void_p],
        )
        self.functions.llama_log_set(ctypes.cast(self._listener, c_void_p), None)
        self.functions.llama_backend_init()

    def _listen(self, level: int, text: bytes, _: int | None) -> None:
        if level == _ERROR and not self.complaint:  # the first says why, the others what followed from it
            self.complaint = " ".join(text.decode("utf-8", "replace").split())


@lru_cache
def load() -> Library:
    """llama.cpp, ready.

    Raises:
        KweekError: the package is missing, of another version, or without these functions.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise KweekError("the llama.cpp backend needs a package that is not installed (xllamacpp)", fix=_FIX)
    found = importlib.metadata.version(PACKAGE)
    if found != VERSION:
        raise KweekError(f"the llama.cpp backend is written for {PACKAGE} {VERSION}, not {found}", fix=_FIX)
    binaries = sorted(Path(spec.origin).parent.glob("*.so")) + sorted(Path(spec.origin).parent.glob("*.pyd"))
    try:
        library = Library(binaries[0])
    except (IndexError, OSError, AttributeError) as error:
        raise KweekError(
            f"{PACKAGE} {VERSION} on this machine does not offer llama.cpp's functions ({error})",
            fix="use --backend native, or serve the file with llama.cpp itself",
        ) from error
    settings = library.functions.llama_context_default_params()
    if (settings.ctx, settings.batch, settings.ubatch, settings.seq_max) != _DEFAULTS:
        raise KweekError(f"{PACKAGE} {VERSION} has other structures than are known here", fix=_FIX)
    return library
