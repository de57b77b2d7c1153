"""Checkpoint folders in the Hugging Face layout: config, weights in safetensors, generation config.

Nothing in a folder is imported or executed, and nothing is allocated before the names and shapes of all
tensors have been found to fit the config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from kweek.errors import CheckpointError, ConfigError
from kweek.model import quantized
from kweek.model.config import ModelConfig
from kweek.model.layout import tensor_shapes
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor
from kweek.model.tensors import SINGLE_FILE, TensorFolder, read_json, write_tensors
from kweek.store.target import Target, open_in, write_json_in

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def save_model(
    out: Target,
    network: Network,
    dtype: torch.dtype = torch.float32,  # lossless
    *,
    quantized_tensors: Mapping[str, QuantizedTensor] | None = None,
) -> None:
    """Write a folder that `transformers` (and Kweek) load without custom code.

    Args:
        out: an artifact being written, or a folder, which is created.
        network: its parameters are stored in `dtype`, an adapter merged into them.
        dtype: torch.float32, bfloat16 or float16.
        quantized_tensors: by name (`...q_proj.weight`), matrices that take the place of the network's own, the
            embedding too; the folder then says so in `quantization_config`.

    Raises:
        ConfigError: codes for a network with an adapter, which they would leave out or round away.
    """
    if quantized_tensors and network.adapter is not None:
        raise ConfigError(
            "the network has an adapter, which codes chosen without it would drop",
            fix="merge it, then quantise the merged network and measure it",
        )
    packed = dict(quantized_tensors or {})
    config = network.config
    stored: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name in packed:
            parts = packed.pop(name).tensors()
            stored |= {f"{name.removesuffix('.weight')}.{suffix}": part for suffix, part in parts.items()}
        else:
            stored[name] = tensor
    if packed:
        raise ValueError(f"the network has no matrix {sorted(packed)[0]}")
    name_of_dtype = str(dtype).removeprefix("torch.")
    document = config.to_hf() | {"dtype": name_of_dtype, "torch_dtype": name_of_dtype}
    if quantized_tensors:
        linears = [name for name in tensor_shapes(config) if "_proj.weight" in name or name == _HEAD]
        plain = [name.removesuffix(".weight") for name in linears if name not in quantized_tensors]
        if config.tied_embeddings:
            plain.append("lm_head")
        bits = {name.removesuffix(".weight"): part.num_bits for name, part in quantized_tensors.items()}
        document["quantization_config"] = quantized.quantization_config(bits, plain)
    generation = {
        "bos_token_id": document["bos_token_id"],
        "eos_token_id": document["eos_token_id"],
        "pad_token_id": document["pad_token_id"],
    }
    write_json_in(out, CONFIG_FILE, document)
    write_json_in(
        out, GENERATION_FILE, {key: value for key, value in generation.items() if value is not None}
    )
    with open_in(out, SINGLE_FILE) as stream:
        write_tensors(stream, stored, lambda _name, t: dtype if t.dtype == torch.float32 else t.dtype)


def load_config(folder: Path | str) -> ModelConfig:
    """The shape of the network in a folder.

    Raises:
        CheckpointError: no folder, no or broken `config.json`, an unsupported architecture or feature.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError("there is no such folder", where=str(folder))
    where = folder / CONFIG_FILE
    if not where.is_file():
        raise CheckpointError(
            f"there is no {CONFIG_FILE}",
            where=str(folder),
            fix="give the folder of a Hugging Face checkpoint",
        )
    document = read_json(where)
    config = ModelConfig.from_hf(document, str(where))
    if document.get("quantization_config") is not None:
        quantized.check_quantization(document["quantization_config"], str(where))
    return config


def load_model(folder: Path | str) -> Network:
    """Load a checkpoint folder: one file or shards, tied or not, fp32, bf16, fp16 or packed codes.

    Returns:
        the network in fp32; matrices of codes are dequantised.

    Raises:
        CheckpointError: an unsupported architecture, a missing, unexpected or misshapen tensor, one with values that
            are not numbers, a truncated or corrupt file.
    """
    with open_tensors(folder) as (config, tensors):
        network = Network(config)
        for name, target in network.state_dict().items():
            target.copy_(read_weight(tensors, name, tuple(target.shape)))
            check_finite(name, target, folder)
    return network


