"""A program and a file of weights that run a model on a machine without Python: what the native engine computes, alone.

The matrices are packed here as the kernels read them, so that the program maps the file and computes at once, and holds
in memory little more than what a step touches. Layout: src/kweek/engine/native/weights.h.

Legend: O outputs, I inputs, T positions, E head dimension.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kweek.compress.export import Kind
from kweek.compress.runner_text import sections_of_text
from kweek.compute.hardware import detect
from kweek.engine.native import build, library
from kweek.engine.native.pack import GROUP, TYPES, WeightFormat, four_bits, pack
from kweek.errors import CheckpointError, KweekError
from kweek.model.attention import Tables
from kweek.model.checkpoint import load_model
from kweek.model.config import ModelConfig
from kweek.model.network import Block, Network
from kweek.store.artifact import ArtifactWriter
from kweek.tokenize.tokenizer import Tokenizer

#: The machine that the program is for: "native" is this one.
Runner = Literal["native", "aarch64"]
WEIGHTS_FILE, PROGRAM_FILE = "weights.bin", "run"

_MAGIC, _VERSION = b"KWEEKRUN", 1
_HEADER_BYTES, _ALIGNMENT = 128, 64
_BYTES = -1  # type of a section that is no matrix or vector
#: Rotations of so many positions are stored at most: 4 MB with heads of 64, and keys and values beyond do not fit
#: into a small machine.
_MOST_POSITIONS = 16384
_FORMS: dict[Kind, WeightFormat] = {"f32": "f32", "f16": "f16", "q8_0": "q8", "q4_0": "q4"}


class Section(NamedTuple):
    """Bytes of the file, and the type of a matrix."""

    data: npt.NDArray[np.generic]
    type: int = TYPES["f32"]


_NONE = Section(np.zeros(0, np.uint8))


def write_runner(out: ArtifactWriter, folder: Path, runner: Runner, kind: Kind) -> None:
    """Write the program and its weights into an artifact.

    Args:
        out: where to.
        folder: a checkpoint folder with its tokenizer.
        runner: the machine that will run it.
        kind: of the matrices; "stored" keeps codes of up to 4 bits as they are and gives all else 8 bits, which is
            also what "q4_0" does with embedding and head.

    Raises:
        KweekError: there is no compiler for that machine, or it failed.
        CheckpointError: as `load_model`, or matrices whose rows are no whole groups of 32.
    """
    program = compiled(runner)
    with out.open(WEIGHTS_FILE) as stream:
        write_weights(cast(BinaryIO, stream), load_model(folder), Tokenizer.load(folder), kind)
    out.write_bytes(PROGRAM_FILE, program)
    (out.directory / PROGRAM_FILE).chmod(0o755)


def compiled(runner: Runner, target: str | None = None) -> bytes:
    """The program for a machine.

    Args:
        runner: the machine.
        target: instruction set; None takes the best of this processor for "native" and every one that the program
            can choose from by itself for "aarch64".

    Raises:
        KweekError: there is no compiler for that machine, or it failed.
    """
    try:
        compiler = build.find_compiler(runner)
        if target is None:
            best = library.target_for(detect().features)
            target = best if runner == "native" and best in build.targets_of(compiler) else "portable"
        with tempfile.TemporaryDirectory() as temporary:
            made = Path(temporary) / PROGRAM_FILE
            build.compile_runner(Path(build.__file__).parent, target, compiler, made)
            return made.read_bytes()
    except build.NoCompiler as error:
        package = "gcc" if runner == "native" else "gcc-aarch64-linux-gnu"
        raise KweekError(str(error), fix=f"install {package}, or: pip install ziglang") from None


def write_weights(stream: BinaryIO, network: Network, tokenizer: Tokenizer, kind: Kind) -> None:
    """Write the file that the program maps. Errors as `write_runner`."""
    config = network.config
    positions = min(config.max_positions, _MOST_POSITIONS)
    split, texts = sections_of_text(tokenizer, config.vocab_size)
    numbers = (
        _VERSION, config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
        config.intermediate_size, config.vocab_size, positions, split,
    )  # fmt: skip
    head = _MAGIC + struct.pack(f"<{len(numbers)}if", *numbers, config.norm_epsilon)
    sections = [*_network_sections(network, positions, kind), *(Section(data, _BYTES) for data in texts)]
    at = _HEADER_BYTES + 24 * len(sections)
    entries, pads = b"", []
    for section in sections:
        pads.append(-at % _ALIGNMENT)
        at += pads[-1]
        entries += struct.pack("<iiQQ", section.type, 0, at, section.data.nbytes)
        at += section.data.nbytes
    stream.write(head.ljust(_HEADER_BYTES, b"\0") + entries)
    for pad, section in zip(pads, sections, strict=True):
        stream.write(bytes(pad))
        stream.write(np.ascontiguousarray(section.data).tobytes())


def _network_sections(network: Network, positions: int, kind: Kind) -> Iterable[Section]:
    """Everything that the network computes with, in the order of weights.h."""
    config = network.config
    outer: Kind = (
        "stored" if kind == "q4_0" else kind
    )  # as in GGUF: 8 bits unless they are codes of 4 already
    yield _matrix(network.model.embed_tokens.weight, outer)
    yield _NONE if config.tied_embeddings else _matrix(network.head_weight, outer)
    yield _vector(network.model.norm.weight)
    yield from _rotations(config, positions)
    for block in cast(list[Block], list(network.model.layers)):
        attention, mlp = block.self_attn, block.mlp
        yield _matrix(attention.qkv_proj.weight, kind)
        yield _vector(attention.qkv_proj.bias)
        yield _matrix(attention.o_proj.weight, kind)
        yield _matrix(mlp.gate_up_proj.weight, kind)
        yield _matrix(mlp.down_proj.weight, kind)
        yield _vector(block.input_layernorm.weight)
        yield _vector(block.post_attention_layernorm.weight)
        yield _vector(attention.q_norm.weight if config.qk_norm else None)
        yield _vector(attention.k_norm.weight if config.qk_norm else None)


def _matrix(weight: Tensor, kind: Kind) -> Section:
    weight_OI = weight.detach().float().numpy()
    if weight_OI.shape[1] % GROUP and kind not in ("f32", "f16"):
        raise CheckpointError(
            f"a matrix with {weight_OI.shape[1]} inputs has no whole groups of {GROUP}",
            fix="use --type f16 with --runner",
        )
    form = _FORMS.get(kind) or ("q4" if _is_four_bits(weight_OI) else "q8")
    return Section(pack(weight_OI, form), TYPES[form])


def _is_four_bits(weight_OI: npt.NDArray[np.float32]) -> bool:
    """Whether codes of 4 bits with a scale in fp16 for 32 of them are all that there is."""
    codes_OI, scale_OG = four_bits(weight_OI)
    return bool(np.array_equal(codes_OI * np.repeat(scale_OG.astype(np.float32), GROUP, 1), weight_OI))


def _vector(weight: Tensor | None) -> Section:
    return _NONE if weight is None else Section(weight.detach().float().numpy())


def _rotations(config: ModelConfig, positions: int) -> Iterable[Section]:
    """Cosines and sines (T, E / 2), as `NativeBackend` has them."""
    key = Tables(config).layout(positions, torch.device("cpu"), torch.float32).key
    half = config.head_dim // 2
    for part in (key[0, :positions, :half], key[1, :positions, half:]):
        yield Section(part.contiguous().numpy())
