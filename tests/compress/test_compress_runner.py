"""The program for machines without Python computes what the engine computes, here and as a 64-bit Arm, and refuses
damaged files."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_networks import make_network
from export_folders import LAYOUTS, VOCABULARY, make_tokenizer, save_packed
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.compress.edge import export_edge
from kweek.compress.runner import compiled, write_runner, write_weights
from kweek.engine.engine import Engine
from kweek.engine.native import build
from kweek.errors import CheckpointError, KweekError
from kweek.model.network import Network
from kweek.protocols import Request
from kweek.store.artifact import ArtifactWriter

PROMPT = list(range(3, 45))  # more than the program reads at once


def program_for(folder: Path, runner: str) -> Path:
    try:
        data = compiled(runner, "portable")  # type: ignore[arg-type]
    except KweekError as error:
        pytest.skip(str(error))
    path = folder / "run"
    path.write_bytes(data)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(program_for(tmp_path_factory.mktemp("native"), "native"))]


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The program on an emulated processor."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is missing: apt-get install qemu-user")
    path = program_for(tmp_path_factory.mktemp("arm"), "aarch64")
    return lambda processor: ["qemu-aarch64", "-cpu", processor, str(path)]


def network_of(layout: str) -> Network:
    """Weights large enough that tokens differ clearly."""
    network = make_network(vocab_size=VOCABULARY, max_positions=96, **LAYOUTS[layout])
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.15 * noise if parameter.ndim == 2 else 1.0 + 0.1 * noise)
    return network


def write(path: Path, network: Network, kind: str) -> Path:
    with path.open("wb") as stream:
        write_weights(stream, network, make_tokenizer(), kind)  # type: ignore[arg-type]
    return path


def run(program: list[str], *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *map(str, words)], capture_output=True, text=True, errors="replace")


def answer(program: list[str], file: Path, count: int = 16, *more: object) -> tuple[list[int], list[float]]:
    done = run(program, "-i", "-n", count, *more, file, *PROMPT)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [int(line[0]) for line in lines], [float(line[1]) for line in lines]


def expected(network: Network, form: str, count: int = 16) -> tuple[list[int], list[float]]:
    stops = make_tokenizer().stop_ids
    engine = Engine(network, weights=form, kv="f16")  # type: ignore[arg-type]
    done = engine.generate([Request(PROMPT, count, stop_ids=stops)])[0]
    kept = [i for i, token in enumerate(done.token_ids) if token not in stops]
    return [done.token_ids[i] for i in kept], [done.logprobs[i] for i in kept]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_engine(layout: str, native: list[str], tmp_path: Path) -> None:
    network = network_of(layout)
    ids, logprobs = answer(native, write(tmp_path / "w", network, "f32"))
    wanted_ids, wanted = expected(network, "f32")
    assert ids == wanted_ids and len(ids) > 3
    assert (
        np.abs(np.array(logprobs) - wanted).max() < 2e-3
    )  # fp16 keys and values round differently by a hair


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_0"])
def test_arm_has_the_bits_of_arm_and_the_ids_of_this_machine(
    kind: str, arm: Callable[[str], list[str]], native: list[str], tmp_path: Path
) -> None:
    """Dot products of whole numbers are exact: with and without the instruction nothing may differ."""
    file = write(tmp_path / "w", network_of("qwen3"), kind)
    with_dots, without = answer(arm("max"), file), answer(arm("cortex-a53"), file)
    assert with_dots == without == answer(arm("max"), file, 16, "-j", 3)
    ids, logprobs = answer(native, file)
    assert with_dots[0] == ids
    assert np.abs(np.array(with_dots[1]) - logprobs).max() < (0.1 if kind.startswith("q") else 2e-3)


def test_codes_stay_and_temperature_draws(native: list[str], tmp_path: Path) -> None:
    network = save_packed(tmp_path / "folder", "qwen3 tied")
    file = write(tmp_path / "w", network, "stored")
    content = file.read_bytes()
    types = [struct.unpack_from("<i", content, 128 + 24 * at)[0] for at in (0, 5, 7, 8, 9)]
    assert types == [2, 3, 3, 3, 3]  # an embedding of 8 bits, matrices of 4
    found, wanted = (pair[1][0] for pair in (answer(native, file), expected(network, "f32")))
    assert abs(found - wanted) < 0.05  # activations of 8 bits
    drawn = [answer(native, file, 16, "-t", 5, "-s", seed)[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_in_the_folder_of_an_export(native: list[str], tmp_path: Path) -> None:
    save_packed(tmp_path / "folder")
    made = export_edge(tmp_path / "folder", tmp_path / "edge", runner="native")
    assert {"run", "weights.bin"} <= set(made.files)
    script = ["/bin/sh", str(tmp_path / "edge" / "start.sh"), "-n", "4"]
    done = subprocess.run(script, input=b"hello\n\nyou\n", capture_output=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and done.stderr.count(b"answer: ") == 2


def test_rows_without_whole_groups_are_refused(tmp_path: Path) -> None:
    network = make_network(vocab_size=VOCABULARY, hidden_size=48)
    with pytest.raises(CheckpointError, match="no whole groups of 32"):
        write(tmp_path / "w", network, "q8_0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-i", "FILE", "320"], "320 is not a whole number from 0 to 319"),
        (["-i", "FILE"], "there is nothing to answer"),
        (["-i", "FILE", *["1"] * 97], "97 tokens are more than the model's 96 positions"),
        (["-n", "0", "FILE"], "0 is not a whole number from 1"),
        (["-t", "-1", "FILE"], "-t takes a number"),
        (["NOWHERE"], "cannot be opened"),
        ([], "usage: run"),
    ],
)  # fmt: skip
def test_errors_are_said_and_the_status_is_two(
    words: list[str], said: str, native: list[str], tmp_path: Path
) -> None:
    file = write(tmp_path / "w", network_of("qwen3"), "f16")
    done = run(native, *(str(file) if word == "FILE" else word for word in words))
    assert done.returncode == 2 and said in done.stderr


def test_every_thread_has_room_to_choose_in(native: list[str], tmp_path: Path) -> None:
    network = make_network(vocab_size=150_000, hidden_size=32, num_layers=1, max_positions=96)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=generator) if parameter.ndim == 2 else parameter.fill_(1.0)
    file = write(tmp_path / "w", network, "f16")
    first, *others = (answer(native, file, 3, "-t", 1, "-j", threads) for threads in (1, 2, 7))
    assert len(first[0]) == 3 and others == [first, first]


def test_heads_that_do_not_fit_are_refused(native: list[str], tmp_path: Path) -> None:
    network = make_network(
        vocab_size=VOCABULARY, num_heads=1, num_kv_heads=1, head_dim=4096, max_positions=16
    )
    done = run(native, "-i", write(tmp_path / "w", network, "f16"), 1, 2)
    assert done.returncode == 2 and "the heads do not fit" in done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "w", network_of("qwen3"), "q4_0")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_makes_it_crash(data: st.DataObject, native: list[str], whole: Path) -> None:
    """Header and table of sections changed anywhere, or the file cut: status 0 or 2, never a signal."""
    damaged = bytearray(whole.read_bytes())
    size = len(damaged)
    table = 128 + 24 * (5 + 9 * 2 + 9)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, table // 4 - 1)) * 4
        damaged[at : at + 4] = struct.pack(
            "<I", data.draw(st.sampled_from([0, 1, 2, 31, 64, 1 << 24, (1 << 32) - 1]))
        )
    cut = data.draw(st.sampled_from([size, size, 0, 7, 128, table, table + 64, size - 1]))
    path = Path(native[0]).with_name("damaged")
    path.write_bytes(damaged[:cut])
    done = run(native, "-n", 2, path, "hello")
    assert done.returncode in (0, 2), done.stderr
    if cut < size:
        assert done.returncode == 2


def test_without_a_cross_compiler_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    with (
        pytest.raises(
            KweekError, match=r"no C compiler for 64-bit Arm .*aarch64-linux-gnu.*pip install ziglang"
        ),
        ArtifactWriter(tmp_path / "out", kind="edge", fingerprint="0") as out,
    ):
        write_runner(out, tmp_path, "aarch64", "q8_0")
    assert not (tmp_path / "out").exists()
