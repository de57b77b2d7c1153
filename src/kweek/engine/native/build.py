"""Compiling the native library. Imports nothing but the standard library, because the build of a wheel uses it too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

SOURCES = ("native.c", "attention.h", "kernels.h", "matrix.h", "sampling.h", "team.h")
#: Compiler flags by instruction set, best first.
FLAGS_OF_TARGET: dict[str, tuple[str, ...]] = {
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
        *("-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
    ),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "portable": (),
}
# Nothing here reads errno or traps; products and sums may become one instruction. The order of sums stays as written.
FLAGS = (
    *("-std=gnu11", "-O3", "-shared", "-fPIC", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)


class NoCompiler(Exception):
    """There is no C compiler, or it failed; the message says which and why."""


def file_name(target: str) -> str:
    """Of the library for an instruction set."""
    return target + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def compile_library(sources: Path, target: str, compiler: Sequence[str], out: Path) -> None:
    """Compile the library for an instruction set; `out` appears whole or not at all.

    Raises:
        NoCompiler: the compiler failed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    # Compiled beside its place and renamed: two processes may do this at once.
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / out.name
        words = [
            *compiler,
            *FLAGS,
            *FLAGS_OF_TARGET[target],
            str(sources / "native.c"),
            "-o",
            str(made),
            "-lm",
        ]
        done = subprocess.run(words, capture_output=True, text=True)  # noqa: S603 - the user's own compiler
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "it gave no message")
            raise NoCompiler(f"the C compiler {compiler[0]} failed: {first}")
        made.replace(out)


def find_compiler() -> list[str]:
    """The C compiler: $CC, else cc, gcc or clang, else zig from the package `ziglang`.

    Raises:
        NoCompiler: there is none.
    """
    named = os.environ.get("CC")
    if named:
        return named.split()
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise NoCompiler("the native engine needs a C compiler, and none was found")
