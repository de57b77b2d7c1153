"""GGUF files written by the format's own library from small networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from kweek.model.attention import inverse_frequencies
from kweek.model.gguf import gguf_name
from kweek.model.network import Network
from kweek.tokenize.bytelevel import spell

Types = gguf.GGMLQuantizationType


def stored_type(name: str, kind: Types) -> Types:
    """Norms stay in fp32, as in every real file."""
    return Types.F32 if "norm" in name or "bias" in name else kind


def write_gguf(
    path: Path,
    network: Network,
    kind: Types = Types.F32,
    *,
    blocks: Mapping[str, np.ndarray] | None = None,
    **fields: Any,
) -> dict[str, np.ndarray]:
    """Write a network; returns its values by Hugging Face name.

    `fields` set metadata numbers; `blocks` (by Hugging Face name) are stored as they are in place of the network's.
    """
    config = network.config
    writer = gguf.GGUFWriter(path, config.architecture)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    for key, value in fields.items():
        name = f"{config.architecture}.{key.replace('__', '.')}"
        writer.kv_data[0].pop(name, None)
        writer.add_uint32(name, value)
    add_tokenizer(writer, config.vocab_size)
    values = {}
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        if config.architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            array = permuted(array, config.head_dim)
        if blocks is not None and name in blocks:
            raw = blocks[name]
        else:
            raw = gguf.quants.quantize(np.ascontiguousarray(array), stored_type(name, kind))
        writer.add_tensor(gguf_name(name), raw, raw_dtype=stored_type(name, kind))
        values[name] = tensor.numpy()
    if config.rope_scaling is not None:
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        factors = config.rope_theta**-exponents / inverse_frequencies(config)
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def permuted(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's converter orders them for Llama: pairs side by side."""
    halves = array.reshape(-1, 2, head_dim // 2, array.shape[-1])
    return halves.swapaxes(1, 2).reshape(array.shape)


def add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """A byte-level vocabulary: one control token, single bytes, one merge, unused entries."""
    tokens = ["<|endoftext|>", *(spell(bytes([byte])) for byte in range(256)), "ab"]
    tokens += [f"<unused{i}>" for i in range(vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * 257 + [5] * (vocab_size - 258))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
