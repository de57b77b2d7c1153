"""Token shards: documents as token ids in one memory-mapped file, delimited, readable at any offset.

A shard is a folder of `tokens.bin` (unsigned, little endian, 2 or 4 bytes each), `offsets.bin` (int64, where
each document begins, and the end), `sources.bin` (uint16, which source each document is from) and
`shard.json`, which says what the others must hold. Opening one reads the offsets only.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kweek.errors import DataError, KweekError
from kweek.store.artifact import ArtifactWriter
from kweek.store.files import read_json

FORMAT = 1
_FIX = "make the shard anew"
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_SIZES = ("num_documents", "num_tokens", "vocab_size")
_MAX_SOURCES = 1 << 16

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ShardInfo:
    """What `shard.json` says. `sources` are names; a document's number in `sources.bin` is an index into them."""

    dtype: str
    num_documents: int
    num_tokens: int
    vocab_size: int
    tokenizer: str
    sources: tuple[str, ...]


def write_shard(
    out: ArtifactWriter,
    documents: Iterable[Sequence[int] | npt.NDArray[np.integer[Any]]],
    *,
    vocab_size: int,
    tokenizer: str,
    sources: Iterable[str] | None = None,
    folder: str = "",
) -> ShardInfo:
    """Write documents as they come; memory holds one of them and the offsets.

    Args:
        out: the artifact that the shard becomes part of.
        documents: token ids of each document, in [0, vocab_size).
        vocab_size: decides between 2 and 4 bytes per token.
        tokenizer: fingerprint of the tokenizer, so that a shard is not read with another one.
        sources: name of each document's source, as many as there are documents.
        folder: where in the artifact; "" is its top.

    Raises:
        DataError: an id outside the vocabulary, or not as many sources as documents.
    """
    prefix = f"{folder}/" if folder else ""
    name = "uint16" if vocab_size <= 1 << 16 else "uint32"
    offsets, numbers = array("q", [0]), array("H")
    known: dict[str, int] = {}
    labels = iter(sources) if sources is not None else None
    with ExitStack() as stack:
        file = stack.enter_context(
            io.BufferedWriter(stack.enter_context(out.open(f"{prefix}tokens.bin")), 1 << 20)
        )
        for ids in documents:
            tokens = np.asarray(ids, np.int64)
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
                raise DataError(
                    f"document {len(numbers)} holds a token outside the vocabulary of {vocab_size}"
                )
            label = next(labels, None) if labels is not None else ""
            if label is None:
                raise DataError(f"document {len(numbers)} has no source", fix="give one source per document")
            numbers.append(known.setdefault(label, len(known)))
            file.write(tokens.astype(_DTYPES[name]).tobytes())
            offsets.append(offsets[-1] + len(tokens))
            if len(known) > _MAX_SOURCES:
                raise DataError(f"over {_MAX_SOURCES} sources", fix="name sources more coarsely")
    if labels is not None and next(labels, None) is not None:
        raise DataError("more sources than documents", fix="give one source per document")
    out.write_bytes(f"{prefix}offsets.bin", np.asarray(offsets, "<i8").tobytes())
    out.write_bytes(f"{prefix}sources.bin", np.asarray(numbers, "<u2").tobytes())
    info = ShardInfo(name, len(numbers), offsets[-1], vocab_size, tokenizer, tuple(known))
    out.write_json(
        f"{prefix}shard.json",
        {
            "format": FORMAT,
            "dtype": info.dtype,
            "num_documents": info.num_documents,
            "num_tokens": info.num_tokens,
            "vocab_size": info.vocab_size,
            "tokenizer": info.tokenizer,
            "sources": list(info.sources),
        },
    )
    return info


class Shard:
    """A shard on disk. `shard[i]` is a view of document i's tokens; nothing is copied or read ahead."""

    def __init__(
        self, info: ShardInfo, tokens: Tokens, offsets: npt.NDArray[np.int64], sources: Tokens
    ) -> None:
        self.info = info
        self.tokens = tokens
        self.offsets = offsets
        self.source_ids = sources

    @classmethod
    def open(cls, folder: Path) -> Shard:
        """Map a shard into memory.

        Raises:
            DataError: a file is missing, has the wrong size, or contradicts the others.
        """
        info = _read_info(folder / "shard.json")
        tokens = _map(folder / "tokens.bin", _DTYPES[info.dtype], info.num_tokens)
        offsets = _map(folder / "offsets.bin", np.dtype("<i8"), info.num_documents + 1)
        sources = _map(folder / "sources.bin", np.dtype("<u2"), info.num_documents)
        if offsets[0] != 0 or offsets[-1] != info.num_tokens or bool((np.diff(offsets) < 0).any()):
            raise DataError("the offsets are damaged", where=str(folder / "offsets.bin"), fix=_FIX)
        if len(sources) and int(sources.max()) >= len(info.sources):
            raise DataError("the source numbers are damaged", where=str(folder / "sources.bin"), fix=_FIX)
        return cls(info, tokens, offsets, sources)

    def __len__(self) -> int:
        return self.info.num_documents

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents together."""
        return self.info.num_tokens

    def __getitem__(self, index: int) -> Tokens:
        """The tokens of one document. Raises IndexError beyond the last."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def source(self, index: int) -> str:
        """The name of a document's source."""
        return self.info.sources[int(self.source_ids[index])]

    def document_at(self, position: int) -> int:
        """The number of the document that holds the token at `position` of the whole shard."""
        if not 0 <= position < self.num_tokens:
            raise IndexError(f"token {position} of {self.num_tokens}")
        return int(np.searchsorted(self.offsets, position, side="right")) - 1


def _read_info(path: Path) -> ShardInfo:
    """Read and check `shard.json`.

    Raises:
        DataError: missing, not JSON, of another format, or with values that cannot be.
    """
    try:
        plain = read_json(path)
    except KweekError as error:
        raise DataError(error.what, where=error.where, fix=_FIX) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise DataError("not a shard of this format", where=str(path), fix=_FIX)
    sizes: list[Any] = [plain.get(name) for name in _SIZES]
    names = plain.get("sources")
    sound = (
        plain.get("dtype") in _DTYPES
        and all(type(size) is int and 0 <= size < 1 << 62 for size in sizes)
        and isinstance(plain.get("tokenizer"), str)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
    )
    if not sound:
        raise DataError("a value is missing or of the wrong type", where=str(path), fix=_FIX)
    return ShardInfo(
        plain["dtype"], sizes[0], sizes[1], sizes[2], plain["tokenizer"], tuple(plain["sources"])
    )


def _map(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """Map a file that must hold exactly `count` values.

    Raises:
        DataError: it is missing or has another size.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), fix=_FIX) from error
    expected = count * dtype.itemsize
    if size != expected:
        raise DataError(f"has {size:,} bytes where {expected:,} are expected", where=str(path), fix=_FIX)
    if count == 0:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype, mode="r", shape=(count,))
