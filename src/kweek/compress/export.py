"""A model folder as a GGUF file, and a GGUF file as a model folder.

The file is what llama.cpp and everything built on it load; the folder is what `transformers`, vLLM and Kweek load.
Nothing but this package takes part, no conversion script and no other engine. Tensors pass one at a time.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

import torch
from torch import Tensor

from kweek.model import gguf
from kweek.model.checkpoint import open_tensors, read_codes, read_weight, save_model
from kweek.model.config import ModelConfig
from kweek.model.gguf_blocks import BLOCK_SIZE, encode, encode_codes, lossless_type
from kweek.model.gguf_metadata import network_fields, tokenizer_fields
from kweek.model.gguf_write import TensorToWrite, Value, write_gguf
from kweek.model.layout import tensor_shapes
from kweek.model.quantized import packed_bits
from kweek.model.tensors import TensorFolder
from kweek.protocols import Progress, silent
from kweek.store import files
from kweek.store.artifact import ArtifactWriter, fingerprint
from kweek.tokenize.tokenizer import Tokenizer

#: What matrices become. Norms and biases are fp32 in every case, as llama.cpp wants them.
Kind = Literal["stored", "f32", "f16", "q8_0", "q4_0"]

_CODE = "1"  # raised when the same file would give another folder
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q5_0": 8, "BF16": 32}  # llama.cpp's `llama_ftype`
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_VALUES_AT_ONCE = 1 << 22  # 16 MB of fp32 at a time


@dataclass(frozen=True)
class Exported:
    """A GGUF file that was written and read again.

    Attributes:
        path: of the file.
        num_bytes, sha256: of the file.
        num_parameters: values in all tensors.
        types: number of tensors by stored type.
        errors: by stored type, the root mean square of what was lost over that of the values; 0 is lossless.
        notes: what became otherwise than asked for, or what llama.cpp does otherwise; a sentence each.
    """

    path: Path
    num_bytes: int
    sha256: str
    num_parameters: int
    types: dict[str, int]
    errors: dict[str, float]
    notes: list[str] = field(default_factory=list)


def export_gguf(folder: Path, target: Path, kind: Kind = "stored", progress: Progress = silent) -> Exported:
    """Write a model folder as a GGUF file, atomically, then read it again and compare.

    Args:
        folder: a checkpoint folder with its tokenizer.
        target: the file; its folder must exist.
        kind: "stored" changes no value: codes of up to 8 bits become the blocks of Q4_0, Q5_0 or Q8_0, floats stay.
            The others round: "q8_0" all matrices, "q4_0" all but embedding and head, which become Q8_0. Matrices of
            codes that fit Q4_0 are never rounded again by "q4_0".
        progress: counts parameters, twice: written and compared.

    Raises:
        CheckpointError: a broken folder, a tokenizer that llama.cpp would read differently, values beyond fp16.
        StoreError: the disk refuses; what was at `target` is then still there.
    """
    with files.open_atomic(target) as stream:
        notes = write_model(cast(BinaryIO, stream), folder, kind, progress)
    return compare(folder, target, notes, progress)


def write_model(stream: BinaryIO, folder: Path, kind: Kind, progress: Progress = silent) -> list[str]:
    """Write a model folder as GGUF into a stream; returns the notes of `Exported`. Errors as `export_gguf`."""
    tokenizer = Tokenizer.load(folder)
    with open_tensors(folder) as (config, tensors):
        plan = {name: _type_of(name, shape, tensors, kind) for name, shape in tensor_shapes(config).items()}
        vocabulary, notes = tokenizer_fields(tokenizer, config)
        for reason in sorted({reason for _, reason in plan.values() if reason}):
            notes.append(f"{sum(reason == other for _, other in plan.values())} matrices {reason}")
        fields = _general_fields(folder, config, plan) | network_fields(config) | vocabulary
        counter = _Counter(progress, config)
        entries = [
            TensorToWrite(
                gguf.gguf_name(name),
                shape,
                plan[name][0],
                _pieces(config, tensors, name, plan[name][0], counter),
            )
            for name, shape in tensor_shapes(config).items()
        ]
        if config.rope_scaling is not None:
            factors = gguf.frequency_factors(config)
            entries.append(
                TensorToWrite(
                    gguf.FREQUENCY_FACTORS, tuple(factors.shape), "F32", lambda: [encode(factors, "F32", "")]
                )
            )
        write_gguf(stream, fields, entries)
    return notes


def compare(folder: Path, path: Path, notes: list[str], progress: Progress = silent) -> Exported:
    """Read a GGUF file beside the folder it was made from. Errors as `load_model` and `load_gguf`."""
    lost: defaultdict[str, float] = defaultdict(float)
    total: defaultdict[str, float] = defaultdict(float)
    types: Counter[str] = Counter()
    with open_tensors(folder) as (config, tensors), gguf.open_gguf(path) as (_, file):
        counter = _Counter(progress, config, "comparing")
        for name, shape in tensor_shapes(config).items():
            theirs = gguf.read_weight(file, name, config)
            ours = read_weight(tensors, name, shape).to(torch.float32)
            kind = file.tensors[gguf.gguf_name(name)].type_name
            types[kind] += 1
            lost[kind] += float((theirs - ours).square().sum(dtype=torch.float64))
            total[kind] += float(ours.square().sum(dtype=torch.float64))
            counter.add(ours.numel())
    errors = {kind: (lost[kind] / total[kind]) ** 0.5 if total[kind] else 0.0 for kind in types}
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Exported(path, path.stat().st_size, digest, counter.total, dict(types), errors, notes)


def import_gguf(path: Path, folder: Path) -> list[str]:
    """Write a GGUF file as a folder that `transformers` loads, in fp32, which holds every type's values exactly.

    Returns:
        the names of the files written.

    Raises:
        CheckpointError: as `load_gguf`.
        StoreError: the disk refuses, or something else is at `folder`.
    """
    network, tokenizer = gguf.load_gguf(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    mark = fingerprint("import_gguf", {"sha256": digest}, {}, _CODE)
    with ArtifactWriter(folder, kind="model", fingerprint=mark, lineage={path.name: digest}) as out:
        save_model(out, network)
        tokenizer.save(out)
        out.metrics["num_parameters"] = network.config.num_parameters()["total"]
        return sorted(file.name for file in out.directory.iterdir())


class _Counter:
    """Parameters done so far, told to a `Progress`."""

    def __init__(self, progress: Progress, config: ModelConfig, note: str = "writing") -> None:
        self.total = config.num_parameters()["total"]
        self._progress, self._note, self._done = progress, note, 0

    def add(self, number: int) -> None:
        """Count."""
        self._done += number
        self._progress(self._done, self.total, self._note)


def _type_of(name: str, shape: tuple[int, ...], tensors: TensorFolder, kind: Kind) -> tuple[str, str]:
    """The type a tensor is stored in, and, where it is another than asked for, why ("are ... because ...")."""
    if len(shape) == 1:
        return "F32", ""
    exact = _exact_type(name, shape, tensors)
    if kind == "stored":
        return (
            (exact, "") if exact else ("F32", "are stored as F32, because no smaller type holds them exactly")
        )
    if kind in ("f32", "f16"):
        return kind.upper(), ""
    if shape[-1] % BLOCK_SIZE:
        return "F16", f"have rows of {shape[-1]}, no multiple of {BLOCK_SIZE}, and are stored as F16"
    if kind == "q4_0" and (exact == "Q4_0" or name not in (_EMBEDDING, _HEAD)):
        return "Q4_0", ""
    return "Q8_0", ""


def _exact_type(name: str, shape: tuple[int, ...], tensors: TensorFolder) -> str | None:
    """The type that holds a stored matrix without a change, or None."""
    if name in tensors.shapes:
        dtype = tensors.dtypes[name]
        return dtype if dtype in ("F32", "F16", "BF16") else None
    base = name.removesuffix(".weight")
    bits = packed_bits(tensors.shapes[f"{base}.weight_packed"][1], shape[1])
    groups = tensors.shapes[f"{base}.weight_scale"][1]
    fits = bits is not None and tensors.dtypes[f"{base}.weight_scale"] == "F16"
    return lossless_type(bits, shape[1], groups) if fits and bits is not None else None


def _pieces(
    config: ModelConfig, tensors: TensorFolder, name: str, type_name: str, counter: _Counter
) -> Callable[[], Iterator[bytes]]:
    """The bytes of a tensor, some rows at a time, when asked for."""

    def ordered(rows: Tensor) -> Tensor:
        return gguf.interleave(rows, config.head_dim) if gguf.is_interleaved(name, config) else rows

    def produce() -> Iterator[bytes]:
        shape = tensor_shapes(config)[name]
        if name not in tensors.shapes and _exact_type(name, shape, tensors) == type_name:
            stored = read_codes(tensors, name, shape)
            codes, scale = ordered(stored.codes()), ordered(stored.scale_RG)
            for rows in _row_slices(shape):
                yield encode_codes(codes[rows], scale[rows], type_name)
        else:
            values = ordered(read_weight(tensors, name, shape))
            for rows in _row_slices(shape):
                yield encode(values[rows], type_name, name)
        counter.add(torch.Size(shape).numel())

    return produce


def _row_slices(shape: tuple[int, ...]) -> Iterable[slice]:
    """Slices of the first dimension of at most `_VALUES_AT_ONCE` values, but at least one row."""
    step = max(1, _VALUES_AT_ONCE // max(1, torch.Size(shape[1:]).numel()))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def _general_fields(
    folder: Path, config: ModelConfig, plan: Mapping[str, tuple[str, str]]
) -> dict[str, Value]:
    """Architecture, name and the type of most matrices."""
    most = Counter(kind for name, (kind, _) in plan.items() if "_proj.weight" in name).most_common(1)[0][0]
    return {
        "general.architecture": config.architecture,
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.quantization_version": 2,  # of ggml's blocks, since 2023
        "general.file_type": _FILE_TYPES[most],
    }