def check_finite(name: str, tensor: Tensor, folder: Path | str) -> None:
    """Raises:
    CheckpointError: the tensor, stored under this name, holds values that are not finite numbers.
    """
    if tensor.numel() and not all(part.isfinite() for part in tensor.aminmax()):
        raise CheckpointError(
            f"tensor {name} holds values that are not finite numbers",
            where=str(folder),
            fix="fetch or make the model again",
        )


@contextmanager
def open_tensors(folder: Path | str) -> Iterator[tuple[ModelConfig, TensorFolder]]:
    """The config and the open tensors of a folder, once they are found to fit each other.

    Raises:
        CheckpointError: as `load_model`; no weights have been read then.
    """
    config = load_config(folder)
    with TensorFolder(Path(folder)) as tensors:
        _check_tensors(config, tensors)
        yield config, tensors


def _check_tensors(config: ModelConfig, tensors: TensorFolder) -> None:
    where = str(tensors.folder)
    left = {name for name in tensors.shapes if not name.endswith("rotary_emb.inv_freq")}  # old Llama files
    for name, shape in tensor_shapes(config).items():
        base = name.removesuffix(".weight")
        if name in tensors.shapes:
            left.remove(name)
            if tensors.shapes[name] != shape:
                raise CheckpointError(
                    f"tensor {name} is {tensors.shapes[name]} instead of {shape}", where=where
                )
            if tensors.dtypes[name] not in ("F64", "F32", "F16", "BF16"):
                raise CheckpointError(
                    f"tensor {name} is of type {tensors.dtypes[name]}, which is not supported", where=where
                )
        elif f"{base}.weight_packed" in tensors.shapes:
            quantized.check_parts(base, tensors.shapes, shape, where)
            left -= {f"{base}.{suffix}" for suffix in quantized.SUFFIXES}
        elif "score.weight" in tensors.shapes:
            raise CheckpointError(
                "it is a model that scores, not one that writes",
                where=where,
                fix="give a language model (...ForCausalLM)",
            )
        else:
            raise CheckpointError(f"tensor {name} is missing", where=where, fix="fetch the model again")
    if config.tied_embeddings and _HEAD in left:
        left.remove(_HEAD)
        if tensors.shapes[_HEAD] != tensors.shapes.get(_EMBEDDING) or not torch.equal(
            tensors.read(_HEAD), tensors.read(_EMBEDDING)
        ):
            raise CheckpointError(
                "the config ties the head to the embedding, but the file holds another head",
                where=where,
                fix="set tie_word_embeddings to false in config.json",
            )
    if left:
        raise CheckpointError(f"tensor {sorted(left)[0]} is not part of this architecture", where=where)


def read_weight(tensors: TensorFolder, name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor by its plain name, dequantised where it is stored as codes.

    Raises:
        CheckpointError: its parts contradict each other or `shape`, or the file became unreadable.
    """
    if name in tensors.shapes:
        return tensors.read(name)
    return read_codes(tensors, name, shape).dequantize()


def read_codes(tensors: TensorFolder, name: str, shape: tuple[int, ...]) -> QuantizedTensor:
    """One tensor that is stored as codes, by its plain name.

    Raises:
        CheckpointError: as `read_weight`.
    """
    base = name.removesuffix(".weight")
    packed, scale, stored_shape = (tensors.read(f"{base}.{suffix}") for suffix in quantized.SUFFIXES)
    bits = quantized.packed_bits(packed.shape[1], shape[1])
    if packed.dtype != torch.int32 or tuple(stored_shape.tolist()) != shape or bits is None:
        raise CheckpointError(f"the parts of {base} do not fit together", where=str(tensors.folder))
    return QuantizedTensor(packed, scale, (shape[0], shape[1]), bits)
