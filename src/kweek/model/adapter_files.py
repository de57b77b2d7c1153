"""Adapters on disk, in the format of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

PEFT loads what is written here onto the same base in transformers, and what PEFT writes is read here. The config says
how A and B are scaled and what else was changed; whatever Kweek would not compute as PEFT does is refused. PEFT does
not check that an adapter is put on the base it was trained over, and on another one of the same shape it answers
nonsense: a digest of the base is written along, where other readers pass it over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kweek.errors import CheckpointError, ConfigError
from kweek.model.adapter import TARGETS, AdapterConfig, adapted_places, attach
from kweek.model.adapter_linear import AdaptedLinear
from kweek.model.checkpoint import check_finite
from kweek.model.derived import places
from kweek.model.network import Network
from kweek.model.tensors import TensorFolder, read_json, write_tensors
from kweek.store.target import Target, open_in, write_json_in

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_DIGEST = "kweek_base"
_DIGESTED_VALUES = 4096  # of each tensor; training changes nearly all of them
_FLOATS = ("F64", "F32", "F16", "BF16")
#: Fields that say how an adapter was trained or by whom, not what it computes.
_HARMLESS = frozenset(
    (
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode", "layers_pattern",
        "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size",
        "revision", "runtime_config", "velora_config",
    )
)  # fmt: skip
#: Ways to begin that leave the base as it is; others ("pissa", "olora", "corda", "loftq") change it.
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal", "mica")


def save_adapter(out: Target, network: Network, base: str | None = None) -> None:
    """Write the adapter of a network, alone and in fp32, as PEFT does.

    Args:
        out: an artifact being written, or a folder, which is created.
        network: has an adapter.
        base: name or folder of the model that it is for, for readers who want to fetch it.

    Raises:
        ConfigError: there is no adapter.
    """
    config = network.adapter
    if config is None:
        raise ConfigError("the network has no adapter to write")
    with open_in(out, TENSOR_FILE) as stream:
        about = {_DIGEST: base_digest(network)}
        write_tensors(stream, dict(_tensors(network)), lambda _name, _tensor: torch.float32, about)
    write_json_in(
        out,
        CONFIG_FILE,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": config.rank,
            "lora_alpha": config.alpha,
            "target_modules": [name for name in TARGETS if name in config.targets],
            "use_rslora": config.rank_stabilised,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "init_lora_weights": True,
            "inference_mode": True,
            "modules_to_save": None,
        },
    )


def load_adapter(network: Network, folder: Path | str, *, any_base: bool = False) -> None:
    """Put the adapter in a folder on a network, in place; everything is checked before anything is changed.

    Args:
        network: the base, without an adapter.
        any_base: also onto other weights than those it was trained over, say the original of a quantised base.
            What PEFT wrote cannot be checked for that.

    Raises:
        ConfigError: the network has an adapter.
        CheckpointError: no such folder, a broken file, something Kweek does not compute, tensors that are missing, too
            many or of another shape, another base.
    """
    folder = Path(folder)
    if network.adapter is not None:
        raise ConfigError("the network has an adapter already", fix="merge or detach that one first")
    with TensorFolder(folder, TENSOR_FILE) as tensors:
        config = read_config(folder, tensors.shapes)
        _check_tensors(network, config, tensors)
        digest = tensors.metadata.get(_DIGEST)
        if digest is not None and digest != base_digest(network) and not any_base:
            raise CheckpointError(
                "the adapter was trained over other weights than these",
                where=str(folder),
                fix="load the model it was made from, or allow any base if you know what you do",
            )
        found = {name: tensors.read(name) for name in tensors.shapes}
    for name, tensor in found.items():
        check_finite(name, tensor, folder)
    attach(network, config, torch.Generator())
    for name, target in _tensors(network):
        target.copy_(found[name])


def read_config(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> AdapterConfig:
    """The shape of the adapter in a folder.

    Args:
        shapes: of its tensors; `target_modules` may be a pattern, and then their names say what it meant.

    Raises:
        CheckpointError: the file is missing, broken, or says something that Kweek does not compute.
    """
    where = str(folder / CONFIG_FILE)
    document = read_json(folder / CONFIG_FILE)
    if not isinstance(document, dict):
        raise CheckpointError("it is not a JSON object", where=where)
    document = dict(document)
    if document.pop("peft_type", None) != "LORA":
        raise CheckpointError("peft_type is not LORA, and no other kind is supported", where=where)
    expected = {"task_type": ("CAUSAL_LM", None), "bias": ("none", None), "init_lora_weights": _BEGINNINGS}
    for key, known in expected.items():
        value = document.pop(key, known[0])
        if value not in known:
            raise CheckpointError(f"{key} = {value!r} is not supported", where=where)
    rank, alpha = document.pop("r", None), document.pop("lora_alpha", None)
    stabilised, targets = document.pop("use_rslora", False), document.pop("target_modules", None)
    for key, value in document.items():
        if value and key not in _HARMLESS:
            raise CheckpointError(
                f"{key} = {value!r} is not supported",
                where=where,
                fix="merge the adapter with PEFT and load that",
            )
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"lora_alpha is {alpha!r}, not a number", where=where)
    if isinstance(targets, list) and all(isinstance(name, str) for name in targets):
        names = {name.rpartition(".")[2] for name in targets}
    else:
        names = {
            match[1] for match in map(re.compile(r".*\.(\w+)\.lora_[AB]\.weight").fullmatch, shapes) if match
        }
    try:
        ordered = sorted(names, key=lambda name: TARGETS.index(name) if name in TARGETS else -1)
        return AdapterConfig(rank, float(alpha), tuple(ordered), bool(stabilised))
    except ConfigError as error:
        raise CheckpointError(f"{error.where}: {error.what}", where=where) from error


def base_digest(network: Network) -> str:
    """Tells the frozen weights under an adapter from others, by about 4,096 values of each tensor, evenly spread."""
    digest = hashlib.sha256()
    layers = places(network)
    for place in layers:
        base = place.layer.base if isinstance(place.layer, AdaptedLinear) else place.layer
        for tensor in (base.weight, base.bias):
            if tensor is not None:
                _digest(digest, tensor)
    inside = {id(module) for place in layers for module in place.layer.modules()}
    for module in network.modules():
        if id(module) not in inside:
            for parameter in module.parameters(recurse=False):
                _digest(digest, parameter)
    return digest.hexdigest()


def _digest(digest: Any, tensor: Tensor) -> None:
    digest.update(str(tuple(tensor.shape)).encode())
    values = tensor.detach().reshape(-1)
    step = max(1, len(values) // _DIGESTED_VALUES) | 1  # odd: a power of two would see the same columns only
    digest.update(np.ascontiguousarray(values[::step].float().cpu().numpy()).tobytes())


def _tensors(network: Network) -> Iterator[tuple[str, Tensor]]:
    """Every A and B by PEFT's name for it, as views that may be written into."""
    for place, layer in adapted_places(network):
        for part, (a_KI, b_OK) in layer.factors().items():
            yield f"{_PREFIX}{place.full_name(part)}.lora_A.weight", a_KI
            yield f"{_PREFIX}{place.full_name(part)}.lora_B.weight", b_OK


def _check_tensors(network: Network, config: AdapterConfig, tensors: TensorFolder) -> None:
    where = str(tensors.folder / TENSOR_FILE)
    left = set(tensors.shapes)
    for place in places(network):
        for part, rows in place.sizes.items():
            if part not in config.targets:
                continue
            name = _PREFIX + place.full_name(part)
            for kind, shape in (("A", (config.rank, place.layer.in_features)), ("B", (rows, config.rank))):
                full = f"{name}.lora_{kind}.weight"
                if full not in left:
                    raise CheckpointError(
                        f"tensor {full} is missing",
                        where=where,
                        fix="only adapters of all layers can be loaded",
                    )
                left.remove(full)
                if tensors.shapes[full] != shape:
                    raise CheckpointError(
                        f"tensor {full} is {tensors.shapes[full]} instead of {shape}",
                        where=where,
                        fix="load the model that the adapter was made from",
                    )
                if tensors.dtypes[full] not in _FLOATS:
                    raise CheckpointError(
                        f"tensor {full} is of type {tensors.dtypes[full]}, which is not supported",
                        where=where,
                    )
    if left:
        raise CheckpointError(f"tensor {sorted(left)[0]} is not part of such an adapter", where=where)
