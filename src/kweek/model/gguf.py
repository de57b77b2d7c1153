"""GGUF checkpoints (llama.cpp's format) of the Llama, Qwen2 and Qwen3 families, as network and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kweek.errors import CheckpointError, ConfigError
from kweek.model.attention import inverse_frequencies
from kweek.model.config import Architecture, ModelConfig, RopeScaling
from kweek.model.gguf_file import GGUFFile
from kweek.model.layout import tensor_shapes
from kweek.model.network import Network
from kweek.tokenize.tokenizer import Tokenizer

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_FREQUENCY_FACTORS = "rope_freqs.weight"
#: Llama 3.1's constants; a GGUF file holds only the factors they lead to.
_LOW_FREQUENCY, _HIGH_FREQUENCY, _ORIGINAL_POSITIONS = 1.0, 4.0, 8192


def load_gguf(path: Path | str) -> tuple[Network, Tokenizer]:
    """Load a GGUF file: the network in fp32 and its tokenizer with chat template.

    Raises:
        CheckpointError: a broken or truncated file, an unsupported architecture, tensor type or tokenizer.
    """
    with open_gguf(path) as (config, file):
        tokenizer = Tokenizer.from_gguf(file.fields, name=str(path))
        network = Network(config)
        for name, target in network.state_dict().items():
            target.copy_(read_weight(file, name, config))
    return network, tokenizer


@contextmanager
def open_gguf(path: Path | str) -> Iterator[tuple[ModelConfig, GGUFFile]]:
    """The config and the open tensors of a GGUF file, once they are found to fit each other.

    Raises:
        CheckpointError: as `load_gguf`, but for the tokenizer; no weights have been read then.
    """
    with GGUFFile(Path(path)) as file:
        yield check_file(file), file


def check_file(file: GGUFFile) -> ModelConfig:
    """The shape of the network in a GGUF file, once its tensors are found to fit it.

    Raises:
        CheckpointError: an unsupported architecture or feature, a missing, unexpected or misshapen tensor.
    """
    where = str(file.path)
    config = config_of(file)
    shapes = {gguf_name(name): shape for name, shape in tensor_shapes(config).items()}
    for name, shape in shapes.items():
        info = file.tensors.get(name)
        if info is None:
            raise CheckpointError(f"tensor {name} is missing", where=where)
        if info.shape != shape:
            raise CheckpointError(f"tensor {name} is {info.shape} instead of {shape}", where=where)
    if left := sorted(set(file.tensors) - set(shapes) - {_FREQUENCY_FACTORS}):
        raise CheckpointError(f"tensor {left[0]} is not part of this architecture", where=where)
    return config


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor ("blk.0.attn_q.weight") for its Hugging Face name."""
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, part, kind = name.replace("self_attn.", "self_attn/").replace("mlp.", "mlp/").split(".")
    return f"blk.{layer}.{_PARTS[part.replace('/', '.')]}.{kind}"


def read_weight(file: GGUFFile, name: str, config: ModelConfig) -> Tensor:
    """One tensor by its Hugging Face name, dequantised to fp32, rows in Hugging Face's order."""
    tensor = torch.from_numpy(file.read(gguf_name(name)))
    if config.architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        # llama.cpp turns neighbouring dimensions of a Llama head, Hugging Face those half a head apart.
        pairs = tensor.view(-1, config.head_dim // 2, 2, tensor.shape[-1])
        tensor = pairs.transpose(1, 2).reshape(tensor.shape)
    return tensor


def config_of(file: GGUFFile) -> ModelConfig:
    """The shape of the network in a GGUF file.

    Raises:
        CheckpointError: an unsupported architecture or feature, a missing or impossible size.
    """
    where, fields = str(file.path), file.fields
    name = fields.get("general.architecture")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise CheckpointError(
            f"architecture {name!r} is not supported", where=where, fix=f"use one of {known}"
        )
    architecture = cast(Architecture, name)

    def get(key: str, default: Any = None) -> Any:
        value = fields.get(f"{name}.{key}", default)
        if value is None:
            raise CheckpointError(f"metadata {name}.{key} is missing", where=where)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise CheckpointError(f"metadata {name}.{key} is {value!r}, not a number", where=where)
        return value

    if get("expert_count", 0) or get("attention.sliding_window", 0):
        raise CheckpointError("experts and sliding windows are not supported", where=where)
    if fields.get(f"{name}.rope.scaling.type", "none") != "none":
        raise CheckpointError("scaled rotary embeddings are not supported", where=where)
    embedding = file.tensors.get("token_embd.weight")
    num_heads = get("attention.head_count")
    try:
        config = ModelConfig(
            vocab_size=embedding.shape[0] if embedding else 0,
            hidden_size=get("embedding_length"),
            intermediate_size=get("feed_forward_length"),
            num_layers=get("block_count"),
            num_heads=num_heads,
            num_kv_heads=get("attention.head_count_kv", num_heads),
            head_dim=get("attention.key_length", get("embedding_length") // max(int(num_heads), 1)),
            architecture=architecture,
            rope_theta=float(get("rope.freq_base", 10_000.0)),
            norm_epsilon=_decimal(get("attention.layer_norm_rms_epsilon")),
            max_positions=get("context_length"),
            tied_embeddings="output.weight" not in file.tensors,
            qk_norm=architecture == "qwen3",
            qkv_bias=architecture == "qwen2",
            eos_token_id=fields.get("tokenizer.ggml.eos_token_id"),
            bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
            pad_token_id=fields.get("tokenizer.ggml.padding_token_id"),
            rope_scaling=_rope_scaling(file),
        )
    except ConfigError as error:
        raise CheckpointError(f"{error.where or 'it'}: {error.what}", where=where) from error
    if get("rope.dimension_count", config.head_dim) != config.head_dim:
        raise CheckpointError("partial rotary embeddings are not supported", where=where)
    _check_scaling(file, config)
    return config


def _decimal(value: float) -> float:
    """The short decimal meant by a number stored in fp32 (1e-05, not 9.999999747378752e-06)."""
    return float(f"{value:.6g}")


def _rope_scaling(file: GGUFFile) -> RopeScaling | None:
    if _FREQUENCY_FACTORS not in file.tensors:
        return None
    factor = _decimal(float(file.read(_FREQUENCY_FACTORS).max()))
    return RopeScaling(factor, _LOW_FREQUENCY, _HIGH_FREQUENCY, _ORIGINAL_POSITIONS)


def _check_scaling(file: GGUFFile, config: ModelConfig) -> None:
    """Compare the factors in the file with those that the config's scaling leads to."""
    if config.rope_scaling is None:
        return
    stored = torch.from_numpy(file.read(_FREQUENCY_FACTORS)).flatten()
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    ours = 1.0 / config.rope_theta**exponents / inverse_frequencies(config)
    if stored.shape != ours.shape or not torch.allclose(stored, ours, rtol=1e-3):
        raise CheckpointError("its rotary frequency factors are not Llama 3's", where=str(file.path))
