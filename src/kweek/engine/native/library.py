"""Finding or building the native library, and the functions in it.

One shared library per instruction set, from the same source: "avx512" (with VNNI), "avx2", and "portable", which on
Arm is NEON. A wheel carries them ready. In a checkout the first use compiles the one that this processor wants, with
the C compiler that is there, into the user's cache; without a compiler `load` says so and the caller stays with torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from kweek.compute.hardware import detect
from kweek.errors import KweekError

SOURCES = ("native.c", "kernels.h", "matrix.h", "sampling.h")
#: Flags by instruction set, best first; each needs these features (names of `kweek.compute.hardware`).
TARGETS: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {
    "avx512": (
        frozenset({"avx512", "avx512_vnni", "fma", "f16c"}),
        (
            *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
            *("-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
        ),
    ),
    "avx2": (frozenset({"avx2", "fma", "f16c"}), ("-mavx2", "-mfma", "-mf16c")),
    "portable": (frozenset(), ()),
}
# Nothing here reads errno or traps; products and sums may become one instruction. The order of sums stays as written.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wno-psabi",
)


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
                *("num_layers", "width", "num_heads", "num_kv_heads", "head_dim", "ffn", "vocab", "capacity"),
                "kv_half",
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
        *((name, ctypes.c_int32) for name in ("produced", "done")),
        *((name, ctypes.c_void_p) for name in ("uniforms", "events", "allowed", "bias")),
    ]


def target_for(features: frozenset[str]) -> str:
    """The best instruction set that a processor with these features runs."""
    return next(name for name, (needed, _) in TARGETS.items() if needed <= features)


@lru_cache
def load(target: str | None = None) -> ctypes.CDLL:
    """The library for this processor, or for a named instruction set.

    Raises:
        KweekError: it is not in the package, and there is no C compiler or it failed.
    """
    name = target or target_for(detect().features)
    shipped = Path(__file__).with_name(f"{name}{_suffix()}")
    path = shipped if shipped.exists() else build(name)
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.kw_slot_bytes.restype = library.kw_work_bytes.restype = ctypes.c_size_t
    library.kw_scratch_new.restype = pointer
    library.kw_scratch_new.argtypes = [pointer, integer]
    for function in (library.kw_slot_bytes, library.kw_work_bytes, library.kw_scratch_free):
        function.argtypes = [pointer]
    library.kw_scratch_free.restype = library.kw_step.restype = library.kw_fork.restype = None
    library.kw_step.argtypes = [*(pointer,) * 3, integer, *(pointer,) * 3, integer, pointer, pointer, integer]
    library.kw_fork.argtypes = [pointer, pointer, integer, integer, integer]
    library.kw_logprobs.restype = None
    library.kw_logprobs.argtypes = [pointer, integer, pointer, integer, pointer, pointer, pointer]
    library.kw_run.argtypes = [
        *(pointer,) * 3, integer, pointer, integer, integer, *(pointer,) * 5, integer, pointer, pointer,
    ]  # fmt: skip
    return library


def build(target: str, compiler: Sequence[str] | None = None, out: Path | None = None) -> Path:
    """Compile the library for an instruction set unless it is in the cache already; returns its path.

    Raises:
        KweekError: there is no C compiler, or it failed.
    """
    words = list(compiler or find_compiler())
    here = Path(__file__).parent
    flags = [*FLAGS, *TARGETS[target][1]]
    digest = hashlib.sha256(repr((words, flags)).encode())
    for name in SOURCES:
        digest.update((here / name).read_bytes())
    path = out or _cache() / f"native-{target}-{digest.hexdigest()[:16]}{_suffix()}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Compiled beside its place and renamed: two processes may do this at once.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        done = subprocess.run(  # noqa: S603 - the user's own compiler
            [*words, *flags, str(here / "native.c"), "-o", str(made), "-lm"], capture_output=True, text=True
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "no message")
            raise KweekError(f"the C compiler {words[0]} failed: {first}", fix="install gcc or clang")
        made.replace(path)
    return path


def find_compiler() -> list[str]:
    """The C compiler: $CC, else cc, gcc or clang, else zig from the package `ziglang`.

    Raises:
        KweekError: there is none.
    """
    named = os.environ.get("CC")
    if named:
        return named.split()
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    from importlib.util import find_spec

    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise KweekError(
        "the native engine needs a C compiler, and none was found",
        fix="install gcc or clang, or: pip install ziglang",
    )


def _suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kweek"
