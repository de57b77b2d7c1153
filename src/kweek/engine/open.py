"""The one place where a model is opened for generation: which backend computes it, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch

from kweek.compute.hardware import detect
from kweek.engine.backend import Sizes
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.engine.native.decoder import KVFormat
from kweek.engine.native.pack import WeightFormat
from kweek.errors import CheckpointError, ConfigError, KweekError
from kweek.model.checkpoint import load_model
from kweek.model.config import ModelConfig
from kweek.model.gguf import load_gguf
from kweek.model.gguf_file import GGUFFile
from kweek.model.network import Network
from kweek.model.quantized import GROUP_SIZE, packed_bits
from kweek.model.tensors import TensorFolder
from kweek.protocols import Completion, Request
from kweek.tokenize.tokenizer import Tokenizer

BackendName = Literal["auto", "native", "torch", "llama.cpp", "vllm"]
WeightsName = Literal["auto", "f32", "f16", "q8", "q4"]
_SAID_OF: dict[WeightFormat, str] = {
    "f32": "fp32",
    "f16": "fp16 weights",
    "q8": "8-bit weights",
    "q4": "4-bit weights",
}
DEVICE_SLOTS = 256  # sequences at once on a GPU, where a step costs about the same for one and for many


class SteppingModel(Protocol):
    """A `LanguageModel` that is also driven step by step; see `kweek.engine.batch.BatchEngine`."""

    @property
    def num_active(self) -> int: ...

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]: ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]: ...

    def submit(self, request: Request, on_token: Callable[[int, float], None] | None = None) -> int: ...

    def cancel(self, ticket: int) -> None: ...

    def step(self) -> list[tuple[int, Completion]]: ...


@dataclass(frozen=True)
class Opened:
    """A model ready to generate.

    Attributes:
        model: generates and scores.
        tokenizer: of the model, with its chat template.
        sizes: of its context and vocabulary, and what its tokens cost.
        said: one line for people: what computes.
    """

    model: SteppingModel
    tokenizer: Tokenizer
    sizes: Sizes
    said: str

    @property
    def max_positions(self) -> int:
        """Tokens that prompt and answer may take together."""
        return self.sizes.max_positions

    @property
    def vocab_size(self) -> int:
        """V of the logits, at least the tokenizer's."""
        return self.sizes.vocab_size


def open_model(
    where: Path,
    backend: str = "auto",
    weights: WeightsName = "auto",
    kv: KVFormat | None = None,
    threads: int | None = None,
) -> Opened:
    """Open a model folder or a GGUF file.

    Args:
        where: the folder or file.
        backend: a `BackendName`. "auto" takes torch on a CUDA device where there is one, else the native library.
        weights: how the native library holds them; see `Engine`. "auto" is "q4" for a model whose weights have 4 bits
            or fewer, which keeps its codes as they are, else "f32".
        kv, threads: of the native library, too; None takes "f32" and 1. Naming any of these three insists on it.

    Raises:
        ConfigError: an unknown backend, or one that cannot read this kind of file.
        CheckpointError: a broken model, or one of a layout that the backend does not have.
        KweekError: the backend's package is not installed.
    """
    if backend not in get_args(BackendName):
        known = ", ".join(get_args(BackendName))
        raise ConfigError(f"there is no backend {backend!r}", where="--backend", fix=f"use one of {known}")
    wished = {
        "--weights": weights if weights != "auto" else None,
        "--kv": kv,
        "--threads": threads,
    }
    for option, value in wished.items():
        if value is None:
            continue
        if backend not in ("auto", "native"):
            raise ConfigError(
                f"{value} is for the native library", where=option, fix=f"leave out --backend {backend}"
            )
        backend = "native"
    if backend == "llama.cpp":
        return _with_llama_cpp(where)
    if backend == "vllm":
        return _with_vllm(where)
    if where.is_file():
        network, tokenizer = _load_gguf(where)
    else:
        network, tokenizer = load_model(where), Tokenizer.load(where)
    form: WeightFormat = weights if weights != "auto" else "q4" if has_four_bits(where) else "f32"
    return _with_network(network, tokenizer, backend, form, kv or "f32", 1 if threads is None else threads)


def has_four_bits(where: Path) -> bool:
    """Whether all matrices of a model are stored as codes of at most 4 bits with a scale for 32, as "q4" holds them."""
    if where.is_file():
        with GGUFFile(where) as file:
            return {part.type_name for part in file.tensors.values() if len(part.shape) == 2} == {"Q4_0"}
    # What is stored counts: lists of what is left alone also name patterns, and a head that is the embedding.
    with TensorFolder(where) as tensors:
        matrices = {name: shape for name, shape in tensors.shapes.items() if len(shape) == 2}
        packed = [name.removesuffix("_packed") for name in matrices if name.endswith(".weight_packed")]
        return len(matrices) == 2 * len(packed) > 0 and all(_fits_q4(tensors, name) for name in packed)


