"""What the inputs of every matrix look like on calibration text: the second moments that GPTQ weighs errors by.

For a matrix W with inputs x, the squared error of its outputs under a change E of W is trace(E H E') with
H = mean of x x' over tokens. Matrices with one input (q, k, v; gate, up) share one H. The head needs more than
second moments (see `kweek.compress.head`), so its inputs are kept.
Shapes: B rows, T tokens, N real tokens, D width, F ffn, C columns of a matrix, Z = heads times head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kweek.data.batches import Batch
from kweek.model.attention import Attention
from kweek.model.network import FeedForward, Network


@dataclass(frozen=True)
class Inputs:
    """What calibration tokens put into the matrices.

    Attributes:
        moments: fp32 (C, C) by parameter name, the head's left out.
        hidden_ND: fp32 inputs of the head, token by token.
    """

    moments: dict[str, Tensor]
    hidden_ND: Tensor


def collect(network: Network, batches: Sequence[Batch]) -> Inputs:
    """Read the batches once and form H for every matrix in the same pass, on the unquantised network.

    Quantising layer by layer and reading anew with what is quantised so far costs ten times as much and was not
    better where it was measured.
    """
    moments, hidden = _Moments(), []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            handles.append(module.register_forward_pre_hook(_AttentionHook(name, moments)))
        elif isinstance(module, FeedForward):
            handles.append(module.register_forward_pre_hook(_FeedForwardHook(name, moments)))
    try:
        with torch.no_grad():
            for batch in batches:
                moments.valid_BT = batch.weights_BT > 0
                hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
                hidden.append(hidden_BTD[moments.valid_BT].to(torch.float32))
    finally:
        for handle in handles:
            handle.remove()
    num_tokens = sum(int((batch.weights_BT > 0).sum()) for batch in batches)
    return Inputs({name: total / num_tokens for name, total in moments.sums.items()}, torch.cat(hidden))


class _Moments:
    """Sums of x x' by name, over the tokens of the batch that are not padding."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.valid_BT = torch.empty(0, 0, dtype=torch.bool)

    def add(self, name: str, x_BTC: Tensor) -> None:
        x_NC = x_BTC[self.valid_BT].to(torch.float32)
        width = x_NC.shape[1]
        self.sums.setdefault(name, x_NC.new_zeros(width, width)).addmm_(x_NC.t(), x_NC)


class _FeedForwardHook:
    """Adds what enters gate and up, and what enters down."""

    def __init__(self, name: str, moments: _Moments) -> None:
        self.name, self.moments = name, moments

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        (x_BTD,) = args
        gate_BTF, up_BTF = F.linear(x_BTD, module.get_parameter("gate_up_proj.weight")).chunk(2, -1)
        self.moments.add(f"{self.name}.gate_up_proj.weight", x_BTD)
        self.moments.add(f"{self.name}.down_proj.weight", F.silu(gate_BTF) * up_BTF)


class _AttentionHook:
    """Adds what enters q, k and v, and what enters o.

    The latter is not visible from outside, because the sub-layer itself multiplies by o: it is the output with
    the identity in that place.
    """

    def __init__(self, name: str, moments: _Moments) -> None:
        self.name, self.moments = name, moments
        self.calling = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.calling:
            return
        weight_DZ = module.get_parameter("o_proj.weight")
        identity = torch.eye(weight_DZ.shape[1], device=weight_DZ.device)
        self.calling = True
        inner_BTZ = functional_call(module, {"o_proj.weight": identity}, args)
        self.calling = False
        self.moments.add(f"{self.name}.qkv_proj.weight", args[0])
        self.moments.add(f"{self.name}.o_proj.weight", inner_BTZ)
