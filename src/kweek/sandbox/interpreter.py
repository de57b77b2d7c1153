"""Which files of this machine one Python needs: its binary, its standard library, and the C libraries these load."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kweek.sandbox.limits import PORTABLE, SandboxError

#: Where they are inside. One place for all machines, so that a program learns nothing about this one.
INSIDE = "/python"
_LIBRARIES = f"{INSIDE}/shared"
_SECONDS = 60.0  # to load every extension module once; it takes 0.1 s
#: Extension modules that nothing without a screen can use, and those of Python's own tests.
_NOT_LOADED = ("_tkinter", "_test", "_xx", "xx", "_ctypes_test")

# Loads every extension module of the standard library, and prints by what path each C library was found. The names
# are those that will be looked for inside, which /proc/self/maps does not know: there, links are followed.
_LIST_LIBRARIES = """
import ctypes, importlib, os, sys
folder, skipped = sys.argv[1], tuple(sys.argv[2].split(","))
for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
    module = name.partition(".")[0]
    if not module.startswith(skipped):
        try:
            importlib.import_module(module)
        except ImportError:
            pass
try:
    ctypes.CDLL("libgcc_s.so.1")  # the C library loads it when a thread is ended
except OSError:
    pass

class Info(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]

def show(info, size, data):
    name = os.fsdecode(info.contents.name or b"")
    if name.startswith("/") and not name.startswith(folder + "/"):
        print(name)
    return 0

callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)(show)
ctypes.CDLL(None).dl_iterate_phdr(callback, None)
"""


@dataclass(frozen=True)
class Interpreter:
    """The files of one Python.

    Args:
        binary: the interpreter itself, links followed; what starts the supervisor outside.
        binds: (file or folder of this machine, place inside).
        hidden: folders inside that must be empty: packages that are installed here are no business of a program.
        links: (place inside, target).
        environment: what the program's environment must hold for it.
    """

    binary: str
    binds: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    environment: tuple[str, ...]


@lru_cache
def find() -> Interpreter:
    """The Python that Kweek itself runs on, without the virtual environment around it. Looks once, for 0.1 s.

    Raises:
        SandboxError: it does not start by itself.
    """
    binary = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    standard = os.path.realpath(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    inside = f"{INSIDE}/{sys.platlibdir}/{version}"
    libraries = _libraries(binary, f"{standard}/lib-dynload")
    binds = [(binary, f"{INSIDE}/bin/{version}"), (standard, inside)]
    binds += [(path, f"{_LIBRARIES}/{Path(path).name}") for path in libraries]
    if loader := _loader(Path(binary)):
        binds.append((loader, loader))  # its place is written into the binary
    return Interpreter(
        binary=binary,
        binds=tuple(binds),
        hidden=tuple(
            f"{inside}/{name}" for name in ("site-packages", "dist-packages") if Path(standard, name).is_dir()
        ),
        links=tuple((f"{INSIDE}/bin/{name}", version) for name in ("python", "python3")),
        environment=(f"LD_LIBRARY_PATH={_LIBRARIES}",),
    )


def _libraries(binary: str, extensions: str) -> list[str]:
    """Paths of the C libraries that the interpreter and its extension modules load."""
    words = [binary, "-I", "-S", "-c", _LIST_LIBRARIES, extensions, ",".join(_NOT_LOADED)]
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that runs this
            words,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=bare_environment(),
            check=True,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        raise SandboxError(f"{binary} does not load its own modules within {_SECONDS:g} s") from None
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2] or f"status {error.returncode}"
        raise SandboxError(f"{binary} does not start by itself: {last}", fix=PORTABLE) from None
    except OSError as error:
        raise SandboxError(f"{binary} does not start: {error.strerror}", fix=PORTABLE) from None
    return sorted(set(done.stdout.splitlines()))


def bare_environment() -> dict[str, str]:
    """The least environment for the interpreter outside: nothing but where this one found its own C libraries."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _loader(binary: Path) -> str | None:
    """The program that loads the binary's libraries, as the binary names it; None when it loads none.

    Source: the ELF-64 object file format, header and program headers (PT_INTERP is 3).
    """
    with binary.open("rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return None
        start, size, count = struct.unpack_from("<Q14xHH", header, 32)
        for number in range(count):
            file.seek(start + number * size)
            kind, offset, length = struct.unpack("<I4xQ16xQ", file.read(40))
            if kind == 3:
                file.seek(offset)
                return os.fsdecode(file.read(length).rstrip(b"\0"))
    return None
