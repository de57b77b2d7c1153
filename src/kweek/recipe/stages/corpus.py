"""Stage `corpus`: documents that are on this machine, cleaned, without duplicates, mixed and split.

Records: "funnel" {step, source, documents, bytes, rule?}, "share" {source, weight, wanted, taken, repeats},
"rejected" {path, reason} (the first thousand), "note" {text}.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from kweek.compute.hardware import Peak
from kweek.data import docstrings
from kweek.data.corpus import Settings, build, portion, write_corpus
from kweek.data.document import Document
from kweek.data.readers import Rejection, list_files, printable, read_folder
from kweek.data.split import Fractions
from kweek.errors import DataError
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting

FOLDER = "folder"  # name of the source that a user's folder is
DEFAULT_WEIGHTS = {docstrings.PYTHON_DOCS: 0.25, docstrings.TORCH_DOCS: 0.5, docstrings.PYTHON_SOURCE: 0.25}
MAX_RECORDED = 1000  # rejections in the records; the artifact lists all
# Measured on a shared core of a server: parsing source can be shared by threads, the rest of the work cannot.
PARSING_SECONDS, COMPARING_SECONDS, FOLDER_BYTES_PER_SECOND = 5.0, 3.5, 7e6


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {}

    folder: str | None = setting(
        None,
        doc="a folder of your own documents (txt, md, rst, py, html, jsonl, parquet, each also .gz or .zst)",
        reason="without one, documentation that is on every machine is read",
    )
    sources: dict[str, float] | None = setting(
        None,
        doc="weight of each source in the mix: folder, python-docs, torch-docs, python-source",
        reason="a folder alone when there is one; else documentation as far as there is some, and code",
    )
    mix_bytes: int | None = setting(
        None,
        doc="bytes of text in the mix, all splits together",
        reason="6 MB of the built-in sources (twice what the laptop recipe reads), all of a folder",
        gt=0,
    )
    hold_bytes: int = setting(
        128 << 20,
        doc="bytes of text held in memory; of a larger folder this much is taken, chosen by content",
        reason="needs about a gigabyte of memory and is more than a laptop can train on in a day",
        ge=1 << 20,
    )
    min_train_bytes: int = setting(
        200_000,
        doc="a training split with fewer bytes is refused",
        reason="with less, even a million parameters learn the text by heart",
        gt=0,
    )
    max_repeats: float = setting(
        1.0,
        doc="how often a source that is too small for its weight may be repeated in training",
        reason="a mix that falls short and says so is better than hidden repetition",
        ge=1,
        le=16,
    )
    validation_share: float = setting(
        0.04,
        doc="share of bytes for validation",
        reason="gives bits per byte to half a percent",
        gt=0,
        lt=0.4,
    )
    test_share: float = setting(
        0.04, doc="share of bytes for test", reason="as many as for validation", gt=0, lt=0.4
    )

    def weights(self) -> dict[str, float]:
        """The weights by source, defaults resolved.

        Raises:
            DataError: an unknown source, or the folder named and not given or the other way round.
        """
        weights = self.sources or ({FOLDER: 1.0} if self.folder else DEFAULT_WEIGHTS)
        for name in weights:
            if name not in (FOLDER, *docstrings.SOURCES):
                known = ", ".join((FOLDER, *docstrings.SOURCES))
                raise DataError(f"unknown source {name!r}", where="sources", fix=f"use some of {known}")
        if (FOLDER in weights) != (self.folder is not None):
            raise DataError(
                "a folder needs a weight, and the other way round", where="sources", fix="set both"
            )
        return dict(weights)


def external(config: Config) -> str:
    """What the documents depend on outside the run: the installed packages, and the folder's files.

    Raises:
        DataError: the folder is missing or holds no file that can be read.
    """
    digest = hashlib.sha256()
    if config.folder:
        for path, size, changed in list_files(Path(config.folder)):
            digest.update(f"{printable(path)}\0{size}\0{changed}\n".encode())
    if set(config.weights()) - {FOLDER}:
        versions = [platform.python_version()]
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(importlib.metadata.version("torch"))
        digest.update(" ".join(versions).encode())
    return digest.hexdigest()


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Time to read and compare; counted in no FLOP, as hardly any arithmetic is done."""
    size, seconds = 0.0, 0.0
    if config.folder:
        size = float(min(sum(file[1] for file in list_files(Path(config.folder))), config.hold_bytes))
        seconds = 2.0 + size / FOLDER_BYTES_PER_SECOND
    if set(config.weights()) - {FOLDER}:
        size += _mix_bytes(config) or 0
        seconds += PARSING_SECONDS / machine_peak.threads + COMPARING_SECONDS
    return Estimate(0.0, seconds, 3e8 + 6 * size, {"num_bytes": size})


