"""GGUF checkpoints (llama.cpp's format) of the Llama, Qwen2 and Qwen3 families, as network and tokenizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kweek.errors import CheckpointError, ConfigError
from kweek.model.attention import inverse_frequencies
from kweek.model.config import Architecture, ModelConfig, RopeScaling
from kweek.model.gguf_file import TYPE_NAMES, GGUFFile
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
#: Tensor of what Llama 3.1's rotary frequencies are divided by.
FREQUENCY_FACTORS = "rope_freqs.weight"
#: Where Kweek keeps the constants that led to those factors, with Llama 3.1's own, for files of others.
SCALING_KEYS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context_length": 8192}
_MAX_MERGES_PER_TOKEN = 4  # vocabularies turned from tiktoken's form list up to 2.2


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
    """The shape of the network in a GGUF file, once its tensors and tokens are found to fit it.

    Raises:
        CheckpointError: an unsupported architecture, feature or stored type; a missing, unexpected or misshapen
            tensor; a vocabulary of another size than the embedding.
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
        if info.type_id not in TYPE_NAMES:
            raise CheckpointError(
                f"tensor {name} is of {info.type_name}, which is not supported", where=where
            )
    if left := sorted(set(file.tensors) - set(shapes) - {FREQUENCY_FACTORS}):
        raise CheckpointError(f"tensor {left[0][:80]!r} is not part of this architecture", where=where)
    _check_scaling(file, config)
    _check_vocabulary(file, config)
    return config


def _check_vocabulary(file: GGUFFile, config: ModelConfig) -> None:
    """Compare the lengths of the tokenizer's lists with the embedding, before any is decoded."""
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"):
        file.fields.plain(key)
    tokens = file.fields.list_length("tokenizer.ggml.tokens")
    if tokens is None:
        return  # then the tokenizer has more to say about it
    if tokens != config.vocab_size:
        raise CheckpointError(
            f"it holds {tokens} tokens for an embedding of {config.vocab_size} rows", where=str(file.path)
        )
    types = file.fields.list_length("tokenizer.ggml.token_type")
    if types not in (None, tokens):
        raise CheckpointError(f"it holds {types} types for {tokens} tokens", where=str(file.path))
    merges = file.fields.list_length("tokenizer.ggml.merges") or 0
    if merges > _MAX_MERGES_PER_TOKEN * tokens:
        raise CheckpointError(f"it holds {merges} merges for {tokens} tokens", where=str(file.path))


def gguf_name(name: str) -> str:
    """GGUF's name of a tensor ("blk.0.attn_q.weight") for its Hugging Face name."""
    if name in _OUTER:
        return _OUTER[name]
    _, _, layer, part, kind = name.replace("self_attn.", "self_attn/").replace("mlp.", "mlp/").split(".")
    return f"blk.{layer}.{_PARTS[part.replace('/', '.')]}.{kind}"


def read_weight(file: GGUFFile, name: str, config: ModelConfig) -> Tensor:
    """One tensor by its Hugging Face name, dequantised to fp32, rows in Hugging Face's order.

    Raises:
        CheckpointError: it holds values that are not finite.
    """
    tensor = torch.from_numpy(file.read(gguf_name(name)))
    if not math.isfinite(float(tensor.sum())) and not bool(tensor.isfinite().all()):
        raise CheckpointError(
            f"tensor {gguf_name(name)} holds values that are not finite (corrupt?)", where=str(file.path)
        )
    return split_halves(tensor, config.head_dim) if is_interleaved(name, config) else tensor


def is_interleaved(name: str, config: ModelConfig) -> bool:
    """Whether GGUF has the rows of this tensor (Hugging Face name) in another order than Hugging Face.

    llama.cpp turns neighbouring dimensions of a Llama head, Hugging Face those half a head apart.
    """
    return config.architecture == "llama" and ("q_proj" in name or "k_proj" in name)


