"""The corpus: documents of several sources, cleaned, without duplicates, mixed by weight and split.

`build` runs the whole way with text in memory, bounded by `Settings.hold_bytes`; whatever leaves on the way
is counted in the funnel under the rule that took it out. The result depends on the documents and the seed,
not on the order in which a disk lists them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kweek.data.clean import Boilerplate, clean_text, fault
from kweek.data.dedup import Removal, deduplicate
from kweek.data.document import Document
from kweek.data.funnel import Funnel, Tally
from kweek.data.mix import Reservoir, Share, mix, repeated
from kweek.data.split import SPLITS, Fractions, Split, assign
from kweek.errors import DataError, Interrupted
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.store.artifact import ArtifactWriter

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),  # 64-bit offsets: a column may hold over 2 GiB
        ("source", pa.string()),
        ("language", pa.string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("metadata", pa.string()),  # JSON
    ]
)
_ROW_GROUP = 1024  # documents per row group: small enough that a reader of one holds a few megabytes
_LOOK_EVERY = 256  # documents between two looks at the request to stop


@dataclass(frozen=True)
class Settings:
    """How a corpus is built. Weights must name exactly the sources given to `build`.

    Attributes:
        weights: share of the mix by source.
        mix_bytes: bytes of the mix; None takes all that the weights allow.
        hold_bytes: bytes of text held in memory; of more, the first in keyed order are taken.
        min_train_bytes: a smaller training split is an error.
        max_repeats: how often a source that is too small may be repeated in training.
        fractions: shares held out.
    """

    weights: Mapping[str, float]
    mix_bytes: int | None = None
    hold_bytes: int = 128 << 20
    min_train_bytes: int = 200_000
    max_repeats: float = 1.0
    fractions: Fractions = field(default_factory=Fractions)


@dataclass
class Corpus:
    """The documents of each split in keyed order, and how they came about."""

    splits: dict[Split, list[Document]]
    funnel: Funnel
    shares: list[Share]
    removed: list[Removal]

    @property
    def notes(self) -> list[str]:
        """What the user should know of sources that were too small."""
        return [share.note for share in self.shares if share.note]


def portion(progress: Progress, start: float, end: float) -> Progress:
    """A `Progress` whose whole way is the part from `start` to `end` of another's."""

    def inner(done: float, total: float, note: str = "", **values: float) -> None:
        progress(start + (end - start) * min(done / total, 1.0) if total else start, 1.0, note, **values)

    return inner