def _mix_bytes(config: Config) -> int | None:
    return config.mix_bytes if config.mix_bytes or config.folder else 6_000_000


class _Rejections:
    """Takes every rejection: all into the artifact, the first thousand into the records too."""

    def __init__(self, ctx: StageContext, file: IO[bytes]) -> None:
        self._ctx, self._file = ctx, file
        self.count = 0

    def __call__(self, rejection: Rejection) -> None:
        self.count += 1
        entry = {"path": rejection.path, "reason": rejection.reason}
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        if self.count <= MAX_RECORDED:
            self._ctx.records.append("rejected", **entry)


def run(ctx: StageContext) -> None:
    """Build the corpus and write it.

    Raises:
        DataError: no usable documents, or too few.
    """
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)  # the stage takes seconds and starts anew after a kill
    weights = config.weights()
    settings = Settings(
        weights,
        mix_bytes=_mix_bytes(config),
        hold_bytes=config.hold_bytes,
        min_train_bytes=config.min_train_bytes,
        max_repeats=config.max_repeats,
        fractions=Fractions(config.validation_share, config.test_share),
    )
    with ctx.out.open("rejected.jsonl") as raw, io.BufferedWriter(raw) as file:
        reject = _Rejections(ctx, file)
        streams = _streams(ctx, weights, reject)
        try:
            corpus = build(
                streams,
                settings,
                seed=ctx.seed,
                progress=portion(ctx.progress, 0.7, 0.95),
                should_stop=ctx.should_stop,
            )
        except DataError as error:
            where = config.folder or error.where
            seen = (
                f"{error.what}; {reject.count:,} files or records were rejected"
                if reject.count
                else error.what
            )
            raise DataError(seen, where=where, fix=error.fix) from error
    for row in corpus.funnel.rows:
        ctx.records.append("funnel", **row)
    for share in corpus.shares:
        ctx.records.append(
            "share",
            source=share.source,
            weight=share.weight,
            wanted=share.wanted,
            taken=share.taken,
            repeats=share.repeats,
        )
    for note in corpus.notes:
        ctx.records.append("note", text=note)
    write_corpus(ctx.out, corpus)
    ctx.out.metrics["rejected"] = reject.count
    ctx.progress(1.0, 1.0, "written")


def _streams(
    ctx: StageContext, weights: Mapping[str, float], reject: _Rejections
) -> dict[str, Iterable[Document]]:
    """Every source as a stream of documents, each with its slice of the progress."""
    config: Config = ctx.config
    mix_bytes = _mix_bytes(config)
    streams: dict[str, Iterable[Document]] = {}
    for number, name in enumerate(sorted(weights)):
        part = portion(ctx.progress, 0.7 * number / len(weights), 0.7 * (number + 1) / len(weights))
        if name == FOLDER:
            streams[name] = read_folder(
                Path(config.folder or "."), source=FOLDER, reject=reject, progress=part
            )
        else:
            # A tenth more than the mix takes, as duplicates will be removed; without a limit, what fits.
            share = weights[name] / sum(weights.values())
            wanted = int((1.1 * mix_bytes if mix_bytes else config.hold_bytes) * share)
            streams[name] = docstrings.builtin_documents(name, wanted, processes=ctx.threads, progress=part)
    return streams
