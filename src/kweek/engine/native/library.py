"""Finding or building the native library, and the functions in it.

One shared library per instruction set, from the same source: "avx512" (with VNNI), "avx2", and "portable", which on
64-bit Arm is NEON, with dot products where the processor has them. A wheel carries them ready. In a checkout the
first use compiles the one that this processor wants, with the C compiler that is there, into the user's cache;
without a compiler `load` says so and the caller stays with torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from kweek.compute.hardware import detect
from kweek.engine.native.build import (
    FLAGS,
    FLAGS_OF_TARGET,
    SOURCES,
    NoCompiler,
    compile_library,
    file_name,
    find_compiler,
)
from kweek.errors import KweekError

#: What a processor must have for each instruction set (names of `kweek.compute.hardware`), best first.
NEEDED: dict[str, frozenset[str]] = {
    "avx512": frozenset({"avx512", "avx512_vnni", "fma", "f16c"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "portable": frozenset(),
}


class Matrix(ctypes.Structure):
    """`kw_matrix`."""

    _fields_ = [
        ("type", ctypes.c_int32),
        ("num_out", ctypes.c_int32),
        ("num_in", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    ]


class Layer(ctypes.Structure):
    """`kw_layer`."""

    _fields_ = [
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("norm1", "norm2", "q_norm", "k_norm")),
    ]


class Model(ctypes.Structure):
    """`kw_model`."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                *("num_layers", "width", "num_heads", "num_kv_heads", "head_dim", "ffn", "vocab", "kv"),
            )
        ),
        ("epsilon", ctypes.c_float),
        ("embedding", ctypes.POINTER(Matrix)),
        ("head", ctypes.POINTER(Matrix)),
        ("layers", ctypes.POINTER(Layer)),
        *((name, ctypes.c_void_p) for name in ("final_norm", "cosines", "sines")),
    ]


class Row(ctypes.Structure):
    """`kw_row`."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("slot", "position", "token", "remaining", "top_k")),
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p")),
        *((name, ctypes.c_int32) for name in ("produced", "done", "rides_on", "unused")),
        *((name, ctypes.c_void_p) for name in ("uniforms", "events", "allowed", "bias")),
    ]


def target_for(features: frozenset[str]) -> str:
    """The best instruction set that a processor with these features runs."""
    return next(name for name, needed in NEEDED.items() if needed <= features)


@lru_cache
def load(target: str | None = None) -> ctypes.CDLL:
    """The library for this processor, or for a named instruction set.

    Raises:
        KweekError: it is not in the package, and there is no C compiler or it failed.
    """
    name = target or target_for(detect().features)
    shipped = Path(__file__).with_name(file_name(name))
    path = shipped if shipped.exists() else compiled(name)
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.kw_slot_bytes.restype = library.kw_work_bytes.restype = ctypes.c_size_t
    library.kw_scratch_new.restype = pointer
    library.kw_scratch_new.argtypes = [pointer, integer, integer, integer]
    library.kw_slot_bytes.argtypes = [pointer, integer]
    library.kw_work_bytes.argtypes = library.kw_scratch_free.argtypes = [pointer]
    library.kw_scratch_free.restype = library.kw_step.restype = library.kw_copy.restype = None
    library.kw_step.argtypes = [*(pointer,) * 3, integer, *(pointer,) * 3, integer, pointer, pointer, integer]
    library.kw_copy.argtypes = [pointer, pointer, integer, pointer, integer, integer, integer]
    library.kw_logprobs.restype = None
    library.kw_logprobs.argtypes = [pointer, integer, pointer, integer, pointer, pointer, pointer]
    library.kw_run.argtypes = [
        *(pointer,) * 3, integer, pointer, integer, integer, *(pointer,) * 5, integer, pointer, pointer,
    ]  # fmt: skip
    return library


def available() -> bool:
    """Whether this machine generates with the library; else torch does, several times slower."""
    try:
        load()
    except KweekError:
        return False
    return True


def compiled(target: str, compiler: Sequence[str] | None = None) -> Path:
    """The library for an instruction set, compiled into the user's cache unless it is there; returns its path.

    Raises:
        KweekError: there is no C compiler, or it failed.
    """
    here = Path(__file__).parent
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kweek"
    try:
        words = list(compiler or find_compiler("native"))
        digest = hashlib.sha256(repr((words, FLAGS, FLAGS_OF_TARGET[target])).encode())
        for name in SOURCES:
            digest.update((here / name).read_bytes())
        path = cache / digest.hexdigest()[:16] / file_name(target)
        if not path.exists():
            compile_library(here, target, words, path)
    except NoCompiler as error:
        raise KweekError(str(error), fix="install gcc or clang, or: pip install ziglang") from None
    except OSError as error:
        raise KweekError(
            f"the native engine cannot be compiled: {error.strerror}",
            where=str(cache),
            fix="set XDG_CACHE_HOME",
        ) from None
    return path
