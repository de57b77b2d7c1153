"""What each tensor costs at each number of bits, measured: the currency in which bits are dealt out.

One tensor alone is quantised, everything else stays, and the divergence of the predictions from the original's is
measured. That is done at one number of bits. A small change E of a matrix costs a quadratic form in E, so from there
to the other numbers of bits the loss is scaled by the error of the matrix's outputs, which the second moments of its
inputs give without another pass over the text. That losses of several tensors add up holds for small ones only;
whoever deals bits out by them checks the sum in the end.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from kweek.compress.fidelity import Reference
from kweek.compress.hessians import Inputs
from kweek.compress.quantize import output_loss, parts_of, way_of
from kweek.compress.scales import dequantize, nearest_codes, searched_scales
from kweek.data.batches import Batch
from kweek.model.network import Network
from kweek.model.quantized import BIT_WIDTHS
from kweek.protocols import Progress, silent

#: Bits at which a tensor is tried: few enough that the loss stands out of rounding noise, enough to be quadratic.
TRIED_BITS = 3
#: Arithmetic that trying may take in all, about five minutes of one core; larger networks read fewer tokens.
MAX_FLOP = 2e13
MAX_TOKENS, MIN_TOKENS = 4096, 256

#: Nats per token by tensor (Hugging Face name) and number of bits.
Losses = Mapping[str, Mapping[int, float]]


def measure_losses(
    network: Network,
    inputs: Inputs,
    batches: Sequence[Batch],
    *,
    compensate: bool = True,
    progress: Progress = silent,
) -> dict[str, dict[int, float]]:
    """The divergence that each tensor alone causes, at every number of bits.

    Args:
        network: fp32; not changed.
        inputs: of its matrices on calibration text.
        batches: text to measure on; read once per tensor, as far as `MAX_FLOP` allows.
        compensate: try the codes that GPTQ chooses, rather than the nearest ones.
        progress: counts tensors.
    """
    tried = copy.deepcopy(network)
    named = dict(tried.named_parameters())
    matrices = {name: p.detach() for name, p in network.named_parameters() if p.dim() == 2}
    parts = {name: parts_of(network, name) for name in matrices}
    count, done = sum(map(len, parts.values())), 0
    reference = Reference(network, _portion(network, batches, count))
    losses: dict[str, dict[int, float]] = {}
    for name, weight in matrices.items():
        target, way = way_of(network, name, weight, inputs)
        if compensate:
            codes, scale = way(target, TRIED_BITS)
        else:
            scale = searched_scales(target, TRIED_BITS)
            codes = nearest_codes(target, scale, TRIED_BITS)
        value = dequantize(codes, scale)
        changes = {bits: _rounding(target, bits) for bits in BIT_WIDTHS}
        for part, rows in parts[name].items():
            progress(done, count, "trying each tensor alone")
            with torch.no_grad():
                named[name][rows] = value[rows]
                loss = reference.divergence(tried)
                named[name].copy_(weight)
            error = {
                bits: output_loss(network, name, weight, inputs, change, rows)
                for bits, change in changes.items()
            }
            known = max(error[TRIED_BITS], 1e-30)
            losses[part] = {bits: max(loss, 0.0) * error[bits] / known for bits in BIT_WIDTHS}
            done += 1
    return losses


def _rounding(target: torch.Tensor, bits: int) -> torch.Tensor:
    """The change that rounding to the nearest with searched scales makes."""
    scale = searched_scales(target, bits)
    return dequantize(nearest_codes(target, scale, bits), scale) - target


def _portion(network: Network, batches: Sequence[Batch], count: int) -> list[Batch]:
    """The first batches, as many tokens as the arithmetic allows."""
    per_token = count * network.config.num_flops_per_token(256)
    allowed = min(MAX_TOKENS, max(MIN_TOKENS, MAX_FLOP / per_token))
    chosen: list[Batch] = []
    for batch in batches:
        if chosen and sum(part.num_tokens for part in chosen) + batch.num_tokens > allowed:
            break
        chosen.append(batch)
    return chosen
