"""Puts the native library into the wheel, for every instruction set of the machine that the compiler is for.

That is this machine, unless CC names a cross compiler: CC=aarch64-linux-gnu-gcc makes a wheel for 64-bit Arm.
Without a C compiler the wheel is pure Python, and the library is compiled where it is used, or torch computes. An
editable install compiles nothing: a checkout does so at first use, and again when its sources change.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("src/kweek/engine/native")


class NativeLibrary(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles before a wheel is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the libraries to the wheel, and the platform to its name."""
        if version == "editable":
            return
        build = _module(Path(self.root) / NATIVE / "build.py")
        try:
            compiler = build.find_compiler()
        except build.NoCompiler as error:
            self.app.display_warning(f"{error}; the wheel goes without the native library")
            return
        self._folder = tempfile.TemporaryDirectory()
        made_for = build.triple(compiler)
        for target in build.targets_of(compiler):
            made = Path(self._folder.name) / build.file_name(target, made_for)
            build.compile_library(Path(self.root) / NATIVE, target, compiler, made)
            build_data["force_include"][str(made)] = f"kweek/engine/native/{made.name}"
        build_data["pure_python"] = False
        here = sysconfig.get_platform()
        if build.machine_of(made_for) != build.machine_of(platform.machine()):
            here = f"{sys.platform}-{build.machine_of(made_for)}"
        build_data["tag"] = f"py3-none-{here.replace('-', '_').replace('.', '_')}"


def _module(path: Path) -> ModuleType:
    """A module of the package, without importing the package and what it depends on."""
    spec = spec_from_file_location("kweek_native_build", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
