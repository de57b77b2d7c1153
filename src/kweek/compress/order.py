"""What a user asks of quantisation, and the bits of every tensor that follow from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from kweek.compress.allocate import allocate
from kweek.compress.fidelity import Reference
from kweek.compress.hessians import collect
from kweek.compress.quantize import Method, calibration_batches, quantize_network
from kweek.compress.sensitivity import Losses, measure_losses
from kweek.compress.widths import FULL, file_bytes, uniform
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.model.quantized import BIT_WIDTHS, NUM_BITS
from kweek.protocols import Progress, silent

#: What a command line calls the methods; "rtn" is the instant one.
MethodName = Literal["gptq", "rtn"]
METHODS: dict[MethodName, Method] = {"gptq": "gptq", "rtn": "nearest_mse"}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
#: Batches of 512 tokens: to form second moments on for the allocation, and to compare allocations on.
_MOMENT_BATCHES, _CHECKED_BATCHES = 32, 8


@dataclass(frozen=True)
class Order:
    """One quantisation.

    Attributes:
        num_bits: of every matrix but the embedding; ignored when `max_bytes` is given.
        max_bytes: size of `model.safetensors` under which bits are dealt out; None for the same everywhere.
        embedding_bits: of the embedding when bits are the same everywhere; fp16, which every reader takes.
        method: "gptq", or "rtn" for rounding to the nearest with searched scales.
        finish_steps: of quantisation-aware finishing; none, because it takes as long as training on its text.
        tune: whether GPTQ is followed by tuning of scales, norms and embedding.
        seed: of the order of the calibration text.
    """

    num_bits: int = NUM_BITS
    max_bytes: float | None = None
    embedding_bits: int = FULL
    method: MethodName = "gptq"
    finish_steps: int = 0
    tune: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Dealt:
    """The bits of every tensor, and why.

    Attributes:
        widths: bits by Hugging Face name.
        losses: nats per token that each tensor was found to cost at each number of bits; empty without a size.
        checked: divergence of the mixed and of the best uniform allocation of that size, before tuning; likewise.
    """

    widths: dict[str, int]
    losses: Losses = field(default_factory=dict)
    checked: dict[str, float] = field(default_factory=dict)


def parse_size(written: str) -> float:
    """Bytes of a size such as 80MB, 1.5GB or 600kB (decimal units).

    Raises:
        ConfigError: it cannot be read.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", written)
    if match is None or match[2].upper() not in _UNITS or not float(match[1]):
        raise ConfigError(f"{written!r} is not a size", where="--size", fix="write 80MB, 1.5GB or 600kB")
    return float(match[1]) * _UNITS[match[2].upper()]


def deal(
    network: Network,
    order: Order,
    calibration: Sequence[Sequence[int]],
    row_length: int,
    progress: Progress = silent,
) -> Dealt:
    """The bits of every tensor that an order means.

    Under a size they follow from what each tensor loses alone. Those losses add up only roughly, so the result is
    measured against the best allocation of equal bits that fits, and the better of the two is taken.

    Raises:
        ConfigError: bits that do not exist, or a size below that of the fewest bits.
        DataError: a size without calibration text.
    """
    config = network.config
    if order.max_bytes is None:
        return Dealt(uniform(config, order.num_bits, order.embedding_bits))
    batches = calibration_batches(calibration, row_length, order.seed)
    inputs = collect(network, batches[:_MOMENT_BATCHES])
    losses = measure_losses(
        network, inputs, batches[-_CHECKED_BATCHES:], compensate=order.method == "gptq", progress=progress
    )
    mixed = allocate(config, losses, order.max_bytes)
    even = [
        widths
        for bits in BIT_WIDTHS
        for embedding in BIT_WIDTHS
        if file_bytes(config, widths := uniform(config, bits, embedding)) <= order.max_bytes
    ]
    if not even:
        return Dealt(mixed, losses)
    best = min(even, key=lambda widths: sum(losses[name][bits] for name, bits in widths.items()))
    reference = Reference(network, batches[-_CHECKED_BATCHES:])
    checked = {}
    for name, widths in {"mixed": mixed, "even": best}.items():
        made = quantize_network(
            network,
            calibration,
            METHODS[order.method],
            widths=widths,
            row_length=row_length,
            tune_rest=False,
            seed=order.seed,
            progress=progress,
        )
        checked[name] = reference.divergence(made.network)
    return Dealt(mixed if checked["mixed"] <= checked["even"] else best, losses, checked)
