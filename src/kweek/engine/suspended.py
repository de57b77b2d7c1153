"""Generations taken out of an engine before their end, as plain data.

What a text goes on from is little: the tokens and figures so far, and the request with its seed. Random numbers are
counted (the n-th token of a request draws with the n-th number of its seed's stream), a constraint is rebuilt by
telling it the tokens again, and keys and values are computed again, to the same bits by the native library. So a
generation that goes on elsewhere says what it would have said undisturbed. `kweek.engine.suspended_file` keeps them in
a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from kweek.model.network import Network
from kweek.protocols import Request

Code = Literal["constraint", "interceptor"]
_SAMPLED_VALUES = 4096  # of each tensor that tell one model from another: training changes nearly all of them


@dataclass(frozen=True)
class Suspended:
    """A generation that has not ended.

    Attributes:
        request: as it was submitted; without its tool and its constraint when it comes from a file.
        ticket: what it had in the engine that it was taken from.
        model: see `identity`.
        wants: what it cannot go on without.
        flop: spent on it so far.

    The lists are those of a `Completion`.
    """

    request: Request
    ticket: int
    model: str
    wants: tuple[Code, ...] = ()
    flop: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    processed_logprobs: list[float] = field(default_factory=list)
    kept_mass: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_logprobs: list[float] | None = None
    prompt_ranks: list[int] = field(default_factory=list)
    prompt_top: list[list[tuple[int, float]]] = field(default_factory=list)


def identity(network: Network, weights: str, kv: str) -> str:
    """Tells the numbers that a network computes apart from those of another: its sizes, formats and some of its values.

    Args:
        network: about 4,096 values of each tensor are looked at, evenly spread.
        weights: format of its matrices.
        kv: format of keys and values.
    """
    digest = hashlib.sha256(f"{network.config} {weights} {kv}".encode())
    for name, parameter in network.named_parameters():
        values = parameter.detach().reshape(-1)
        step = (
            max(1, len(values) // _SAMPLED_VALUES) | 1
        )  # odd: a power of two would see the same columns only
        sample = np.ascontiguousarray(values[::step].float().cpu().numpy())
        digest.update(name.encode() + sample.tobytes())
    return digest.hexdigest()