def build(
    streams: Mapping[str, Iterable[Document]],
    settings: Settings,
    *,
    seed: int,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Corpus:
    """Clean, deduplicate, mix and split.

    Args:
        streams: documents by their `source`, read once, one after another.
        settings: weights and limits.
        seed: decides which documents a mix takes when there are more than it needs.
        progress: told the share done of the work after reading.
        should_stop: asked while reading.

    Raises:
        DataError: nothing usable, or too little of it.
        Interrupted: `should_stop` said so.
    """
    funnel, names = Funnel(), sorted(streams)
    held = _collect(streams, settings, seed, funnel, should_stop)
    documents = _without_boilerplate(held, funnel)
    funnel.add("unique", Tally.of(documents), names)
    distinct = deduplicate(documents, portion(progress, 0.0, 0.9))
    gone = {removal.id for removal in distinct.removed}
    funnel.dropped("near duplicate", Tally.of(d for d in documents if d.id in gone))
    funnel.add("distinct", Tally.of(distinct.kept), names)
    by_source = {name: [document for document in distinct.kept if document.source == name] for name in names}
    empty = [name for name in names if not by_source[name]]
    if empty:
        raise DataError(
            f"source {empty[0]!r} holds no usable document", fix="see the counts of what was dropped"
        )
    mixed = mix(
        by_source, settings.weights, budget=settings.mix_bytes, seed=seed, max_repeats=settings.max_repeats
    )
    funnel.add("mixed", Tally.of(mixed.documents), names)
    sides = assign(mixed.documents, distinct.links, settings.fractions)
    splits: dict[Split, list[Document]] = {side: [] for side in SPLITS}
    for document in mixed.documents:
        splits[sides[document.id]].append(document)
    for side in SPLITS:
        funnel.add(side, Tally.of(splits[side]), names)
    _require(splits, settings, funnel)
    splits["train"] = [
        document
        for share in mixed.shares
        for document in repeated(
            [d for d in splits["train"] if d.source == share.source], share.repeats, seed
        )
    ]
    progress(1.0, 1.0, "splitting")
    return Corpus(splits, funnel, mixed.shares, distinct.removed)


def _collect(
    streams: Mapping[str, Iterable[Document]],
    settings: Settings,
    seed: int,
    funnel: Funnel,
    should_stop: ShouldStop,
) -> list[Document]:
    """Read every source through cleaning, rules and exact deduplication into memory, up to the limit."""
    read, cleaned = Tally(), Tally()
    drops: dict[str, Tally] = {}
    reservoirs: dict[str, Reservoir] = {}
    for name, stream in sorted(streams.items()):
        share = settings.weights[name] / sum(settings.weights.values())
        reservoir = reservoirs[name] = Reservoir(int(settings.hold_bytes * share), seed)
        for number, document in enumerate(stream):
            if number % _LOOK_EVERY == 0 and should_stop():
                raise Interrupted
            read.add(name, document.num_bytes)
            tidy = document.with_text(clean_text(document.text))
            if rule := fault(tidy.text):
                drops.setdefault(rule, Tally()).add(name, tidy.num_bytes)
                continue
            cleaned.add(name, tidy.num_bytes)
            reservoir.add(tidy)
    funnel.add("read", read, streams)
    for rule, tally in sorted(drops.items()):
        funnel.dropped(rule, tally)
    funnel.add("cleaned", cleaned, streams)
    found: dict[str, Document] = {}
    duplicate, over = Tally(), Tally()
    for name, reservoir in sorted(reservoirs.items()):
        if reservoir.num_duplicates:
            duplicate.add(name, reservoir.duplicate_bytes, reservoir.num_duplicates)
        if reservoir.num_over:
            over.add(name, reservoir.over_bytes, reservoir.num_over)
        for document in reservoir.documents():
            if found.setdefault(document.id, document) is not document:  # the same text in two sources
                duplicate.add(name, document.num_bytes)
    funnel.dropped("exact duplicate", duplicate)
    funnel.dropped("over the limit of bytes held", over)
    return list(found.values())


def _without_boilerplate(documents: list[Document], funnel: Funnel) -> list[Document]:
    """The documents without lines that stand in very many files; what is then left too short goes."""
    boilerplate = Boilerplate.find(documents)
    kept: dict[str, Document] = {}
    gone = Tally()
    for document in documents:
        bare = boilerplate.remove(document)
        if bare.id in kept or (bare is not document and fault(bare.text)):
            gone.add(document.source, document.num_bytes)
        else:
            kept[bare.id] = bare
    funnel.dropped("only boilerplate", gone)
    return list(kept.values())


def _require(splits: Mapping[Split, Sequence[Document]], settings: Settings, funnel: Funnel) -> None:
    """Refuse a corpus with which nothing could be trained or measured."""
    size = sum(document.num_bytes for document in splits["train"])
    found, read = funnel.total("read")
    if size < settings.min_train_bytes:
        raise DataError(
            f"the corpus is too small: {size:,} bytes for training remain of {read:,} read in {found:,} "
            f"documents, and at least {settings.min_train_bytes:,} are needed",
            fix="add documents, or lower min_train_bytes",
        )
    for side in SPLITS:
        if not splits[side]:
            raise DataError(f"no document is left for the {side} split", fix="add documents in more files")


def write_documents(file: IO[bytes], documents: Iterable[Document]) -> None:
    """Write documents as a Parquet table with the columns of `SCHEMA`, as a stream."""
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for document in documents:
            batch.append(
                {
                    "id": document.id,
                    "text": document.text,
                    "source": document.source,
                    "language": document.language,
                    "licence": document.licence,
                    "origin": document.origin,
                    "metadata": json.dumps(dict(document.metadata), ensure_ascii=False, sort_keys=True),
                }
            )
            if len(batch) == _ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
                batch = []
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a Parquet table written by `write_documents`, in stored order.

    Raises:
        DataError: the file is damaged or has other columns.
    """
    try:
        with pq.ParquetFile(path) as table:
            if missing := [name for name in SCHEMA.names if name not in table.schema_arrow.names]:
                raise DataError(
                    f"column {missing[0]!r} is missing", where=str(path), fix="build the corpus anew"
                )
            for batch in table.iter_batches(_ROW_GROUP, columns=SCHEMA.names):
                for row in batch.to_pylist():
                    yield Document(**{**row, "metadata": json.loads(row["metadata"])})
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise DataError(f"cannot be read ({reason})", where=str(path), fix="build the corpus anew") from error


def write_corpus(out: ArtifactWriter, corpus: Corpus) -> None:
    """Write the splits, the funnel and the list of near duplicates; fill the metrics.

    Files: train.parquet, validation.parquet, test.parquet, funnel.json, duplicates.jsonl.
    """
    for side in SPLITS:
        with out.open(f"{side}.parquet") as raw, io.BufferedWriter(raw) as file:
            write_documents(file, corpus.splits[side])
    out.write_json("funnel.json", corpus.funnel.rows)
    lines = (
        json.dumps({"id": removal.id, "kept": removal.kept_id, "similarity": round(removal.similarity, 4)})
        for removal in corpus.removed
    )
    out.write_text("duplicates.jsonl", "".join(f"{line}\n" for line in lines))
    for step in ("read", "unique", "distinct", "mixed", *SPLITS):
        documents, size = corpus.funnel.total(step)
        out.metrics[f"{step}_documents"], out.metrics[f"{step}_bytes"] = documents, size
    out.metrics["notes"] = corpus.notes
