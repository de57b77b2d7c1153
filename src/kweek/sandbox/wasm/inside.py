"""Runs inside: what the guest does with a program. Compiled into it, with every module that it will ever have.

There is no folder of modules in the guest; what is imported while it is built is there, and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import random
import sys
import traceback
import types

import wit_world

#: Of the standard library, what has no use without a screen, a network or other processes, and what acts when imported.
_LEFT_OUT = {
    *("antigravity", "this", "idlelib", "tkinter", "turtle", "turtledemo", "test", "lib2to3"),
    *("ensurepip", "venv", "webbrowser", "pip", "msilib", "winreg", "nt", "distutils"),
}


def _gather(name: str) -> None:
    """Import a module and, of a package, all it holds; what does not work here is not there later either."""
    with contextlib.suppress(BaseException):
        module = importlib.import_module(name)
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            if part.name not in ("__main__", "tests", "test", "idle_test"):
                _gather(f"{name}.{part.name}")


for _name in sorted(sys.stdlib_module_names - _LEFT_OUT):
    _gather(_name)


class WitWorld(wit_world.WitWorld):  # type: ignore[misc]  # made by componentize-py
    """What the guest offers, as its interface names it."""

    def run(self, source: str, stdin: bytes) -> int:
        """Run a program as `program.py` in the folder of its files; returns its exit status."""
        random.seed()  # else it goes on as it was when the guest was built, the same in every run
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
        sys.argv = ["program.py"]
        os.chdir("/work")
        sys.path.insert(0, "/work")
        module = types.ModuleType("__main__")
        module.__dict__["__file__"] = "program.py"
        sys.modules["__main__"] = module
        try:
            exec(compile(source, "program.py", "exec"), module.__dict__)  # noqa: S102 - what it is for
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)  # noqa: T201 - the program's own
        except BaseException:
            traceback.print_exc()
            status = 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        return status & 0xFF