def split_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows (H E, ...) of heads from llama.cpp's order, partners side by side, to Hugging Face's."""
    return rows.reshape(-1, head_dim // 2, 2, rows[0].numel()).transpose(1, 2).reshape(rows.shape)


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """The inverse of `split_halves`."""
    return rows.reshape(-1, 2, head_dim // 2, rows[0].numel()).transpose(1, 2).reshape(rows.shape)


def config_of(file: GGUFFile) -> ModelConfig:
    """The shape of the network in a GGUF file, as its metadata tells.

    Raises:
        CheckpointError: an unsupported architecture or feature, a missing or impossible size.
    """
    where, fields = str(file.path), file.fields
    name = fields.plain("general.architecture")
    if name not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise CheckpointError(
            f"architecture {str(name)[:40]!r} is not supported", where=where, fix=f"use one of {known}"
        )
    architecture = cast(Architecture, name)
    _refuse_unsupported(file, name)
    get = functools.partial(_number, file, prefix=f"{name}.")
    if not get("block_count") <= len(file.tensors):  # before a table of that many layers is made
        raise CheckpointError(
            f"{get('block_count')} layers need more than {len(file.tensors)} tensors", where=where
        )
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
            eos_token_id=_stop_ids(file),
            bos_token_id=_token_id(file, "bos"),
            pad_token_id=_token_id(file, "padding"),
            rope_scaling=_rope_scaling(file, name),
        )
    except ConfigError as error:
        raise CheckpointError(f"{error.where or 'it'}: {error.what}", where=where) from error
    if get("rope.dimension_count", config.head_dim) != config.head_dim:
        raise CheckpointError("partial rotary embeddings are not supported", where=where)
    if get("attention.value_length", config.head_dim) != config.head_dim:
        raise CheckpointError("values of another length than keys are not supported", where=where)
    return config


def _refuse_unsupported(file: GGUFFile, name: str) -> None:
    """Refuse what would change the answers and is not computed here."""
    where = str(file.path)
    if _number(file, "split.count", 1) != 1:
        fix = "join the parts with llama-gguf-split --merge"
        raise CheckpointError("this is one part of several", where=where, fix=fix)
    for key in ("expert_count", "attention.sliding_window"):
        if _number(file, key, 0, prefix=f"{name}."):
            raise CheckpointError("experts and sliding windows are not supported", where=where)
    if file.fields.plain(f"{name}.rope.scaling.type", "none") != "none":
        raise CheckpointError("scaled rotary embeddings are not supported", where=where)


def _number(file: GGUFFile, key: str, default: float | None = None, *, prefix: str = "") -> Any:
    """A number of the metadata, finite. Raises CheckpointError when it is missing or something else."""
    value = file.fields.plain(prefix + key, default)
    if value is None:
        raise CheckpointError(f"metadata {prefix}{key} is missing", where=str(file.path))
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise CheckpointError(
            f"metadata {prefix}{key} is {str(value)[:40]!r}, not a number", where=str(file.path)
        )
    return value


def _token_id(file: GGUFFile, role: str) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in file.fields:
        return None
    value = _number(file, key)
    if not isinstance(value, int):
        raise CheckpointError(f"metadata {key} is {value}, not a token id", where=str(file.path))
    return value


def _stop_ids(file: GGUFFile) -> int | tuple[int, ...] | None:
    """The end of text, with the end of turn where the file names another token for that."""
    eos, eot = _token_id(file, "eos"), _token_id(file, "eot")
    return eos if eos is None or eot is None or eot == eos else (eos, eot)


def _decimal(value: float) -> float:
    """The short decimal meant by a number stored in fp32 (1e-05, not 9.999999747378752e-06)."""
    return float(f"{value:.6g}")


def _rope_scaling(file: GGUFFile, name: str) -> RopeScaling | None:
    info = file.tensors.get(FREQUENCY_FACTORS)
    if info is None:
        return None
    if info.type_name != "F32" or len(info.shape) != 1:
        raise CheckpointError("its rotary frequency factors are not a list of fp32", where=str(file.path))
    factor = _decimal(float(file.read(FREQUENCY_FACTORS).max()))
    low, high, original = (
        _number(file, key, default, prefix=f"{name}.rope.scaling.") for key, default in SCALING_KEYS.items()
    )
    if not high > low > 0 or not original > 0:
        raise CheckpointError("its rotary scaling is not Llama 3's", where=str(file.path))
    return RopeScaling(factor, _decimal(low), _decimal(high), int(original))


def frequency_factors(config: ModelConfig) -> Tensor:
    """What llama.cpp divides the plain rotary frequencies by, fp32 (E/2,)."""
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    return 1.0 / config.rope_theta**exponents / inverse_frequencies(config)


def _check_scaling(file: GGUFFile, config: ModelConfig) -> None:
    """Compare the factors in the file with those that the config's scaling leads to."""
    if config.rope_scaling is None:
        return
    info = file.tensors[FREQUENCY_FACTORS]
    if info.shape == (config.head_dim // 2,):  # the tensors vouch for the size of a head by now
        stored, ours = torch.from_numpy(file.read(FREQUENCY_FACTORS)), frequency_factors(config)
        if torch.allclose(stored, ours, rtol=1e-3):
            return
    raise CheckpointError("its rotary frequency factors are not Llama 3's", where=str(file.path))
