"""Networks whose frozen matrices stay codes in memory, as QLoRA trains over (Dettmers et al. 2023, arXiv 2305.14314).

A matrix is dequantised when a product needs it, in the forward pass and again in the backward pass, and dropped after
it: of all matrices one at a time is there in fp32. The codes are those of `kweek.model.quantized`, whole numbers with a
scale for 32 weights, instead of the paper's NF4 and its quantised scales, because they are what Kweek, transformers,
llama.cpp and vLLM run: an adapter is trained over the very numbers that will be served.
Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kweek.model.checkpoint import check_finite, open_tensors, read_codes
from kweek.model.derived import DerivedLinear, places
from kweek.model.linear import Matrix
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor

_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Codes:
    """A matrix of one or more parts one above the other, each of codes; nothing of it is trained. See `Matrix`."""

    parts: tuple[QuantizedTensor, ...]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def whole(self) -> Tensor:
        """See `Matrix`."""
        if len(self.parts) == 1:
            return self.parts[0].dequantize()
        return torch.cat([part.dequantize() for part in self.parts])

    def make(self, dtype: torch.dtype) -> Tensor:
        """See `Matrix`."""
        return self.whole().to(dtype)

    def keep(self, made_OI: Tensor) -> Tensor | None:
        """See `Matrix`: nothing."""
        return None

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
        """See `Matrix`: none."""
        return ()


class CodedLinear(DerivedLinear):
    """A linear layer that holds codes and scales, as frozen parameters.

    Args:
        tensors: the codes of each part by its own name, in order.
        bias: of all parts, or None.
    """

    def __init__(self, tensors: Mapping[str, QuantizedTensor], bias: Tensor | None) -> None:
        (in_features,) = {tensor.shape[1] for tensor in tensors.values()}
        super().__init__(in_features, {name: tensor.shape[0] for name, tensor in tensors.items()}, bias)
        self._kinds = {name: (tensor.shape, tensor.num_bits) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self.register_parameter(f"{name}_codes", nn.Parameter(tensor.packed, requires_grad=False))
            self.register_parameter(f"{name}_scales", nn.Parameter(tensor.scale_RG, requires_grad=False))

    def matrix(self) -> Matrix:
        """What it multiplies by."""
        parts = (
            QuantizedTensor(
                self.get_parameter(f"{name}_codes"), self.get_parameter(f"{name}_scales"), shape, num_bits
            )
            for name, (shape, num_bits) in self._kinds.items()
        )
        return Codes(tuple(parts))


def hold_codes(network: Network, tensors: Mapping[str, QuantizedTensor]) -> None:
    """Put codes in place of the matrices of a network, whose values they become.

    A layer keeps codes where all its parts have them; where some have none, and in the embedding, the values of the
    codes are held in fp32.

    Args:
        tensors: by name (`...q_proj.weight`), as `kweek.compress.quantize` makes them.

    Raises:
        ValueError: a name that is no matrix of the network, or another shape.
    """
    left = dict(tensors)
    for place in places(network):
        names = {part: f"{place.full_name(part)}.weight" for part in place.sizes}
        found = {part: left.pop(name) for part, name in names.items() if name in left}
        shapes = {part: (rows, place.layer.in_features) for part, rows in place.sizes.items()}
        for part, tensor in found.items():
            _check(names[part], tensor, shapes[part])
        if len(found) == len(names):
            place.put(CodedLinear(found, place.layer.bias))
        elif found:
            rows = dict(
                zip(names, torch.split(place.layer.weight.detach(), list(place.sizes.values())), strict=True)
            )
            for part, tensor in found.items():
                rows[part].copy_(tensor.dequantize())
    embedding = network.model.embed_tokens.weight
    for name, tensor in left.items():
        _check(name, tensor, tuple(embedding.shape) if name == _EMBEDDING else None)
        embedding.detach().copy_(tensor.dequantize())


def _check(name: str, tensor: QuantizedTensor, shape: tuple[int, ...] | None) -> None:
    if tensor.shape != shape:
        raise ValueError(f"the network has no matrix {name} of shape {tensor.shape}")


def load_coded(folder: Path | str) -> Network:
    """Load a checkpoint folder of packed codes without dequantising it: a frozen network to train an adapter over.

    Raises:
        CheckpointError: as `load_model`.
    """
    with open_tensors(folder) as (config, tensors):
        network = Network(config)  # its matrices take no memory before they are written
        codes: dict[str, QuantizedTensor] = {}
        for name, target in network.state_dict().items():
            shape = (target.shape[0], target.shape[-1])
            if name in tensors.shapes:
                target.copy_(tensors.read(name))
                check_finite(name, target, tensors.folder)
            else:
                codes[name] = read_codes(tensors, name, shape)
                check_finite(name, codes[name].scale_RG, tensors.folder)
    hold_codes(network, codes)
    network.requires_grad_(False)
    return network
