"""Safetensors on disk: written as a stream, read through checks, from one file or from shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kweek.errors import CheckpointError, StoreError
from kweek.store import files

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}


def write_tensors(
    stream: BinaryIO,
    tensors: Mapping[str, Tensor],
    dtype_of: Callable[[str, Tensor], torch.dtype],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, converting one tensor at a time.

    Args:
        stream: takes the bytes.
        tensors: by name, in the order of the file.
        dtype_of: the stored dtype of each; asked twice, once for the header.
        metadata: more of the header's own entries; other readers pass them over.
    """
    about = {"format": "pt"}  # transformers refuses a file without it
    header: dict[str, Any] = {"__metadata__": about | dict(metadata or {})}
    position = 0
    for name, tensor in tensors.items():
        dtype = dtype_of(name, tensor)
        end = position + tensor.numel() * dtype.itemsize
        header[name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data starts aligned
    stream.write(len(text).to_bytes(8, "little") + text)
    for name, tensor in tensors.items():
        stored = tensor.detach().to("cpu", dtype_of(name, tensor)).contiguous()
        if stored.numel():
            stream.write(stored.flatten().view(torch.uint8).numpy().data)


class TensorFolder:
    """The tensors of a checkpoint folder, whether in one file or in shards; use it in a `with` block.

    Args:
        file: the name of the single file; only that of a whole model may be in shards instead.

    Attributes:
        shapes: of every tensor, by name.
        dtypes: likewise, in the format's own words ("BF16").
        metadata: the header's own entries, of the last file read.

    Raises:
        CheckpointError: no safetensors files, a truncated or corrupt one, an index that names a missing file,
            a file elsewhere, or tensors that its files do not hold.
    """

    def __init__(self, folder: Path, file: str = SINGLE_FILE) -> None:
        self.folder = folder
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        self._stack = ExitStack()
        try:
            if file == SINGLE_FILE and (folder / INDEX_FILE).is_file():
                self._open_shards()
            elif (folder / file).is_file():
                self._open_file(folder / file, None)
            else:
                raise _no_weights(folder, file)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> TensorFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(self.bytes_of(name) for name in self.shapes)

    def bytes_of(self, name: str) -> int:
        """Bytes of one tensor as stored; dtypes that Kweek does not read count as one byte per value."""
        dtype = _DTYPES.get(self.dtypes[name])
        return int(torch.Size(self.shapes[name]).numel()) * (dtype.itemsize if dtype else 1)

    def read(self, name: str) -> Tensor:
        """One tensor in its stored dtype.

        Raises:
            CheckpointError: it is of a dtype that Kweek does not read, or the file became unreadable.
        """
        if self.dtypes[name] not in _DTYPES:
            raise CheckpointError(
                f"tensor {name} is of type {self.dtypes[name]}, which is not supported",
                where=str(self.folder),
            )
        try:
            tensor: Tensor = self._handles[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"tensor {name} cannot be read ({error})", where=str(self.folder)
            ) from error
        return tensor

    def _open_shards(self) -> None:
        where = self.folder / INDEX_FILE
        index = read_json(where)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError("there is no weight_map of names to files", where=str(where))
        by_file: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            by_file.setdefault(shard, set()).add(name)
        for shard, names in sorted(by_file.items()):
            if shard in (".", "..") or any(sign in shard for sign in "/\\:\0"):
                raise CheckpointError(
                    f"it names {shard!r}, which is not a file of this folder", where=str(where)
                )
            if not (self.folder / shard).is_file():
                raise CheckpointError(
                    f"it names {shard!r}, which is missing", where=str(where), fix="fetch the model again"
                )
            self._open_file(self.folder / shard, names)

    def _open_file(self, path: Path, expected: set[str] | None) -> None:
        try:
            handle = self._stack.enter_context(safe_open(path, framework="pt"))
            names = set(handle.keys())
            self.metadata = dict(handle.metadata() or {})
            if expected is not None and not expected <= names:
                missing = sorted(expected - names)[0]
                raise CheckpointError(
                    f"the index says tensor {missing} is here, but it is not", where=str(path)
                )
            for name in sorted(names if expected is None else expected):
                part = handle.get_slice(name)
                self.shapes[name] = tuple(part.get_shape())
                self.dtypes[name] = part.get_dtype()
                self._handles[name] = handle
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"the file is truncated or corrupt ({error})", where=str(path), fix="fetch the model again"
            ) from error


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint. Raises CheckpointError when it is missing or broken."""
    try:
        return files.read_json(path)
    except StoreError as error:
        raise CheckpointError(error.what, where=error.where, fix=error.fix) from error


def _no_weights(folder: Path, file: str) -> CheckpointError:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return CheckpointError(
            "its weights are pickled, which can run code when loaded",
            where=str(folder),
            fix="convert it to safetensors",
        )
    kind = "a Hugging Face checkpoint" if file == SINGLE_FILE else "an adapter"
    return CheckpointError(f"there is no {file}", where=str(folder), fix=f"give the folder of {kind}")
