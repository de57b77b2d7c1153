"""What several stages take from artifacts: token sources, validation texts, models with their tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from kweek.data import stories
from kweek.data.packing import Source
from kweek.model.checkpoint import load_model, save_model
from kweek.model.network import Network
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.tokenize.tokenizer import Tokenizer

TASKS = "tasks"  # the name of the generated source in a mix
MEAN_TASK_TOKENS = 60  # a generous lower estimate: how many generated texts a number of tokens needs


@dataclass(frozen=True)
class Mix:
    """What pretraining reads: the corpus's own sources and generated tasks, by share of rows."""

    task_share: float
    num_task_tokens: int
    key: str


def texts_by_source(corpus: Artifact, split: str, max_bytes: int | None = None) -> dict[str, list[str]]:
    """Documents of one split by source, in stored order, at most `max_bytes` of UTF-8 in all (shared evenly).

    The last document that exceeds a source's allowance is left out whole.
    """
    table = pq.read_table(corpus.file(f"{split}.parquet"), columns=["source", "text"])
    grouped: dict[str, list[str]] = {}
    for source, text in zip(table["source"].to_pylist(), table["text"].to_pylist(), strict=True):
        grouped.setdefault(source, []).append(text)
    if max_bytes is None:
        return grouped
    allowance = max_bytes / max(1, len(grouped))
    return {source: first_bytes(texts, allowance) for source, texts in sorted(grouped.items())}


def first_bytes(texts: Sequence[str], allowance: float) -> list[str]:
    """The first of some texts, at least one, without those that would not fit into so many bytes of UTF-8."""
    chosen: list[str] = []
    used = 0
    for text in texts:
        size = len(text.encode())
        if used + size <= allowance or not chosen:
            chosen.append(text)
            used += size
    return chosen


def validation_texts(corpus: Artifact, max_bytes: int, split: str = "validation") -> dict[str, list[str]]:
    """Held-out documents by source, with held-out task texts as one more source."""
    texts = texts_by_source(corpus, split, max_bytes)
    texts[TASKS] = stories.sample_texts(
        f"bits/{split}", 200, "validation" if split == "validation" else "test"
    )
    return texts


def token_sources(corpus: Artifact, tokenizer: Tokenizer, mix: Mix | None) -> list[Source]:
    """The training split as token ids, weighted by each source's bytes, and the generated tasks beside it."""
    sources = []
    grouped = texts_by_source(corpus, "train")
    total = sum(len(text) for texts in grouped.values() for text in texts)
    share = 1.0 - (mix.task_share if mix else 0.0)
    for name, texts in sorted(grouped.items()):
        weight = share * sum(map(len, texts)) / total
        sources.append(Source(name, _encode(tokenizer, texts), weight))
    if mix and mix.task_share > 0:
        count = max(64, mix.num_task_tokens // MEAN_TASK_TOKENS)
        texts = stories.sample_texts(mix.key, count, "train")
        sources.append(Source(TASKS, _encode(tokenizer, texts), mix.task_share, continues=False))
    return sources


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    return [np.asarray(ids, np.int64) for ids in tokenizer.encode_batch(list(texts)) if len(ids)]


def save(out: ArtifactWriter, network: Network, tokenizer: Tokenizer) -> None:
    """Write a model and its tokenizer into an artifact as a Hugging Face folder, with the size in its metrics."""
    save_model(out, network, torch.float32)
    tokenizer.save(out)
    out.metrics["num_parameters"] = network.config.num_parameters()["total"]
    out.metrics["num_bytes"] = out.path("model.safetensors").stat().st_size


def load(model: Artifact | Path) -> tuple[Network, Tokenizer]:
    """A model artifact's network (fp32) and tokenizer."""
    folder = model.path if isinstance(model, Artifact) else model
    return load_model(folder), Tokenizer.load(folder)
