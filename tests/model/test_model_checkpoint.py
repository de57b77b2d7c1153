from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_networks import LAYOUTS, random_ids, random_network, small_config
from safetensors.torch import load_file, save_file

from kweek.errors import CheckpointError
from kweek.model.checkpoint import load_config, load_model, save_model
from kweek.model.network import Network
from kweek.model.tensors import TensorFolder
from kweek.store.artifact import Artifact, ArtifactWriter

transformers = pytest.importorskip("transformers")


@pytest.fixture(params=LAYOUTS)
def network(request: pytest.FixtureRequest) -> Network:
    return random_network(small_config(**LAYOUTS[request.param]))


def logits(network: Network, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.logits(network(ids))


def open_in_transformers(folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def test_our_folder_in_transformers(network: Network, tmp_path: Path) -> None:
    save_model(tmp_path, network)
    ids = random_ids(network.config, 2, 12)
    model = open_in_transformers(tmp_path)
    with torch.no_grad():
        assert (model(ids).logits - logits(network, ids)).abs().max() < 1e-4
        cached = model(ids[:, :9], use_cache=True).past_key_values
        decoded = model(ids[:, 9:], past_key_values=cached).logits
    assert (decoded - logits(network, ids)[:, 9:]).abs().max() < 1e-4
    assert model.generation_config.eos_token_id == 3


@pytest.mark.parametrize("kind", ["single", "sharded", "bf16"])
def test_their_folder_here(network: Network, kind: str, tmp_path: Path) -> None:
    save_model(tmp_path / "ours", network)
    model = open_in_transformers(tmp_path / "ours")
    if kind == "bf16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="30KB" if kind == "sharded" else "5GB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == (kind == "sharded")
    loaded = load_model(tmp_path / "theirs")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    ids = random_ids(network.config, 2, 12)
    with torch.no_grad():
        expected = open_in_transformers(tmp_path / "theirs")(ids).logits
    assert (logits(loaded, ids) - expected).abs().max() < 1e-4
    assert loaded.config == network.config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(network: Network, dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(tmp_path, network, dtype)
    for (name, mine), theirs in zip(
        network.state_dict().items(), load_model(tmp_path).state_dict().values(), strict=True
    ):
        assert torch.equal(mine.to(dtype).float(), theirs), name
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {dtype}


def test_into_an_artifact(tmp_path: Path) -> None:
    network = random_network(small_config())
    with ArtifactWriter(tmp_path / "model", kind="model", fingerprint="0" * 64) as out:
        save_model(out, network)
    assert set(Artifact.open(tmp_path / "model", verify="hash").files) == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip
    load_model(tmp_path / "model")


def broken_folder(tmp_path: Path, **changes: Any) -> Path:
    """A folder whose tensors (by name; None removes) and config keys (prefix config_) are changed."""
    save_model(tmp_path, random_network(small_config()))
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = load_file(tmp_path / "model.safetensors")
    for name, value in changes.items():
        holder = config if name.startswith("config_") else tensors
        key = name.removeprefix("config_").replace("__", ".")
        if value is None:
            del holder[key]
        else:
            holder[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config_model_type": "mamba"}, "architecture 'mamba' is not supported"),
        ({"config_auto_map": {"AutoModel": "x.Y"}}, "never runs"),
        ({"model__norm__weight": None}, r"tensor model\.norm\.weight is missing"),
        ({"lm_head__weight": None}, r"tensor lm_head\.weight is missing"),
        ({"model__extra": torch.zeros(2)}, r"tensor model\.extra is not part"),
        ({"model__norm__weight": torch.ones(63)}, r"is \(63,\) instead of \(64,\)"),
        ({"model__norm__weight": torch.ones(64, dtype=torch.int32)}, "of type I32"),
        ({"config_num_hidden_layers": 3}, r"layers\.2\.\S+ is missing"),
        ({"config_num_hidden_layers": 1}, r"layers\.1\.\S+ is not part"),
        ({"config_vocab_size": 2**30}, r"instead of \(1073741824, 64\)"),
        ({"config_tie_word_embeddings": True}, "another head"),
        ({"config_quantization_config": {"quant_method": "gptq"}}, "quantisation by gptq"),
    ],
)
def test_one_clear_error(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = broken_folder(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_tied_folder_may_repeat_its_head(tmp_path: Path) -> None:
    network = random_network(small_config(tied_embeddings=True))
    save_model(tmp_path, network)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_model(tmp_path).state_dict()
    assert loaded.keys() == network.state_dict().keys()
    for name, values in network.state_dict().items():
        torch.testing.assert_close(loaded[name], values, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "there is no config.json"),
        ("config.json", b'{"model_type": "qwen3",\n "x": }', r"config\.json:2"),
        ("config.json", b"\xff\xfe", "not UTF-8"),
        ("config.json", b"[1]", "not a JSON object"),
        ("config.json", b"[" * 100_000, "nested too deeply"),
        ("model.safetensors", None, r"there is no model\.safetensors"),
        ("model.safetensors", b"", "truncated or corrupt"),
        ("model.safetensors", b"\xff" * 64, "truncated or corrupt"),
    ],
)
def test_missing_and_corrupt_files(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    save_model(tmp_path, random_network(small_config()))
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


def test_pickled_weights_are_named(tmp_path: Path) -> None:
    save_model(tmp_path, random_network(small_config()))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        load_model(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_config(tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated_weights(share: float, tmp_path: Path) -> None:
    save_model(tmp_path, random_network(small_config()))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "model-1.safetensors"}, "which is missing"),
        ({"a": "../elsewhere.safetensors"}, "not a file of this folder"),
        ({"a": "/etc/passwd"}, "not a file of this folder"),
        ({"a": ".."}, "not a file of this folder"),
        ({"a": 3}, "no weight_map"),
        ([], "no weight_map"),
        ({"model.ghost": "part.safetensors"}, "model.ghost is here, but it is not"),
    ],
)
def test_bad_index(weight_map: Any, words: str, tmp_path: Path) -> None:
    save_model(tmp_path, random_network(small_config()))
    (tmp_path / "model.safetensors").rename(tmp_path / "part.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_header_gives_weights_or_one_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    save_model(folder, random_network(small_config(num_layers=1)))
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        load_model(folder)
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_sizes_as_stored(tmp_path: Path) -> None:
    network = random_network(small_config())
    save_model(tmp_path, network, torch.bfloat16)
    with TensorFolder(tmp_path) as tensors:
        assert tensors.num_bytes == 2 * network.config.num_parameters()["total"]
