"""Linear layers whose weight is made from something else: from codes, or from a frozen weight and an adapter.

Whoever reads the `weight` of such a layer, or the state dict of its network, gets the matrix it multiplies by, in fp32.
So the engine, the exporters and the trainer cannot disagree about what the network is.
Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from kweek.errors import ConfigError
from kweek.model.fused import project
from kweek.model.linear import FusedLinear, Linear, Matrix, show_parts


class DerivedLinear(nn.Module):
    """A linear layer of one or more parts that stands where a plain one stood.

    Args:
        in_features: width of the input.
        sizes: rows of each part by its own name ("q_proj"), in order.
        bias: of all parts, frozen from here on, or None.
    """

    def __init__(self, in_features: int, sizes: Mapping[str, int], bias: Tensor | None) -> None:
        super().__init__()
        assert bias is None or isinstance(bias, nn.Parameter)
        self.in_features, self.sizes = in_features, dict(sizes)
        self.bias = None if bias is None else bias.requires_grad_(False)

    @abstractmethod
    def matrix(self) -> Matrix:
        """What it multiplies by."""

    @property
    def weight(self) -> Tensor:
        """fp32 (O, I), made anew each time, without a gradient."""
        with torch.no_grad():
            return self.matrix().whole()

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to the parts side by side, (..., O), in the dtype of x."""
        return project(x, self.matrix(), self.bias)

    def state_dict(  # type: ignore[override]
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """As a plain layer in this place would have it: weights and biases by part."""
        destination = {} if destination is None else destination
        show_parts(destination, prefix, self.sizes, "weight", self.weight)
        if self.bias is not None:
            show_parts(destination, prefix, self.sizes, "bias", self.bias.detach())
        return destination

    def _load_from_state_dict(self, _state: Any, prefix: str, *_: Any) -> NoReturn:
        raise ConfigError(
            "weights cannot be loaded into a layer with an adapter or with codes",
            where=prefix.rstrip("."),
            fix="load them before, or merge or detach first",
        )


@dataclass(frozen=True)
class Place:
    """Where a linear layer sits in a network.

    Attributes:
        parent: the module that has it.
        name: as which attribute.
        path: of the parent in a checkpoint ("model.layers.0.mlp").
        sizes: rows of each part by its own name ("gate_proj"), in order.
    """

    parent: nn.Module
    name: str
    path: str
    sizes: Mapping[str, int]

    @property
    def layer(self) -> Linear | FusedLinear | DerivedLinear:
        """What is there now."""
        layer = getattr(self.parent, self.name)
        assert isinstance(layer, Linear | FusedLinear | DerivedLinear)
        return layer

    def put(self, layer: nn.Module) -> None:
        """Put another layer there."""
        setattr(self.parent, self.name, layer)

    def full_name(self, part: str) -> str:
        """Of a part, as in a checkpoint, without ".weight"."""
        return f"{self.path}.{part}" if self.path else part


def places(network: nn.Module) -> list[Place]:
    """All linear layers of a network, in its order."""
    found: list[Place] = []
    for path, parent in network.named_modules():
        if isinstance(parent, DerivedLinear):
            continue  # what it is made from is its own affair
        for name, child in parent.named_children():
            if isinstance(child, Linear):
                found.append(Place(parent, name, path, {name: child.out_features}))
            elif isinstance(child, FusedLinear | DerivedLinear):
                found.append(Place(parent, name, path, child.sizes))
    return found


def plain_layer(layer: DerivedLinear) -> Linear | FusedLinear:
    """A trainable layer with the weight that a derived one has now."""
    plain: Linear | FusedLinear
    if len(layer.sizes) > 1:
        plain = FusedLinear(layer.in_features, layer.sizes, bias=layer.bias is not None)
    else:
        (rows,) = layer.sizes.values()
        plain = Linear(layer.in_features, rows, bias=layer.bias is not None)
    plain.weight = nn.Parameter(layer.weight)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().clone())
    return plain
