from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_networks import LAYOUTS, small_config

from kweek.errors import CheckpointError, ConfigError, KweekError
from kweek.model.config import ModelConfig
from kweek.model.layout import tensor_shapes
from kweek.model.network import Network

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 28,
    "eos_token_id": 151645,
    "bos_token_id": 151643,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "attention_dropout": 0.0,
}  # fmt: skip  - the published config of Qwen3-0.6B
LLAMA32 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "eos_token_id": [128001, 128008, 128009],
    "bos_token_id": 128000,
    "pretraining_tp": 1,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}  # fmt: skip  - the published config of Llama-3.2-1B-Instruct


def test_reads_published_configs() -> None:
    qwen = ModelConfig.from_hf(dict(QWEN3))
    assert (qwen.num_layers, qwen.head_dim, qwen.qk_norm, qwen.tied_embeddings) == (28, 128, True, True)
    assert qwen.rope_theta == 1_000_000.0
    assert qwen.num_parameters()["total"] == 596_049_920  # as the model card's "0.6B" counts them
    llama = ModelConfig.from_hf(dict(LLAMA32))
    assert llama.rope_scaling is not None and llama.rope_scaling.factor == 32.0
    assert llama.eos_token_ids == {128001, 128008, 128009}
    assert llama.num_parameters()["total"] == 1_235_814_400


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_round_trip_and_shapes(changes: dict[str, Any]) -> None:
    config = small_config(**changes)
    assert ModelConfig.from_hf(config.to_hf()) == config
    state = Network(config).state_dict()
    assert [(name, tuple(t.shape)) for name, t in state.items()] == list(tensor_shapes(config).items())
    assert sum(t.numel() for t in state.values()) == config.num_parameters()["total"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe'"),
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "code of its own"),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "sliding-window"),
        ({"layer_types": ["sliding_attention"] * 28}, "full attention"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"num_experts": 8}, "num_experts"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "28"}, "num_hidden_layers"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"head_dim": 63}, "odd"),
        ({"eos_token_id": "end"}, "eos_token_id"),
        ({"rope_scaling": "linear"}, "not an object"),
    ],
)
def test_refuses_what_it_would_compute_wrongly(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        ModelConfig.from_hf(QWEN3 | changes, "folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
    assert "\n" not in str(caught.value)


def test_unused_sliding_window_is_accepted() -> None:
    inactive = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28}
    assert ModelConfig.from_hf(QWEN3 | inactive) == ModelConfig.from_hf(QWEN3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(QWEN3 | LLAMA32 | {"layer_types": 0, "auto_map": 0})), JSON))
def test_any_values_give_a_config_or_one_error(changes: dict[str, Any]) -> None:
    try:
        config = ModelConfig.from_hf(QWEN3 | changes)
    except CheckpointError:
        return
    assert config.head_dim % 2 == 0 and config.num_heads % config.num_kv_heads == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 0},
        {"num_layers": True},
        {"hidden_size": 2.0},
        {"num_heads": 4, "num_kv_heads": 3},
        {"head_dim": 7},
        {"architecture": "gpt2"},
        {"qk_norm": False},
        {"qkv_bias": True},
        {"rope_theta": 0.0},
    ],
)
def test_impossible_sizes(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        small_config(**changes)


def test_errors_are_of_the_one_family() -> None:
    assert issubclass(CheckpointError, KweekError)
    assert asdict(small_config())["rope_scaling"] is None
