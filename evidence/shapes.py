"""Networks of 1M to 100M parameters with random weights, for speed, and GGUF files of them."""

from __future__ import annotations

from pathlib import Path

import torch

from kweek.model.config import ModelConfig
from kweek.model.network import Network

# Qwen3 layout, grouped queries, tied head, as in the study that these lines go back to.
SHAPES = {
    "1M": (2048, 128, 352, 4, 2, 1),
    "3M": (2048, 256, 704, 4, 4, 2),
    "10M": (4096, 384, 1024, 6, 6, 2),
    "30M": (8192, 512, 1408, 8, 8, 2),
    "100M": (16384, 768, 2048, 12, 12, 4),
}


def network(name: str) -> Network:
    """A network of a named size, weights drawn from a fixed seed."""
    vocab, width, ffn, layers, heads, kv_heads = SHAPES[name]
    config = ModelConfig(
        vocab, width, ffn, layers, heads, kv_heads, 64, tied_embeddings=True, max_positions=1024
    )
    result = Network(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.ndim == 2:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.fill_(1.0)
    return result


def folder(name: str, out: Path) -> Path:
    """A model folder of a named size, with a byte tokenizer padded to its vocabulary."""
    from kweek.model.checkpoint import save_model
    from kweek.tokenize import bpe

    made = network(name)
    save_model(out, made)
    texts = [f"{i} {i * i} {i:x}" for i in range(40_000)]
    tokenizer = bpe.train(texts, made.config.vocab_size)
    tokenizer.save(out)
    return out