def _fits_q4(tensors: TensorFolder, name: str) -> bool:
    """Whether "q4" holds the very numbers of a packed matrix: scales in fp16 for whole groups of 32."""
    num_columns = int(tensors.read(f"{name}_shape")[1])
    bits = packed_bits(tensors.shapes[f"{name}_packed"][1], num_columns)
    groups = tensors.shapes[f"{name}_scale"][1]
    whole = groups and num_columns % groups == 0 and num_columns // groups % GROUP_SIZE == 0
    return bool(whole and bits is not None and bits <= 4 and tensors.dtypes[f"{name}_scale"] == "F16")


def _load_gguf(path: Path) -> tuple[Network, Tokenizer]:
    try:
        return load_gguf(path)
    except CheckpointError as error:
        with GGUFFile(path):  # raises again where the file itself is broken
            raise CheckpointError(
                error.what, where=error.where, fix="try --backend llama.cpp, which reads other layouts too"
            ) from error


def _with_network(
    network: Network, tokenizer: Tokenizer, backend: str, weights: WeightFormat, kv: KVFormat, threads: int
) -> Opened:
    config = network.config
    tokens = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
    tokens += [b""] * (config.vocab_size - len(tokens))
    if backend != "native" and torch.cuda.is_available():
        network.compute_dtype = torch.bfloat16  # what these devices multiply and fetch twice as fast as fp32
        network.to("cuda", torch.bfloat16)
        engine = Engine(network, token_bytes=tokens, num_slots=DEVICE_SLOTS, computing="torch")
        said = f"Computed by torch in bf16 on {torch.cuda.get_device_name()}."
    else:
        computing, said = _on_the_cpu(backend, weights)
        if computing == "torch":
            weights = "f32"  # nobody asked for others: they would have insisted on the native library
        _check_rows(config, weights)
        engine = Engine(
            network, token_bytes=tokens, weights=weights, kv=kv, threads=threads, computing=computing,
            consume=True,
        )  # fmt: skip

    return Opened(engine, tokenizer, config, said)


def _check_rows(config: ModelConfig, weights: WeightFormat) -> None:
    """Raises:
    ConfigError: rows that are no whole groups; said now and not to the first who asks the model something.
    """
    sizes = (config.hidden_size, config.query_size, config.intermediate_size)
    if weights in ("q8", "q4") and (wrong := [size for size in sizes if size % GROUP_SIZE]):
        raise ConfigError(
            f"rows of {wrong[0]} are no whole groups of {GROUP_SIZE} for {weights}",
            where="--weights",
            fix="use f16 or f32",
        )


def _on_the_cpu(backend: str, weights: WeightFormat) -> tuple[Literal["native", "torch"], str]:
    """The native library unless torch is asked for or it cannot be had."""
    reason = ""
    if backend != "torch":
        try:
            native.load()
            target = native.target_for(detect().features)
            return "native", f"Computed by Kweek's native library ({target}, {_SAID_OF[weights]})."
        except KweekError as error:
            if backend == "native":
                raise
            reason = f", several times slower than natively: {error.what}"
    return "torch", f"Computed by torch on the CPU{reason}."


def _with_llama_cpp(path: Path) -> Opened:
    from kweek.engine.llama_cpp.engine import LlamaCppEngine
    from kweek.engine.llama_cpp.library import VERSION
    from kweek.engine.llama_cpp.tokenizer import LlamaTokenizer

    if not path.is_file():
        raise ConfigError(
            "llama.cpp reads GGUF files, this is a folder",
            where=str(path),
            fix="write a GGUF file with kweek export",
        )
    engine = LlamaCppEngine(path)
    try:
        with GGUFFile(path) as file:
            tokenizer, whose = Tokenizer.from_gguf(file.fields, name=str(path)), ""
    except CheckpointError:
        tokenizer, whose = LlamaTokenizer(engine.model), ", its tokenizer too"
    sizes = engine.backend.config

    said = f"Computed by llama.cpp (xllamacpp {VERSION}){whose}: {engine.model.description}."
    return Opened(engine, tokenizer, sizes, said)


def _with_vllm(folder: Path) -> Opened:
    from kweek.engine.vllm.engine import VllmEngine

    if not folder.is_dir():
        raise ConfigError(
            "vLLM reads checkpoint folders, this is a file",
            where=str(folder),
            fix="use --backend llama.cpp for a GGUF file",
        )
    engine, tokenizer = VllmEngine(folder), Tokenizer.load(folder)
    sizes = engine.sizes
    said = f"Computed by vLLM {version('vllm')}."
    return Opened(engine, tokenizer, sizes, said)
