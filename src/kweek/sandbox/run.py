"""`run`: one program, its files, its limits, and a tier that enforces them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal

from kweek.errors import ConfigError
from kweek.sandbox import namespaces
from kweek.sandbox.limits import Limits, Result, SandboxError, Tier
from kweek.sandbox.wasm import guest

#: What a program given as text is called in its folder.
PROGRAM = "program.py"
_DEFAULT = Limits()
_PAGE = 4096
_LEAST_BYTES = 16384  # what a file or folder counts at least: a disk holds so many fewer of them
_COMMANDS = ("python3", "python")


def run(
    program: str | Sequence[str],
    *,
    files: Mapping[str, bytes | str] | None = None,
    stdin: bytes | str = b"",
    limits: Limits = _DEFAULT,
    tier: Tier | Literal["auto"] = "auto",
) -> Result:
    """Run a program and say how it ended. It sees its files, its input, and nothing else of this machine.

    Args:
        program: Python source, run as `program.py`; or words to execute, the first of them `python3` (tier `ns` alone).
        files: what lies in its working folder, by name; folders are made.
        stdin: what it reads.
        limits: what it may use; the default is enough for tests of small functions.
        tier: "ns", "wasm", or "auto": the first of the two that this machine enforces. Never weaker than asked for.

    Raises:
        SandboxError: something cannot be enforced here; nothing of the program has run.
        ConfigError: files that cannot be meant.
    """
    given = {_checked(name): _bytes(content) for name, content in (files or {}).items()}
    if isinstance(program, str):
        if PROGRAM in given:
            raise ConfigError("a file of this name holds the program itself", where=f"files[{PROGRAM!r}]")
        given[PROGRAM] = program.encode()
    elif not program or program[0] not in _COMMANDS:
        raise ConfigError(
            f"{program[:1]} cannot be executed", where="program", fix="start with python3: there is no other"
        )
    if (size := _size(given)) > limits.disk_bytes:
        raise ConfigError(
            f"the given files take {size:,} bytes", where="disk_bytes", fix="raise this limit, or give fewer"
        )
    argv = ["python3", PROGRAM] if isinstance(program, str) else list(program)
    if (tier if tier != "auto" else choose(programs=isinstance(program, str))) == "ns":
        return namespaces.run(argv, given, _bytes(stdin), limits)
    if not isinstance(program, str):
        raise SandboxError(
            "the tier wasm runs Python source, and not commands", fix="give the source as text"
        )
    return guest.run(program, given, _bytes(stdin), limits)


@lru_cache
def choose(*, programs: bool) -> Tier:
    """The tier that "auto" means here, for programs as text or for commands; tried once.

    Raises:
        SandboxError: there is none; the message is that of `ns`, and the fix gets the other.
    """
    refusal = namespaces.refusal()
    if refusal is None:
        return "ns"
    if programs and guest.refusal() is None:
        return "wasm"
    raise refusal


def _size(files: Mapping[str, bytes]) -> int:
    """Bytes of the disk that files take, their folders too."""
    folders = {parent for name in files for parent in PurePosixPath(name).parents}
    pages = (-(-len(content) // _PAGE) * _PAGE for content in files.values())
    return sum(max(_LEAST_BYTES, taken) for taken in pages) + len(folders) * _LEAST_BYTES


def _checked(name: str) -> str:
    """A name that lies in the working folder."""
    path = PurePosixPath(name)
    good = bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    if not good or max(map(len, map(str.encode, path.parts))) > 255:
        raise ConfigError("not the name of a file in the working folder", where=f"files[{name!r}]")
    return str(path)


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content
