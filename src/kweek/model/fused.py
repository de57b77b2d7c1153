"""The small operations between the matrix products, each as one step with a hand-written gradient.

Autograd's own gradients of these chains cost a third of a training step at width 128 on a CPU: every link is a
pass over memory. Shapes: N rows (any leading dimensions), D width, F ffn, M heads, E head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedLinear(nn.Module):
    """Several linear layers with one input, kept as one matrix; on disk they keep their own names.

    `state_dict` of the parent module shows one entry per part (`q_proj.weight`, ...), views of the fused
    matrix, as in Hugging Face checkpoints; loading accepts the same.
    """

    def __init__(self, in_features: int, sizes: Mapping[str, int], *, bias: bool) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        rows = sum(self.sizes.values())
        self.weight = nn.Parameter(torch.empty(rows, in_features))
        self.bias = nn.Parameter(torch.empty(rows)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """All parts side by side, (..., D) to (..., sum of sizes)."""
        return F.linear(x, self.weight, self.bias)

    def split(self, fused: Tensor) -> dict[str, Tensor]:
        """The rows of `fused` that belong to each part, as views."""
        return dict(zip(self.sizes, fused.split(list(self.sizes.values())), strict=True))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        parent = prefix[:-1].rpartition(".")[0]
        at = f"{parent}." if parent else ""
        for kind, fused in self.named_parameters():
            for name, part in self.split(fused if keep_vars else fused.detach()).items():
                destination[f"{at}{name}.{kind}"] = part


def join_parts(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a module loads its state: put the parts of its fused layers together under the fused name."""
    for child_name, child in module.named_children():
        if not isinstance(child, FusedLinear):
            continue
        for kind, _parameter in child.named_parameters():
            names = [f"{prefix}{name}.{kind}" for name in child.sizes]
            if all(name in state for name in names):
                state[f"{prefix}{child_name}.{kind}"] = torch.cat([state.pop(name) for name in names])


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.epsilon)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn pairs (i, i + E/2) of the last dimension; `sine` has its first half negated."""
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of a (..., 2F) tensor that holds both (Shazeer 2020, arXiv 2002.05202, equation 6)."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up
