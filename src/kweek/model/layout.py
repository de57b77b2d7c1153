"""The Hugging Face layouts Kweek reads and writes: `config.json`, both ways, and names of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from kweek.errors import CheckpointError, ConfigError
from kweek.model.config import Architecture, ModelConfig, RopeScaling

_CLASS_NAMES = {"qwen3": "Qwen3ForCausalLM", "qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}
#: What `transformers` assumes when the key is absent, by layout.
_MAX_POSITIONS = {"qwen3": 32_768, "qwen2": 32_768, "llama": 2_048}
#: Likewise the ids of Llama's first tokenizer; the others have none.
_TOKEN_IDS = {"llama": {"bos_token_id": 1, "eos_token_id": 2}}
#: Keys that must be off: nothing here computes them.
_MUST_BE_FALSY = (
    "mlp_bias",
    "use_bias",
    "logit_scale",
    "final_logit_softcapping",
    "num_experts",
    "add_cross_attention",
)


def _unsupported(what: str, where: str) -> CheckpointError:
    return CheckpointError(
        what, where=where, fix="use a dense Qwen3, Qwen2 or Llama checkpoint with full attention"
    )


def _whole(document: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = document.get(key, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
        raise CheckpointError(f"{key} is {value!r}, not a whole number of at least 1", where=where)
    return value


def _real(value: Any, key: str, where: str) -> float:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise CheckpointError(f"{key} is {value!r}, not a positive number", where=where)
    return float(value)


def _token_id(document: Mapping[str, Any], key: str, where: str) -> int | None:
    value = document.get(key)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise CheckpointError(f"{key} is {value!r}, not a token id", where=where)


def _eos(document: Mapping[str, Any], where: str) -> int | tuple[int, ...] | None:
    value = document.get("eos_token_id")
    if isinstance(value, list) and len(value) > 1:
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            raise CheckpointError(f"eos_token_id is {value!r}, not token ids", where=where)
        return tuple(value)
    return _token_id(document, "eos_token_id", where)


def _rope(document: Mapping[str, Any], where: str, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    merged: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        part = document.get(key)
        if part is not None and not isinstance(part, dict):
            raise CheckpointError(f"{key} is not an object", where=where)
        merged.update(part or {})
    theta = _real(merged.get("rope_theta") or document.get("rope_theta") or 10_000.0, "rope_theta", where)
    for holder in (merged, document):
        if holder.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise _unsupported("partial rotary embeddings are not supported", where)
    kind = merged.get("rope_type") or merged.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise _unsupported(f"rotary embeddings of type {kind!r} are not supported", where)
    scaling = RopeScaling(
        factor=_real(merged.get("factor"), "rope factor", where),
        low_frequency=_real(merged.get("low_freq_factor"), "low_freq_factor", where),
        high_frequency=_real(merged.get("high_freq_factor"), "high_freq_factor", where),
        original_max_positions=_whole(merged, "original_max_position_embeddings", where, max_positions),
    )
    if scaling.high_frequency <= scaling.low_frequency:
        raise CheckpointError("high_freq_factor must be above low_freq_factor", where=where)
    return theta, scaling


def _refuse_unsupported(document: Mapping[str, Any], architecture: str, num_layers: int, where: str) -> None:
    if document.get("auto_map"):
        raise CheckpointError(
            "it asks for code of its own (auto_map), which Kweek never runs",
            where=where,
            fix="use a checkpoint in a standard layout",
        )
    if document.get("hidden_act", "silu") not in ("silu", "swish"):
        raise _unsupported(f"activation {document['hidden_act']!r} is not supported", where)
    if architecture != "qwen2" and document.get("attention_bias"):
        raise _unsupported("biases on the attention projections are not supported", where)
    for key in _MUST_BE_FALSY:
        if document.get(key):
            raise _unsupported(f"{key} is not supported", where)
    kinds = document.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
            raise _unsupported("layers other than full attention are not supported", where)
    elif document.get("use_sliding_window") and document.get("sliding_window"):
        first = document.get("max_window_layers", 28)
        if not isinstance(first, int) or first < num_layers:
            raise _unsupported("sliding-window attention is not supported", where)


def config_from_hf(document: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """Turn a `config.json` into a `ModelConfig`.

    Args:
        document: the parsed file.
        where: the file's name, for errors.

    Raises:
        CheckpointError: an unknown architecture, a missing or impossible size, or a feature (sliding
            window, yarn, experts, own code, ...) whose absence would change the answers.
    """
    if not isinstance(document, dict):
        raise CheckpointError("it is not a JSON object", where=where)
    name = document.get("model_type")
    if not isinstance(name, str) or name not in _CLASS_NAMES:
        raise _unsupported(f"architecture {name!r} is not supported", where)
    architecture = cast(Architecture, name)
    num_layers = _whole(document, "num_hidden_layers", where)
    _refuse_unsupported(document, architecture, num_layers, where)
    hidden_size = _whole(document, "hidden_size", where)
    num_heads = _whole(document, "num_attention_heads", where)
    max_positions = _whole(document, "max_position_embeddings", where, _MAX_POSITIONS[architecture])
    head_dim = 128 if architecture == "qwen3" else hidden_size // num_heads
    if architecture != "qwen2" or document.get("head_dim") is not None:
        head_dim = _whole(document, "head_dim", where, head_dim)
    theta, scaling = _rope(document, where, max_positions)
    document = _TOKEN_IDS.get(architecture, {}) | document
    try:
        return ModelConfig(
            vocab_size=_whole(document, "vocab_size", where),
            hidden_size=hidden_size,
            intermediate_size=_whole(document, "intermediate_size", where),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=_whole(document, "num_key_value_heads", where, num_heads),
            head_dim=head_dim,
            architecture=architecture,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_epsilon=_real(document.get("rms_norm_eps", 1e-6), "rms_norm_eps", where),
            max_positions=max_positions,
            tied_embeddings=bool(document.get("tie_word_embeddings", False)),
            qk_norm=architecture == "qwen3",
            qkv_bias=architecture == "qwen2",
            eos_token_id=_eos(document, where),
            bos_token_id=_token_id(document, "bos_token_id", where),
            pad_token_id=_token_id(document, "pad_token_id", where),
        )
    except ConfigError as error:
        raise CheckpointError(f"{error.where or 'it'}: {error.what}", where=where) from error


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a network, in the words of both transformers 4 and 5.

    Both `rope_theta` with `rope_scaling` and `rope_parameters` are written: older readers (and llama.cpp's
    converter) know the first pair, transformers 5 the second, and they say the same.
    """
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    scaling: dict[str, Any] | None = None
    if config.rope_scaling is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_frequency,
            "high_freq_factor": config.rope_scaling.high_frequency,
            "original_max_position_embeddings": config.rope_scaling.original_max_positions,
        }
        rope = rope | scaling
    eos = list(config.eos_token_id) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    document: dict[str, Any] = {
        "architectures": [_CLASS_NAMES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id,
    }
    if config.architecture == "qwen2":
        del document["attention_bias"]  # fixed by the layout: q, k and v have biases, o has none
    return document


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, in the order of `Network.state_dict`."""
    width, ffn = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, width)}
    rows = {"q": config.query_size, "k": config.kv_size, "v": config.kv_size}
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}."
        for letter, size in rows.items():
            shapes[f"{at}self_attn.{letter}_proj.weight"] = (size, width)
        if config.qkv_bias:
            for letter, size in rows.items():
                shapes[f"{at}self_attn.{letter}_proj.bias"] = (size,)
        shapes[f"{at}self_attn.o_proj.weight"] = (width, config.query_size)
        if config.qk_norm:
            shapes[f"{at}self_attn.q_norm.weight"] = (config.head_dim,)
            shapes[f"{at}self_attn.k_norm.weight"] = (config.head_dim,)
        shapes[f"{at}mlp.gate_proj.weight"] = (ffn, width)
        shapes[f"{at}mlp.up_proj.weight"] = (ffn, width)
        shapes[f"{at}mlp.down_proj.weight"] = (width, ffn)
        shapes[f"{at}input_layernorm.weight"] = (width,)
        shapes[f"{at}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    return shapes
