"""Which compiler is taken for which machine, and what it is asked to make."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kweek.engine.native import build

HERE = build.machine_of(platform.machine())
NATIVE = Path(build.__file__).parent


def script(folder: Path, name: str, says: str) -> Path:
    """A program that answers -dumpmachine."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("triple", "machine", "targets", "file"),
    [
        ("x86_64-linux-gnu", "x86_64", ("avx512", "avx2", "portable"), "portable.so"),
        ("aarch64-linux-gnu", "aarch64", ("portable",), "portable.so"),
        ("arm64-apple-darwin23.1.0", "aarch64", ("portable",), "portable.dylib"),
        ("x86_64-w64-mingw32", "x86_64", ("avx512", "avx2", "portable"), "portable.dll"),
        ("riscv64-linux-gnu", "riscv64", ("portable",), "portable.so"),
    ],
)
def test_flags_follow_the_compilers_machine(
    triple: str, machine: str, targets: tuple[str, ...], file: str, tmp_path: Path
) -> None:
    compiler = [str(script(tmp_path, "cc", triple))]
    assert build.triple(compiler) == triple and build.machine_of(triple) == machine
    assert build.targets_of(compiler) == targets
    assert build.file_name("portable", triple) == file


def test_a_named_target_is_believed() -> None:
    zig = ["python", "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    assert build.triple(zig) == "aarch64-linux-musl" and build.targets_of(zig) == ("portable",)


def test_a_cross_compiler_in_cc_does_not_make_the_library_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    foreign = str(
        script(tmp_path, "foreign", "aarch64-linux-gnu" if HERE != "aarch64" else "x86_64-linux-gnu")
    )
    own = str(script(tmp_path, "cc", f"{HERE}-linux-gnu"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", foreign)
    assert build.find_compiler() == [foreign]
    assert build.find_compiler("native") == [Path(own).name]
    if HERE != "aarch64":
        assert build.find_compiler("aarch64") == [foreign]
    monkeypatch.setenv("CC", own)
    assert build.find_compiler("native") == [own]


def test_zig_is_the_last_resort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build, "find_spec", lambda name: object())
    assert build.find_compiler("native") == [sys.executable, "-m", "ziglang", "cc"]
    zig = build.find_compiler("aarch64")
    assert zig == [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    with pytest.raises(build.NoCompiler, match=r"64-bit Arm was found: neither CC nor aarch64-linux-gnu-gcc"):
        build.find_compiler("aarch64")


def test_a_compiler_that_does_not_run_is_named() -> None:
    with pytest.raises(build.NoCompiler, match="no-such-cc does not run"):
        build.triple(["no-such-cc"])


def test_the_library_for_64_bit_arm_holds_both_products(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("aarch64-linux-gnu-gcc is missing: apt-get install gcc-aarch64-linux-gnu")
    made = tmp_path / "portable.so"
    build.compile_library(NATIVE, "portable", ["aarch64-linux-gnu-gcc"], made)
    listing = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", made],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions = dict(part.partition(">:")[::2] for part in re.split(r"\n[0-9a-f]+ <", listing)[1:])
    assert "sdot" in functions["quant_dot"] and "sdot" not in functions["quant_plain"]
    assert "smlal" in functions["quant_plain"] or "smlal2" in functions["quant_plain"]
