"""A decoding step in numba, fp32: the fair second choice that the native core is measured against.

One compiled function does all layers for a batch of sequences at the same position; products go through BLAS. Qwen3
layout. B batch, D width, H heads, K key heads, E head dimension, F feed-forward, C capacity, V vocabulary.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit  # type: ignore[import-untyped]

from kweek.model.attention import Tables
from kweek.model.network import Network

Array = npt.NDArray[Any]


@njit(fastmath=True)  # type: ignore[untyped-decorator]
def _norm(x: Array, weight: Array, epsilon: float) -> Array:
    out = np.empty_like(x)
    for b in range(x.shape[0]):
        scale = np.float32(1.0 / np.sqrt(np.sum(x[b] * x[b]) / x.shape[1] + epsilon))
        out[b] = x[b] * scale * weight
    return out


@njit(fastmath=True)  # type: ignore[untyped-decorator]
def _attend(
    qkv: Array,
    q_norm: Array,
    k_norm: Array,
    cosine: Array,
    sine: Array,
    keys: Array,
    values: Array,
    at: int,
    heads: int,
    epsilon: float,
) -> Array:
    batch, kv_heads, head_dim = keys.shape[0], keys.shape[1], keys.shape[3]
    half, group = head_dim // 2, heads // kv_heads
    out = np.zeros((batch, heads * head_dim), np.float32)
    scores = np.empty(at + 1, np.float32)
    for b in range(batch):
        for h in range(heads + kv_heads):
            x = qkv[b, h * head_dim : (h + 1) * head_dim]
            weight = q_norm if h < heads else k_norm
            x[:] = x * np.float32(1.0 / np.sqrt(np.sum(x * x) / head_dim + epsilon)) * weight
            first, second = x[:half].copy(), x[half:].copy()
            x[:half] = first * cosine - second * sine
            x[half:] = second * cosine + first * sine
        for k in range(kv_heads):
            start = (heads + k) * head_dim
            keys[b, k, at] = qkv[b, start : start + head_dim]
            start += kv_heads * head_dim
            values[b, k, at] = qkv[b, start : start + head_dim]
        for h in range(heads):
            k, q = h // group, qkv[b, h * head_dim : (h + 1) * head_dim]
            for t in range(at + 1):
                scores[t] = np.sum(keys[b, k, t] * q) / np.sqrt(head_dim)
            weights = np.exp(scores - scores.max())
            mixed = out[b, h * head_dim : (h + 1) * head_dim]
            for t in range(at + 1):
                mixed += weights[t] * values[b, k, t]
            mixed /= weights.sum()
    return out


@njit(fastmath=True)  # type: ignore[untyped-decorator]
def _step(
    tokens: Array,
    at: int,
    embedding: Array,
    head: Array,
    final: Array,
    layers: Any,
    cosine: Array,
    sine: Array,
    keys: Array,
    values: Array,
    heads: int,
    epsilon: float,
) -> Array:
    x = embedding[tokens]
    for index in range(len(layers)):
        qkv, out, gate_up, down, norm1, norm2, q_norm, k_norm = layers[index]
        mixed = _attend(
            np.dot(_norm(x, norm1, epsilon), qkv),
            q_norm,
            k_norm,
            cosine,
            sine,
            keys[index],
            values[index],
            at,
            heads,
            epsilon,
        )
        x = x + np.dot(mixed, out)
        both = np.dot(_norm(x, norm2, epsilon), gate_up)
        ffn = both.shape[1] // 2
        gate = both[:, :ffn]
        x = x + np.dot(gate / (1 + np.exp(-gate)) * both[:, ffn:], down)
    logits = np.dot(_norm(x, final, epsilon), head)
    chosen = np.empty(len(tokens), np.int64)
    for b in range(len(tokens)):
        chosen[b] = np.argmax(logits[b])
    return chosen


class NumbaStep:
    """The weights of a network, and caches for a batch."""

    def __init__(self, network: Network, batch: int, capacity: int) -> None:
        config = network.config
        matrix = lambda w: np.ascontiguousarray(w.detach().float().numpy().T)  # noqa: E731
        vector = lambda w: w.detach().float().numpy().copy()  # noqa: E731
        from numba.typed import List  # type: ignore[import-untyped]

        self._layers = List()
        for block in network.model.layers:
            a, m = block.self_attn, block.mlp
            self._layers.append(
                (
                    matrix(a.qkv_proj.weight), matrix(a.o_proj.weight),
                    matrix(m.gate_up_proj.weight), matrix(m.down_proj.weight),
                    vector(block.input_layernorm.weight), vector(block.post_attention_layernorm.weight),
                    vector(a.q_norm.weight), vector(a.k_norm.weight),
                )
            )  # fmt: skip
        self._head, self._embedding = matrix(network.head_weight), vector(network.model.embed_tokens.weight)
        self._final = vector(network.model.norm.weight)
        rotations = Tables(config).layout(capacity, torch.device("cpu"), torch.float32).key.numpy()
        half = config.head_dim // 2
        self._cosine, self._sine = rotations[0, :, :half].copy(), rotations[1, :, half:].copy()
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._heads, self._epsilon, self._batch = config.num_heads, config.norm_epsilon, batch

    def __call__(self, tokens: Array, at: int) -> Array:
        """The likeliest next token of every sequence; all are at position `at`."""
        found: Array = _step(
            tokens, at, self._embedding, self._head, self._final, self._layers, self._cosine[at], self._sine[at],
            self._keys, self._values, self._heads, self._epsilon,
        )  # fmt: skip
        return found

    def tokens_per_second(self, prompt: int, steps: int) -> float:
        """Of `steps` steps behind a prompt."""
        tokens = np.full(self._batch, 5, np.int64)
        for at in range(prompt):
            self(tokens, at)
        started = time.perf_counter()
        for at in range(prompt, prompt + steps):
            tokens = self(tokens, at)
        return self._batch * steps / (time.perf_counter() - started)
