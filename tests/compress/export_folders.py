"""Model folders with a tokenizer, to be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from compress_networks import make_network

from kweek.compress.quantize import quantize_network
from kweek.model.checkpoint import save_model
from kweek.model.config import RopeScaling
from kweek.model.network import Network
from kweek.tokenize.bytelevel import PATTERNS, spell
from kweek.tokenize.definition import byte_level_definition
from kweek.tokenize.template import default_chat_template
from kweek.tokenize.tokenizer import Tokenizer

VOCABULARY = 320
#: Every layout, in the variants that change what is stored.
LAYOUTS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3 tied": {"tied_embeddings": True},
    "qwen2": {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True},
    "llama": {"architecture": "llama", "qk_norm": False, "num_kv_heads": 2, "norm_epsilon": 1e-5},
    "llama 3": {"architecture": "llama", "qk_norm": False, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 64)},
    "smollm": {"architecture": "llama", "qk_norm": False, "tied_embeddings": True},
}


def make_tokenizer(pattern: str = "qwen2", template: str | None = None) -> Tokenizer:
    """Bytes, a few merges, four control tokens, some ids of the embedding unused."""
    pairs = [("t", "h"), ("th", "e"), ("i", "n"), ("\u0120", "the"), ("1", "2")]
    vocabulary = {spell(bytes([byte])): byte for byte in range(256)}
    for left, right in pairs:
        vocabulary[left + right] = len(vocabulary)
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
    special = {name: len(vocabulary) + number for number, name in enumerate(names)}
    definition = byte_level_definition(vocabulary, pairs, special, PATTERNS[pattern])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "add_bos_token": False,
    }  # fmt: skip
    return Tokenizer(definition, config, template or default_chat_template())


def save_folder(folder: Path, layout: str = "qwen3", dtype: torch.dtype = torch.float32) -> Network:
    """A folder of random weights; returns the network."""
    tokenizer = make_tokenizer("smollm" if layout == "smollm" else "qwen2")
    network = make_network(vocab_size=VOCABULARY, eos_token_id=tokenizer.eos_id, **LAYOUTS[layout])
    save_model(folder, network, dtype)
    tokenizer.save(folder)
    return network


def save_packed(folder: Path, layout: str = "qwen3") -> Network:
    """A folder of 4-bit codes; returns the network with the values stored."""
    tokenizer = make_tokenizer()
    network = make_network(vocab_size=VOCABULARY, eos_token_id=tokenizer.eos_id, **LAYOUTS[layout])
    found = quantize_network(network, method="nearest_mse")
    save_model(folder, found.network, torch.float16, quantized_tensors=found.tensors)
    tokenizer.save(folder)
    return found.network
