"""Encoders from checkpoint folders: config and safetensors, checked against each other before a value is read."""

from __future__ import annotations

from pathlib import Path

import torch

from kweek.errors import CheckpointError
from kweek.model.encoder import Encoder
from kweek.model.encoder_config import EncoderConfig, tensor_shapes
from kweek.model.tensors import TensorFolder, read_json

CONFIG_FILE = "config.json"
#: What checkpoints hold beside the encoder itself: pooler and heads of the tasks it was trained on, and a constant.
_UNUSED = ("pooler.", "cls.", "classifier.", "qa_outputs.", "embeddings.position_ids")
_PREFIX = "bert."  # of the encoder inside a checkpoint that also has a head
_FLOATS = ("F64", "F32", "F16", "BF16")


def is_encoder(folder: Path) -> bool:
    """Whether a checkpoint folder says that it holds an encoder. Raises CheckpointError for a broken config."""
    document = read_json(folder / CONFIG_FILE)
    return isinstance(document, dict) and document.get("model_type") == "bert"


def load_encoder(folder: Path | str) -> Encoder:
    """Load an encoder in fp32 from a folder with one or several safetensors files, any float type.

    Raises:
        CheckpointError: no such folder, an unsupported architecture or feature, a missing, unexpected or misshapen
            tensor, a truncated or corrupt file.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"there is no {CONFIG_FILE}",
            where=str(folder),
            fix="give the folder of a Hugging Face checkpoint",
        )
    config = EncoderConfig.from_hf(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    with TensorFolder(folder) as tensors:
        names = _stored_names(config, tensors)
        encoder = Encoder(config)
        with torch.no_grad():
            for name, target in encoder.state_dict().items():
                target.copy_(tensors.read(names[name]))
    return encoder.requires_grad_(False)


def _stored_names(config: EncoderConfig, tensors: TensorFolder) -> dict[str, str]:
    """The name in the file of every tensor of the network, once all shapes fit."""
    where = str(tensors.folder)
    found = {}
    for stored in tensors.shapes:
        name = stored.removeprefix(_PREFIX)
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if not name.startswith(_UNUSED):
            found[name] = stored
    for name, shape in tensor_shapes(config).items():
        if name not in found:
            raise CheckpointError(f"tensor {name} is missing", where=where, fix="fetch the model again")
        stored = found[name]
        if tensors.shapes[stored] != shape:
            raise CheckpointError(
                f"tensor {stored} is {tensors.shapes[stored]} instead of {shape}", where=where
            )
        if tensors.dtypes[stored] not in _FLOATS:
            raise CheckpointError(
                f"tensor {stored} is of type {tensors.dtypes[stored]}, which is not supported", where=where
            )
    left = found.keys() - tensor_shapes(config).keys()
    if left:
        raise CheckpointError(f"tensor {sorted(left)[0]} is not part of this architecture", where=where)
    return found
