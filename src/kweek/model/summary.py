"""What is in a checkpoint: tensors with shape, stored type and norm, and size by part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from kweek.model import gguf
from kweek.model.checkpoint import open_tensors, read_weight
from kweek.model.config import ModelConfig
from kweek.model.gguf import gguf_name, open_gguf
from kweek.model.gguf_file import GGUFFile
from kweek.model.layout import tensor_shapes
from kweek.model.quantized import SUFFIXES, packed_bits
from kweek.model.tensors import TensorFolder
from kweek.protocols import ModelSummary


@dataclass(frozen=True)
class TensorSummary:
    """One tensor: its name, shape, type as stored, bytes as stored, Frobenius norm and root mean square."""

    name: str
    shape: tuple[int, ...]
    stored_as: str
    num_bytes: int
    norm: float
    root_mean_square: float


def part_of(name: str) -> str:
    """Which part of the network a tensor belongs to, in the words of `ModelConfig.num_parameters`."""
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name:
        return "head"
    if "norm" in name:
        return "norm"
    return "attention" if "self_attn" in name else "mlp"


def summarise(path: Path) -> ModelSummary:
    """Read every tensor of a checkpoint folder or GGUF file once, one at a time.

    Returns:
        `details` holds `config` (dict), `parts` ({part: {num_parameters, num_bytes}}) and `tensors` (list of
        `TensorSummary` as dicts, in network order).

    Raises:
        CheckpointError: as `load_model` and `load_gguf`.
    """
    if path.is_file():
        with open_gguf(path) as (config, file):
            return _collect(config, _gguf_tensors(config, file))
    with open_tensors(path) as (config, tensors):
        return _collect(config, _folder_tensors(config, tensors))


#: Name, fp32 values, type as stored, bytes as stored.
_Entry = tuple[str, Tensor, str, int]


def _folder_tensors(config: ModelConfig, tensors: TensorFolder) -> Iterator[_Entry]:
    for name, shape in tensor_shapes(config).items():
        values = read_weight(tensors, name, shape).to(torch.float32)
        if name in tensors.shapes:
            yield name, values, tensors.dtypes[name], tensors.bytes_of(name)
        else:
            base = name.removesuffix(".weight")
            num_groups = tensors.shapes[f"{base}.weight_scale"][1]
            bits = packed_bits(tensors.shapes[f"{base}.weight_packed"][1], shape[1])
            num_bytes = sum(tensors.bytes_of(f"{base}.{suffix}") for suffix in SUFFIXES)
            yield name, values, f"int{bits} by {values.shape[1] // num_groups}", num_bytes


def _gguf_tensors(config: ModelConfig, file: GGUFFile) -> Iterator[_Entry]:
    for name in tensor_shapes(config):
        info = file.tensors[gguf_name(name)]
        yield name, gguf.read_weight(file, name, config), info.type_name, info.num_bytes


def _collect(config: ModelConfig, entries: Iterator[_Entry]) -> ModelSummary:
    tensors: list[TensorSummary] = []
    parts: dict[str, dict[str, int]] = {}
    for name, values, stored_as, num_bytes in entries:
        norm = float(torch.linalg.vector_norm(values, dtype=torch.float64))
        root_mean_square = norm / math.sqrt(values.numel())
        tensors.append(TensorSummary(name, tuple(values.shape), stored_as, num_bytes, norm, root_mean_square))
        part = parts.setdefault(part_of(name), {"num_parameters": 0, "num_bytes": 0})
        part["num_parameters"] += values.numel()
        part["num_bytes"] += num_bytes
    return ModelSummary(
        architecture=config.architecture,
        num_parameters=sum(part["num_parameters"] for part in parts.values()),
        num_bytes=sum(part["num_bytes"] for part in parts.values()),
        details={"config": asdict(config), "parts": parts, "tensors": [asdict(tensor) for tensor in tensors]},
    )
