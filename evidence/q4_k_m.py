"""A GGUF file in llama.cpp's Q4_K_M, by its own quantiser and its own rule of which tensor gets which type.

The package xllamacpp has the quantiser of single tensors (`ggml_quantize_chunk`) but not the program around it, so its
choice of types is repeated here (`llama_tensor_get_type` in llama-quant.cpp): Q4_K throughout, Q6_K for the output
(the embedding where they are tied), and for value and down projections of an eighth of the layers at either end and
every third between.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from kweek.compress.hessians import Inputs
from kweek.model.config import ModelConfig

_ROWS_OF = {"attn_q": "self_attn.qkv_proj", "attn_k": "self_attn.qkv_proj", "attn_v": "self_attn.qkv_proj"}
_ROWS_OF |= {"attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_up_proj", "ffn_up": "mlp.gate_up_proj"}
_ROWS_OF |= {"ffn_down": "mlp.down_proj"}


def type_of(name: str, config: ModelConfig) -> Type:
    """What Q4_K_M stores a tensor as."""
    if name == "output.weight" or (name == "token_embd.weight" and config.tied_embeddings):
        return Type.Q6_K
    if "attn_v." in name or "ffn_down." in name:
        layer, count = int(name.split(".")[1]), config.num_layers
        edge = count // 8
        if layer < edge or layer >= 7 * count // 8 or (layer - edge) % 3 == 2:
            return Type.Q6_K
    return Type.Q4_K


def write_q4_k_m(source: Path, target: Path, config: ModelConfig, importance: Inputs | None) -> int:
    """Quantise an F32 file; returns the bytes of its matrices.

    Args:
        importance: inputs of the matrices on calibration text; their mean squares weigh the columns, as llama.cpp's
            importance matrix does.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, config.architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, field.contents(), kind, sub)
    total = 0
    for tensor in reader.tensors:
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, np.array(tensor.data))
            continue
        kind = type_of(tensor.name, config)
        values = np.ascontiguousarray(tensor.data, dtype=np.float32)
        raw = _quantized(
            values, kind, None if importance is None else _weights(tensor.name, config, importance)
        )
        writer.add_tensor(tensor.name, raw, raw_dtype=kind)
        total += raw.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return total


def _weights(name: str, config: ModelConfig, inputs: Inputs) -> np.ndarray | None:
    """Mean squares of a matrix's inputs, fp32 (columns,); None for an embedding of its own."""
    if name == "output.weight" or (name == "token_embd.weight" and config.tied_embeddings):
        mean = inputs.hidden_ND.square().mean(0)
    elif name == "token_embd.weight":
        return None
    else:
        _, layer, part, _ = name.split(".")
        mean = inputs.moments[f"model.layers.{layer}.{_ROWS_OF[part]}.weight"].diagonal()
    return np.ascontiguousarray(mean.to(torch.float32).numpy())


def _quantized(values: np.ndarray, kind: Type, weights: np.ndarray | None) -> np.ndarray:
    """Rows of bytes."""
    import xllamacpp

    library = ctypes.CDLL(next(str(p) for p in Path(xllamacpp.__file__).parent.glob("*.so")))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer = ctypes.c_void_p
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    rows, columns = values.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.empty((rows, columns // block * size), np.uint8)
    written = library.ggml_quantize_chunk(
        int(kind), values.ctypes.data, raw.ctypes.data, 0, rows, columns,
        None if weights is None else weights.ctypes.data,
    )  # fmt: skip
    if written != raw.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes instead of {raw.nbytes}")
    return raw
