"""Linear layers as the network keeps them: uninitialised, and those with one input as one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` without its own initialisation, which costs seconds on a checkpoint and is overwritten."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class FusedLinear(nn.Module):
    """Several linear layers with one input, as one matrix; a state dict shows them under their own names.

    The parent module's `state_dict` has an entry per part (`q_proj.weight`, ...), a view of the fused matrix,
    as in Hugging Face checkpoints; loading accepts the same names.

    Args:
        in_features: width of the input.
        sizes: rows of each part by name, in order.
        bias: whether every part has one.
    """

    def __init__(self, in_features: int, sizes: Mapping[str, int], *, bias: bool) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        rows = sum(self.sizes.values())
        self.weight = nn.Parameter(torch.empty(rows, in_features))
        self.bias = nn.Parameter(torch.empty(rows)) if bias else None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        parent = prefix[:-1].rpartition(".")[0]
        at = f"{parent}." if parent else ""
        for kind, fused in self.named_parameters():
            rows = fused if keep_vars else fused.detach()
            for name, part in zip(self.sizes, torch.split(rows, list(self.sizes.values())), strict=True):
                destination[f"{at}{name}.{kind}"] = part


def join_parts(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a module loads its state, put the parts of its fused layers together under the fused name."""
    for child_name, child in module.named_children():
        if not isinstance(child, FusedLinear):
            continue
        for kind, _parameter in child.named_parameters():
            names = [f"{prefix}{name}.{kind}" for name in child.sizes]
            if all(name in state for name in names):
                state[f"{prefix}{child_name}.{kind}"] = torch.cat([state.pop(name) for name in names])
