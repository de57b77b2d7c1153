"""Compiling the native library. Imports nothing but the standard library, because the build of a wheel uses it too."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

SOURCES = (
    *("native.c", "attention.h", "kernels.h", "neon.h", "neon_block.h", "matrix.h", "sampling.h", "team.h"),
)
#: Compiler flags by instruction set, best first. 64-bit Arm has "portable" alone: that is NEON there, and asks at run
#: time whether the processor has dot products.
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
    *("-std=gnu11", "-O3", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)
_LIBRARY, _PROGRAM = ("-shared", "-fPIC"), ("-static",)
#: What makes programs for 64-bit Arm on another machine: names to look for, and zig's word for it.
_ARM_COMPILERS = ("aarch64-linux-gnu-gcc", "aarch64-linux-musl-gcc", "aarch64-none-linux-gnu-gcc")
_ARM_ZIG = "aarch64-linux-musl"


class NoCompiler(Exception):
    """There is no C compiler, or it failed; the message says which and why."""


def file_name(target: str, system: str = sys.platform) -> str:
    """Of the library for an instruction set; `system` as in `sys.platform`, or a compiler's triple."""
    suffix = ".dylib" if "darwin" in system else ".dll" if system == "win32" or "mingw" in system else ".so"
    return target + suffix


def triple(compiler: Sequence[str]) -> str:
    """What a compiler makes programs for, in its own words: "aarch64-linux-gnu".

    Raises:
        NoCompiler: it does not run, or does not say.
    """
    words = list(compiler)
    for at, word in enumerate(words[:-1]):
        if word in ("-target", "--target"):  # zig and clang; zig does not know -dumpmachine
            return words[at + 1]
    try:
        done = subprocess.run([*words, "-dumpmachine"], capture_output=True, text=True)  # noqa: S603
    except OSError as error:
        raise NoCompiler(f"the C compiler {words[0]} does not run: {error.strerror}") from None
    said = done.stdout.strip()
    if done.returncode or "-" not in said:
        if "ziglang" in words:  # without -target it makes programs for this machine
            return f"{platform.machine()}-{sys.platform}"
        raise NoCompiler(f"the C compiler {words[0]} does not say what it makes programs for (-dumpmachine)")
    return said


def machine_of(name: str) -> str:
    """The processor in a triple, or of `platform.machine()`, in one spelling: "aarch64", "x86_64"."""
    first = name.lower().partition("-")[0]
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(first, first)


def targets_of(compiler: Sequence[str]) -> tuple[str, ...]:
    """The instruction sets that a compiler's machine may have, best first. Errors as `triple`."""
    return tuple(FLAGS_OF_TARGET) if machine_of(triple(compiler)) == "x86_64" else ("portable",)


def compile_library(sources: Path, target: str, compiler: Sequence[str], out: Path) -> None:
    """Compile the library for an instruction set; `out` appears whole or not at all.

    Raises:
        NoCompiler: the compiler failed.
    """
    _compile([*compiler, *FLAGS, *_LIBRARY, *FLAGS_OF_TARGET[target]], sources / "native.c", out)


def compile_runner(sources: Path, target: str, compiler: Sequence[str], out: Path) -> None:
    """Compile the program that runs a model by itself; needs nothing where it runs. Errors as `compile_library`."""
    how = _PROGRAM if "linux" in triple(compiler) else ()  # elsewhere there is no static C library
    _compile([*compiler, *FLAGS, *how, *FLAGS_OF_TARGET[target]], sources / "run.c", out)


def _compile(words: list[str], source: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    # Compiled beside its place and renamed: two processes may do this at once.
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / out.name
        command = [*words, str(source), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - the user's own compiler
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "it gave no message")
            raise NoCompiler(f"the C compiler {words[0]} failed: {first}")
        made.replace(out)


def find_compiler(machine: Literal["native", "aarch64"] | None = None) -> list[str]:
    """A C compiler: $CC, else one by the names that are usual, else zig from the package `ziglang`.

    Args:
        machine: what it must make programs for: "native" this machine, "aarch64" 64-bit Arm under Linux; a $CC for
            another machine is passed over. None takes $CC as it is, and this machine without it.

    Raises:
        NoCompiler: there is none, or $CC does not run.
    """
    here = machine_of(platform.machine())
    named = os.environ.get("CC", "").split()
    if named:
        made_for = "" if machine is None else triple(named)
        arm = machine_of(made_for) == "aarch64" and "linux" in made_for
        if machine is None or (machine_of(made_for) == here if machine == "native" else arm):
            return named
    cross = machine == "aarch64" and not (here == "aarch64" and sys.platform == "linux")
    names = _ARM_COMPILERS if cross else ("cc", "gcc", "clang")
    for name in names:
        if shutil.which(name):
            return [name]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", *(("-target", _ARM_ZIG) if cross else ())]
    if cross:
        raise NoCompiler("no C compiler for 64-bit Arm was found: neither CC nor " + ", ".join(names))
    raise NoCompiler("the native engine needs a C compiler, and none was found")
