from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_networks import CONFIG, adapted_network, fill
from hypothesis import given
from hypothesis import strategies as st
from model_networks import LAYOUTS, random_ids, random_network, small_config
from safetensors.torch import load_file, save_file

from kweek.errors import CheckpointError, ConfigError
from kweek.model.adapter import TARGETS, AdapterConfig, attach, merge
from kweek.model.adapter_files import CONFIG_FILE, TENSOR_FILE, base_digest, load_adapter, save_adapter
from kweek.model.checkpoint import save_model
from kweek.model.network import Network
from kweek.store.artifact import Artifact, ArtifactWriter

SHAPES = [
    CONFIG,
    AdapterConfig(4, 3.0, ("v_proj", "q_proj"), rank_stabilised=True),
    AdapterConfig(2, 7.0, ("gate_proj", "down_proj")),
]


def logprobs(network: Network, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.logits(network(ids)).log_softmax(-1)


@pytest.mark.parametrize("config", SHAPES, ids=["all", "qv", "gate-down"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_adapter_in_peft(layout: str, config: AdapterConfig, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    network = adapted_network(config, **LAYOUTS[layout])
    ids = random_ids(network.config, 2, 12)
    save_model(tmp_path / "base", random_network(network.config))
    save_adapter(tmp_path / "adapter", network, base="base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad():
        alone = base.eval()(ids).logits.log_softmax(-1)
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(ids).logits.log_softmax(-1)
    assert (alone - logprobs(network, ids)).abs().max() > 0.1, "the adapter does something"
    assert (theirs - logprobs(network, ids)).abs().max() < 1e-4


@pytest.mark.parametrize("config", SHAPES, ids=["all", "qv", "gate-down"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_their_adapter_here(layout: str, config: AdapterConfig, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    network = random_network(small_config(**LAYOUTS[layout]))
    save_model(tmp_path / "base", network)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    shape = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules="all-linear" if config.targets == TARGETS else list(config.targets),
        use_rslora=config.rank_stabilised,
        lora_dropout=0.1,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, shape).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.2, generator=generator)
        ids = random_ids(network.config, 2, 12)
        theirs = model(ids).logits.log_softmax(-1)
    model.save_pretrained(tmp_path / "adapter")
    load_adapter(network, tmp_path / "adapter")
    assert network.adapter == AdapterConfig(
        config.rank,
        float(config.alpha),
        tuple(t for t in TARGETS if t in config.targets),
        config.rank_stabilised,
    )
    assert (theirs - logprobs(network, ids)).abs().max() < 1e-4
    merge(network)
    assert (theirs - logprobs(network, ids)).abs().max() < 1e-4


def test_into_an_artifact_and_back(tmp_path: Path) -> None:
    network = adapted_network()
    with ArtifactWriter(tmp_path / "adapter", kind="adapter", fingerprint="f") as out:
        save_adapter(out, network)
    Artifact.open(tmp_path / "adapter", verify="hash")
    loaded = random_network(network.config)
    load_adapter(loaded, tmp_path / "adapter")
    for (name, ours), (_, theirs) in zip(network.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert loaded.adapter == network.adapter


def test_another_base_is_refused(tmp_path: Path) -> None:
    network = adapted_network()
    save_adapter(tmp_path, network)
    other = random_network(network.config, seed=1)
    before = other.state_dict()["model.norm.weight"].clone()
    with pytest.raises(CheckpointError, match="was trained over other weights"):
        load_adapter(other, tmp_path)
    assert other.adapter is None and torch.equal(other.state_dict()["model.norm.weight"], before)
    load_adapter(other, tmp_path, any_base=True)
    assert other.adapter == network.adapter


def test_the_digest_is_that_of_the_base_and_sees_every_tensor() -> None:
    network = random_network(small_config(**LAYOUTS["qwen2"]))
    digest = base_digest(network)
    attach(network, CONFIG, torch.Generator().manual_seed(0))
    assert base_digest(network) == digest
    fill(network)
    assert base_digest(network) == digest
    plain = random_network(network.config)
    for name, parameter in plain.named_parameters():
        with torch.no_grad():
            parameter.add_(1.0)
            assert base_digest(plain) != digest, name
            parameter.copy_(random_network(network.config).get_parameter(name))
    assert base_digest(plain) == digest


def test_without_an_adapter_there_is_nothing_to_write_and_with_one_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no adapter to write"):
        save_adapter(tmp_path, random_network(small_config()))
    network = adapted_network()
    save_adapter(tmp_path, network)
    with pytest.raises(ConfigError, match="has an adapter already"):
        load_adapter(network, tmp_path)


PREFIX = "base_model.model.model.layers.0.self_attn"

FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "LOHA"}, "peft_type is not LORA"),
    ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS' is not supported"),
    ({"use_dora": True}, "use_dora = True is not supported"),
    ({"bias": "all"}, "bias = 'all' is not supported"),
    ({"lora_bias": True}, "lora_bias = True is not supported"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save = "),
    ({"layers_to_transform": [0]}, "layers_to_transform = "),
    ({"rank_pattern": {"q_proj": 3}}, "rank_pattern = "),
    ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern = "),
    ({"fan_in_fan_out": True}, "fan_in_fan_out = "),
    ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
    ({"from_the_future": 1}, "from_the_future = 1 is not supported"),
    ({"r": 4}, "is \\(3, 64\\) instead of \\(4, 64\\)"),
    ({"r": "3"}, "rank: '3' is not a whole number"),
    ({"r": True}, "rank: True is not a whole number"),
    ({"lora_alpha": None}, "lora_alpha is None, not a number"),
    ({"lora_alpha": -1}, "alpha: -1.0 is not a positive number"),
    ({"target_modules": ["q_proj"]}, "is not part of such an adapter"),
    ({"target_modules": ["q_proj", "lm_head"]}, "cannot be put on 'lm_head'"),
    ({"target_modules": []}, "there is nothing to adapt"),
]


@pytest.mark.parametrize(("fields", "words"), FIELDS, ids=lambda value: str(value)[:40])
def test_what_kweek_would_not_compute_is_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    network = adapted_network()
    save_adapter(tmp_path, network)
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    plain = random_network(network.config)
    with pytest.raises(CheckpointError, match=words):
        load_adapter(plain, tmp_path)
    assert plain.adapter is None


def broken(kind: str, folder: Path) -> None:
    tensors = load_file(folder / TENSOR_FILE)
    name = f"{PREFIX}.q_proj.lora_A.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = torch.zeros(3, 65)
    elif kind == "type":
        tensors[name] = tensors[name].to(torch.int32)
    elif kind == "nan":
        tensors[name][1, 1] = float("nan")
    elif kind == "dora":
        tensors[f"{PREFIX}.q_proj.lora_magnitude_vector"] = torch.ones(1)
    save_file(tensors, folder / TENSOR_FILE)
    if kind == "pickled":
        (folder / TENSOR_FILE).rename(folder / "adapter_model.bin")
    elif kind == "no tensors":
        (folder / TENSOR_FILE).unlink()
    elif kind == "no config":
        (folder / CONFIG_FILE).unlink()
    elif kind == "list":
        (folder / CONFIG_FILE).write_text("[1]")
    elif kind == "json":
        (folder / CONFIG_FILE).write_text('{"r": ')
    elif kind == "truncated":
        data = (folder / TENSOR_FILE).read_bytes()
        (folder / TENSOR_FILE).write_bytes(data[:-100])


BROKEN = {
    "missing": "q_proj.lora_A.weight is missing",
    "shape": "q_proj.lora_A.weight is \\(3, 65\\) instead of \\(3, 64\\)",
    "type": "q_proj.lora_A.weight is of type I32",
    "nan": "q_proj.lora_A.weight holds values that are not finite",
    "dora": "q_proj.lora_magnitude_vector is not part of such an adapter",
    "pickled": "its weights are pickled",
    "no tensors": "there is no adapter_model.safetensors",
    "no config": "adapter_config.json: the file does not exist",
    "list": "adapter_config.json: it is not a JSON object",
    "json": "adapter_config.json:1: broken JSON",
    "truncated": "truncated or corrupt",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_gives_one_line(kind: str, tmp_path: Path) -> None:
    network = adapted_network()
    save_adapter(tmp_path, network)
    broken(kind, tmp_path)
    plain = random_network(network.config)
    with pytest.raises(CheckpointError, match=BROKEN[kind]) as caught:
        load_adapter(plain, tmp_path)
    assert "\n" not in str(caught.value) and plain.adapter is None


def test_a_larger_base_is_named_as_the_fault(tmp_path: Path) -> None:
    save_adapter(tmp_path, adapted_network())
    with pytest.raises(CheckpointError, match="Load the model that the adapter was made from"):
        load_adapter(random_network(small_config(hidden_size=96)), tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads('{"r":0}') | dict.fromkeys(
    ["peft_type", "task_type", "lora_alpha", "target_modules", "use_rslora", "bias", "init_lora_weights", "x"]))),
    VALUES, min_size=1))  # fmt: skip
def test_any_config_loads_or_is_refused_with_an_error_of_ours(fields: dict[str, Any]) -> None:
    folder = _folder()
    document = json.loads((folder / CONFIG_FILE).read_text())
    (folder / "fuzzed").mkdir(exist_ok=True)
    (folder / "fuzzed" / CONFIG_FILE).write_text(json.dumps(document | fields))
    (folder / "fuzzed" / TENSOR_FILE).write_bytes((folder / TENSOR_FILE).read_bytes())
    network = random_network(small_config(num_layers=1))
    try:
        load_adapter(network, folder / "fuzzed")
    except CheckpointError as error:
        assert "\n" not in str(error) and network.adapter is None
    else:
        assert network.adapter is not None


@pytest.fixture(scope="module", autouse=True)
def _prepare(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(folder, adapted_network(num_layers=1))
    _FOLDER.append(folder)


_FOLDER: list[Path] = []


def _folder() -> Path:
    return _FOLDER[-1]
