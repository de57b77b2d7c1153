"""The bytes of a file in blocks, unpacked on the way, with damage and bombs recognised."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

BLOCK_BYTES = 1 << 20  # large enough that calls cost nothing, small enough to hold many
ZSTD_INPUT_BYTES = 1 << 10
ZSTD_WINDOW_BYTES = 32 << 20  # what archives of up to level 19 need; the format allows more memory than we do
MAX_EXPANSION = 1100  # deflate cannot pack text tighter than 1,030 to 1; zstd can, and only bombs do


class BadFile(Exception):
    """A file that cannot be used; the message is the reason, one clause."""


def blocks(path: Path, packing: str) -> Iterator[bytes]:
    """Blocks of `BLOCK_BYTES` of a file.

    Args:
        path: a regular file.
        packing: "", ".gz" or ".zst".

    Raises:
        BadFile: the archive is truncated or damaged, is a bomb, or its library is missing.
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as raw:
        if not packing:
            while block := raw.read(BLOCK_BYTES):
                yield block
            return
        limit = max(path.stat().st_size, 1) * MAX_EXPANSION
        produced = 0
        for block in _gunzipped(raw) if packing == ".gz" else _unzstd(raw):
            produced += len(block)
            if produced > limit:
                raise BadFile(f"the archive unpacks to over {MAX_EXPANSION} times its size")
            yield block


def _gunzipped(raw: IO[bytes]) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadFile(f"the gzip archive is truncated or damaged ({error})") from error


def _unzstd(raw: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise BadFile("reading .zst needs the package zstandard; pip install 'kweek[zst]'") from error
    # A push decompressor, because the library's stream reader ends silently where an archive is truncated.
    # It gives all that a piece of input holds at once, hence small pieces: four bytes can stand for 128 KiB.
    decompressor = None
    try:
        while piece := raw.read(ZSTD_INPUT_BYTES):
            while piece:
                if decompressor is None:
                    library = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
                    decompressor = library.decompressobj()
                if block := decompressor.decompress(piece):
                    yield block
                piece = b""
                if decompressor.eof:  # archives may be written one after another
                    piece, decompressor = decompressor.unused_data, None
    except zstandard.ZstdError as error:
        raise BadFile(f"the zstd archive is damaged ({error})") from error
    if decompressor is not None:
        raise BadFile("the zstd archive is truncated")
