"""Bits per byte: how many bits a network needs for each byte of held-out text, with its interval.

Convention. A document is read after the end-of-text token that stands before every document in training, and
the token that would end it is not counted: the figure is -log2 p(text | a document begins) over the UTF-8 bytes of
the text, comparable between tokenizers. A document longer than the context is read in overlapping windows; each
token is scored once, in the first window that reaches it, so every byte counts exactly once.
Shapes: B windows, T tokens of a window, D width, N scored tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kweek.errors import DataError
from kweek.model.head import fused_cross_entropy
from kweek.model.network import Network
from kweek.stats.intervals import Interval, bootstrap
from kweek.stats.paired import Paired, paired_difference
from kweek.tokenize.tokenizer import Tokenizer

#: Tokens read at once, padding included: the fastest of 1024 to 16384 on one core at 1M parameters.
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class BitsPerByte:
    """What a set of documents costs.

    Attributes:
        bits: of all documents together.
        num_bytes: UTF-8 bytes of all documents.
        num_tokens: scored tokens.
        interval: 95% of bits per byte, by resampling documents; a single document gives no interval (infinite).
        document_bits, document_bytes: float64 and int64 (documents,), in the order given, for paired tests.
    """

    bits: float
    num_bytes: int
    num_tokens: int
    interval: Interval
    document_bits: np.ndarray
    document_bytes: np.ndarray

    @property
    def value(self) -> float:
        """Bits per byte."""
        return self.bits / self.num_bytes


def bits_per_byte(
    network: Network,
    tokenizer: Tokenizer,
    documents_by_source: Mapping[str, Sequence[str]],
    *,
    context_length: int,
    stride: int | None = None,
) -> dict[str, BitsPerByte]:
    """Bits per byte of every source.

    Args:
        network: read in its `compute_dtype`; softmax and sums are in fp32 and fp64.
        tokenizer: that of the network.
        documents_by_source: texts by source; sources without any text are left out of the result.
        context_length: tokens a window holds at most; no longer than the network was trained for.
        stride: tokens by which windows of a long document advance; three quarters of the context unless given:
            tokens after the first window then see at least a quarter of a context, for a third more work.

    Raises:
        DataError: no text at all.
    """
    texts = [(source, text) for source, group in documents_by_source.items() for text in group if text]
    if not texts:
        raise DataError(
            "there is no text to measure bits per byte on", fix="give documents that are not empty"
        )
    start = tokenizer.eos_id
    token_lists = [[start, *ids] for ids in tokenizer.encode_batch([text for _, text in texts])]
    nll = nll_per_token(network, token_lists, context_length=context_length, stride=stride)
    bits = np.array([float(row.sum(dtype=np.float64)) for row in nll]) / math.log(2)
    sizes = np.array([len(text.encode()) for _, text in texts], dtype=np.int64)
    result = {}
    for source in documents_by_source:
        chosen = np.array([index for index, (name, _) in enumerate(texts) if name == source], dtype=np.int64)
        if len(chosen):
            num_tokens = sum(len(nll[index]) for index in chosen)
            result[source] = _summary(bits[chosen], sizes[chosen], num_tokens)
    return result


def pool(parts: Sequence[BitsPerByte]) -> BitsPerByte:
    """Several sources as one: total bits over total bytes, documents in the order of the parts."""
    bits = np.concatenate([part.document_bits for part in parts])
    sizes = np.concatenate([part.document_bytes for part in parts])
    return _summary(bits, sizes, sum(part.num_tokens for part in parts))


def compare(a: BitsPerByte, b: BitsPerByte) -> Paired:
    """The paired difference a - b in bits per byte of the same documents, each weighing by its length.

    `won` counts the documents where a needs more bits.

    Raises:
        ValueError: the two were measured on different documents, or on fewer than two.
    """
    if not np.array_equal(a.document_bytes, b.document_bytes):
        raise ValueError("the two were not measured on the same documents")
    sizes = a.document_bytes
    return paired_difference(a.document_bits / sizes, b.document_bits / sizes, weights=sizes)


def _summary(bits: np.ndarray, sizes: np.ndarray, num_tokens: int) -> BitsPerByte:
    total, num_bytes = float(bits.sum()), int(sizes.sum())
    interval = Interval(total / num_bytes, -math.inf, math.inf)
    if len(bits) > 1:
        interval = bootstrap(np.stack((bits, sizes), axis=1), _ratio)
    return BitsPerByte(total, num_bytes, num_tokens, interval, bits, sizes)


def _ratio(columns: np.ndarray) -> float:
    bits, sizes = columns.sum(axis=0)
    return float(bits / sizes)


@dataclass(frozen=True)
class _Window:
    """A piece of a sequence: `ids` are read, and the last `num_scored` predictions count."""

    sequence: int
    first: int
    ids: Sequence[int]
    num_scored: int


def nll_per_token(
    network: Network,
    sequences: Sequence[Sequence[int]],
    *,
    context_length: int,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[np.ndarray]:
    """Negative log-likelihood in nats of every token but the first, given those before it.

    Sequences are read without gradient, windows of like length together, so padding costs next to nothing.

    Args:
        network: read in its `compute_dtype`.
        sequences: token ids; those with fewer than two have an empty result.
        context_length: tokens that a window reads at most.
        stride: tokens by which windows advance in longer sequences; three quarters of the context unless given.
        batch_tokens: tokens read at once.

    Returns:
        fp32 arrays (len(sequence) - 1,), in order.

    Raises:
        ValueError: a stride outside 1 .. context_length.
    """
    stride = max(1, context_length * 3 // 4) if stride is None else stride
    if not 1 <= stride <= context_length:
        raise ValueError(f"a stride of {stride} does not fit a context of {context_length} tokens")
    result = [np.empty(max(0, len(ids) - 1), dtype=np.float32) for ids in sequences]
    windows = [
        w for number, ids in enumerate(sequences) for w in _windows(number, ids, context_length, stride)
    ]
    windows.sort(key=lambda window: len(window.ids))  # stable: equal lengths keep their order
    with torch.no_grad():
        for batch in _batches(windows, batch_tokens):
            nll_N = _read(network, batch).numpy()
            at = 0
            for window in batch:
                result[window.sequence][window.first : window.first + window.num_scored] = nll_N[
                    at : at + window.num_scored
                ]
                at += window.num_scored
    return result


def _windows(number: int, ids: Sequence[int], context_length: int, stride: int) -> Iterator[_Window]:
    """Cut a sequence so that every token but the first is scored once."""
    num_targets = len(ids) - 1
    scored = 0
    while scored < num_targets:
        end = min(num_targets, context_length if scored == 0 else scored + stride)
        begin = max(0, end - context_length)
        yield _Window(number, scored, ids[begin : end + 1], end - scored)
        scored = end


def _batches(windows: Sequence[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Neighbours in a list sorted by length, as many as fit when padded to the longest."""
    batch: list[_Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * (len(window.ids) - 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _read(network: Network, batch: Sequence[_Window]) -> Tensor:
    """Nll of the scored tokens of a batch, window after window, fp32 (N,)."""
    width = max(len(window.ids) for window in batch) - 1
    ids_BT = torch.zeros(len(batch), width, dtype=torch.int64)  # padding on the right: nothing attends to it
    scored_BT = torch.zeros(len(batch), width, dtype=torch.bool)
    targets: list[int] = []
    for row, window in enumerate(batch):
        length = len(window.ids) - 1
        ids_BT[row, :length] = torch.tensor(window.ids[:-1])
        scored_BT[row, length - window.num_scored : length] = True
        targets += window.ids[-window.num_scored :]
    device = network.head_weight.device
    hidden_ND = network(ids_BT.to(device))[scored_BT.to(device)]
    targets_N = torch.tensor(targets, device=device)
    weights_N = torch.ones(len(targets), device=device)
    _, nll_N = fused_cross_entropy(hidden_ND, network.head_weight, targets_N, weights_N)
    return nll_N.float().cpu()
