"""Linear layers as the network keeps them: uninitialised, and those with one input as one matrix.

What a layer multiplies by is a `Matrix`: how the numbers are made, and what the gradients are of whatever they are made
from. A plain weight is one; codes (`kweek.model.coded`) and frozen weights with an adapter
(`kweek.model.adapter_linear`) are others. So the network's own code is written once.
Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Matrix(Protocol):
    """What a linear layer multiplies by, as steps with a hand-written gradient need it."""

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors that may want a gradient."""
        ...

    def whole(self) -> Tensor:
        """(O, I) in at least fp32, which the caller may write into: all that the layer does, as one matrix."""
        ...

    def make(self, dtype: torch.dtype) -> Tensor:
        """(O, I) in a dtype, only to be read: what `add` does not add."""
        ...

    def keep(self, made_OI: Tensor) -> Tensor | None:
        """What the backward pass shall have of what was made; None to make it again there, which spares memory."""
        ...

    def add(self, out_ON: Tensor, x_NI: Tensor) -> Tensor | None:
        """Add in place what is not in the matrix that `make` made; returns what `gradients` needs of it."""
        ...

    def gradients(
        self,
        needed: Sequence[bool],
        grad_ON: Tensor,
        x_NI: Tensor,
        added: Tensor | None,
        grad_x_NI: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """The gradient of each leaf that needs one.

        Args:
            needed: by leaf.
            grad_ON, x_NI: the gradient of the layer's output, and its input.
            added: what `add` returned.
            grad_x_NI: the gradient of the input through the matrix that `make` makes, to which the share of what
                `add` added is added in place; None where nobody wants it.
        """
        ...


@dataclass(frozen=True)
class Plain:
    """A weight as it is."""

    weight_OI: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The weight."""
        return (self.weight_OI,)

    def whole(self) -> Tensor:
        """See `Matrix`."""
        exact = torch.promote_types(self.weight_OI.dtype, torch.float32)
        return self.weight_OI.detach().to(exact, copy=True)

    def make(self, dtype: torch.dtype) -> Tensor:
        """See `Matrix`; the weight itself where it has that dtype."""
        return self.weight_OI.to(dtype)

    def keep(self, made_OI: Tensor) -> Tensor | None:
        """See `Matrix`; kept, because it is the weight or took a pass over it."""
        return made_OI

    def add(self, out_ON: Tensor, x_NI: Tensor) -> Tensor | None:
        """See `Matrix`: nothing."""
        return None

    def gradients(
        self,
        needed: Sequence[bool],
        grad_ON: Tensor,
        x_NI: Tensor,
        added: Tensor | None,
        grad_x_NI: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """See `Matrix`."""
        return (grad_ON @ x_NI if needed[0] else None,)


@dataclass(frozen=True)
class Frozen(Plain):
    """A weight that nobody trains: rounded to a narrower dtype once, not at every step.

    A step keeps the rounded weights of all layers for its backward pass anyway: its peak of memory is the same.

    Attributes:
        rounded: by dtype, which state of which weight was rounded, and the copy; kept by the layer.
    """

    rounded: dict[torch.dtype, tuple[tuple[int, int], Tensor]]

    def make(self, dtype: torch.dtype) -> Tensor:
        """See `Matrix`."""
        weight_OI = self.weight_OI
        if weight_OI.dtype == dtype:
            return weight_OI
        state = (weight_OI.data_ptr(), weight_OI._version)
        if dtype not in self.rounded or self.rounded[dtype][0] != state:
            self.rounded[dtype] = (state, weight_OI.detach().to(dtype))
        return self.rounded[dtype][1]


class Linear(nn.Linear):
    """`nn.Linear` without its own initialisation, which costs seconds on a checkpoint and is overwritten.

    The product is in the dtype of the input.
    """

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""

    def matrix(self) -> Matrix:
        """What it multiplies by."""
        return Plain(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


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
        self.in_features, self.sizes = in_features, dict(sizes)
        rows = sum(self.sizes.values())
        self.weight = nn.Parameter(torch.empty(rows, in_features))
        self.bias = nn.Parameter(torch.empty(rows)) if bias else None

    def matrix(self) -> Matrix:
        """What it multiplies by."""
        return Plain(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to the parts side by side, (..., O), in the dtype of x."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def stacks(self) -> list[tuple[nn.Parameter, list[int]]]:
        """Parameters that hold several matrices one above the other, with the rows of each."""
        return [(self.weight, list(self.sizes.values()))]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for kind, fused in self.named_parameters():
            show_parts(destination, prefix, self.sizes, kind, fused if keep_vars else fused.detach())


def show_parts(
    destination: dict[str, Any], prefix: str, sizes: Mapping[str, int], kind: str, fused: Tensor
) -> None:
    """Put the parts of a fused tensor into a state dict, each under its own name beside that of the layer.

    Args:
        prefix: of the layer ("model.layers.0.mlp.gate_up_proj.").
        sizes: rows of each part by name.
        kind: "weight" or "bias".
    """
    parent = prefix[:-1].rpartition(".")[0]
    at = f"{parent}." if parent else ""
    for name, part in zip(sizes, torch.split(fused, list(sizes.values())), strict=True):
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
