"""Stage `tokenizer`: a byte-level BPE trained on a sample of the corpus and of the generated tasks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq

from kweek.data import stories
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import validation_texts
from kweek.store.artifact import Artifact
from kweek.tokenize.bpe import MULTIPLE, train

VALIDATION_BYTES = 400_000  # per split; the ratio is then good to three digits
SECONDS_PER_MEGABYTE = 0.25  # measured on one core of 2 GHz, counting and reading together
NUM_TASKS = 4000  # half a megabyte holds every name, thing and phrase many times over
ROWS_PER_BATCH = 512  # keeps a batch of long documents in tens of megabytes


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {"corpus": Role("documents to learn the vocabulary from")}

    threads: Literal[1, "all"] = setting(
        1, doc="CPU threads: 1 or all", reason="it takes seconds; the other cores belong to other stages"
    )
    vocab_size: int = setting(
        1024,
        doc=f"entries of the vocabulary, control tokens included, a multiple of {MULTIPLE}",
        reason="measured at one million parameters: a larger one takes the parameters from the layers",
        ge=288,
        le=1 << 20,
        multiple_of=MULTIPLE,
    )
    sample_bytes: int = setting(
        12_000_000,
        doc="bytes to train on; what the tasks leave is shared among the sources by their size",
        reason="measured: 12 MB reach 98.6% of the bytes per token that 99 MB reach",
        ge=1,
    )
    task_share: float = setting(
        0.3,
        doc="share of those bytes that generated tasks take",
        reason="measured at 1,024 entries: questions 3.3 bytes per token instead of 1.9, documents 5% fewer",
        ge=0,
        lt=1,
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Seconds by the size of the sample; a vocabulary costs no floating-point operation."""
    seconds = 1.0 + config.sample_bytes / 1e6 * SECONDS_PER_MEGABYTE
    return Estimate(0.0, seconds, 3e8 + 10.0 * config.sample_bytes, {"vocab_size": config.vocab_size})


def run(ctx: StageContext) -> None:
    """Train, measure bytes per token on held-out text of every source, and write the tokenizer's files."""
    config: Config = ctx.config
    corpus = ctx.inputs["corpus"]
    ctx.records.rewind(lambda record: False)  # a killed attempt starts again: it takes seconds
    ctx.progress(0, 2, "counting pairs")

    def texts() -> Iterator[str]:
        size = 0
        for text in sample_documents(corpus, round(config.sample_bytes * (1 - config.task_share))):
            size += len(text)
            yield text
        yield from _tasks(f"tokenizer/{ctx.seed}", round(size * config.task_share / (1 - config.task_share)))

    tokenizer = train(texts(), config.vocab_size)
    ctx.progress(1, 2, "measuring bytes per token")
    ratios = {}
    for source, held_out in validation_texts(corpus, VALIDATION_BYTES).items():
        num_tokens = sum(map(len, tokenizer.encode_batch(held_out)))
        if num_tokens:
            ratios[source] = sum(len(text.encode()) for text in held_out) / num_tokens
            ctx.records.append("bytes_per_token", source=source, value=ratios[source])
    tokenizer.save(ctx.out)
    ctx.out.metrics.update(vocab_size=tokenizer.vocab_size, bytes_per_token=ratios)
    ctx.progress(2, 2, "done", **ratios)


def _tasks(key: str, num_characters: int) -> Iterator[str]:
    """Generated tasks of about so many characters; they repeat, which weighs their words as new ones would."""
    texts = stories.sample_texts(key, NUM_TASKS, "train") if num_characters else []
    for text in itertools.cycle(texts):
        if num_characters <= 0:
            break
        num_characters -= len(text)
        yield text


def sample_documents(corpus: Artifact, max_bytes: int) -> Iterator[str]:
    """Training documents of about `max_bytes` UTF-8 in all, in stored order; every source in its proportion.

    Within a source the documents with the smallest ids are taken: ids are hashes of the content, so this is a
    sample without a generator, and the same one on every machine.
    """
    file = pq.ParquetFile(corpus.file("train.parquet"))
    by_source: dict[str, list[tuple[str, int]]] = {}
    for batch in file.iter_batches(ROWS_PER_BATCH, columns=["id", "source", "text"]):
        sizes = pc.binary_length(batch["text"]).to_pylist()
        rows = zip(batch["id"].to_pylist(), batch["source"].to_pylist(), sizes, strict=True)
        for document, source, size in rows:
            by_source.setdefault(source, []).append((document, size))
    total = sum(size for documents in by_source.values() for _, size in documents)
    chosen: set[str] = set()
    for documents in by_source.values():
        allowance = max_bytes / max(1, total) * sum(size for _, size in documents)
        for document, size in sorted(documents):
            if allowance <= 0:
                break
            chosen.add(document)
            allowance -= size
    for batch in file.iter_batches(ROWS_PER_BATCH, columns=["id", "text"]):
        for document, text in zip(batch["id"], batch["text"], strict=True):
            if document.as_py() in chosen:
                yield text.as_py()
