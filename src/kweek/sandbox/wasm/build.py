"""Building the guest: CPython and its library as one WebAssembly component, compiled for this machine.

Both packages that do it come from the package index; nothing is downloaded here. It takes about half a minute, once,
and the result is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kweek.sandbox.limits import PORTABLE, SandboxError
from kweek.store.files import write_bytes

_HERE = Path(__file__).parent
_SOURCES = ("inside.py", "program.wit")
_SECONDS = 1800.0  # for a machine that does other things too; it takes 20 s of one core
_START = "from componentize_py import script; script()"


def is_installed() -> bool:
    """Whether the packages of the extra `wasm` are there."""
    return find_spec("wasmtime") is not None and find_spec("componentize_py") is not None


def package() -> Path:
    """The folder of the package wasmtime."""
    found = find_spec("wasmtime")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def new_engine() -> Any:
    """A `wasmtime.Engine` that can be interrupted; the guest is compiled for exactly these settings."""
    wasmtime = importlib.import_module("wasmtime")
    config = wasmtime.Config()
    config.epoch_interruption = True
    return wasmtime.Engine(config)


def guest() -> Path:
    """The compiled guest, built unless it is there.

    Raises:
        SandboxError: the packages are missing, or do not build it.
        StoreError: the cache cannot be written.
    """
    if not is_installed():
        raise SandboxError("the tier wasm is not installed", fix=PORTABLE)
    path = _place()
    if not path.exists():
        write_bytes(path, _compile(_componentize()))
    return path


def _place() -> Path:
    """Where in the cache the guest for these sources, packages and this machine belongs."""
    digest = hashlib.sha256(platform.machine().encode())
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    for package in ("wasmtime", "componentize-py"):
        digest.update(f"{package} {metadata.version(package)}".encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kweek" / "sandbox"
    cache.mkdir(parents=True, exist_ok=True)
    return cache / f"{digest.hexdigest()[:16]}.guest"


def _componentize() -> bytes:
    """The component that `inside.py` makes, as WebAssembly."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "python").mkdir()
        write_bytes(folder / "python" / "inside.py", (_HERE / "inside.py").read_bytes())
        words = ["-d", str(_HERE / "program.wit"), "-w", "program", "componentize", "inside"]
        words += ["-p", str(folder / "python"), "-o", str(folder / "guest.wasm")]
        try:
            done = subprocess.run(  # noqa: S603 - the package just found
                [sys.executable, "-c", _START, *words], capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise SandboxError(f"componentize-py did not end within {_SECONDS:g} s") from None
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise SandboxError(
                f"componentize-py failed: {last}", fix="upgrade it: pip install -U componentize-py"
            )
        return (folder / "guest.wasm").read_bytes()


def _compile(component: bytes) -> bytes:
    """Machine code for this processor."""
    made = importlib.import_module("wasmtime.component").Component(new_engine(), component)
    return bytes(made.serialize())
