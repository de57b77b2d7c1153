"""Quantisation-aware finishing: after GPTQ and tuning, the codes themselves follow the gradient for some steps.

Every matrix keeps a weight in floating point that is rounded in the forward pass; the gradient passes the rounding as
if it were not there (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432), and reaches the scales by
Esser et al. 2020 (LSQ, arXiv 1902.08153, equation 3). The loss is the divergence from the original's predictions.
A weight starts where the original has it, but no further from GPTQ's code than rounding leaves it there: the first
step begins with exactly GPTQ's network, and weights that were in doubt change their code first.
Shapes: R rows, C columns, G groups per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kweek.compress.quantize import QuantizedModel, assemble, parts_of
from kweek.compress.scales import dequantize, storable
from kweek.compress.tuning import divergence_of
from kweek.compress.widths import FULL
from kweek.data.batches import Batch
from kweek.errors import DataError
from kweek.model.network import Network
from kweek.model.quantized import GROUP_SIZE, code_range
from kweek.protocols import Progress, silent

#: Largest step of a weight, in steps between codes; of 0.002 to 0.15 the best at 4 bits, and nearly so at 2.
WEIGHT_RATE = 0.007
#: Largest step of a scale, norm or embedding relative to its size: less than tuning takes, which went before.
REST_RATE = 0.002
#: Rows of a batch, 4,096 tokens of 256 each: with the 512 that tuning reads the codes follow noise and get worse.
ROWS_PER_BATCH = 16
_BETAS = (0.9, 0.95)  # as in tuning: there are some hundred steps at most
_WARMUP = 5  # steps
_EDGE = 0.49  # how far from a code, in steps, a weight may start


class _Weight:
    """A matrix of codes under training: delta in steps between codes, and the scales relative to their start."""

    def __init__(self, original_RC: Tensor, codes_RC: Tensor, scale_RG: Tensor, bits_R: Tensor) -> None:
        self.scale_RG = scale_RG
        wide_RC = scale_RG.repeat_interleave(GROUP_SIZE, dim=1)
        code_RC = codes_RC.float()
        self.start_RC = code_RC + (original_RC / wide_RC - code_RC).clamp_(-_EDGE, _EDGE)
        ranges = {bits: code_range(bits) for bits in set(bits_R.tolist())}
        self.lowest_R1 = torch.tensor([float(ranges[bits][0]) for bits in bits_R.tolist()])[:, None]
        self.highest_R1 = torch.tensor([float(ranges[bits][1]) for bits in bits_R.tolist()])[:, None]
        self.delta_RC = torch.zeros_like(self.start_RC, requires_grad=True)
        self.growth_RG = torch.zeros_like(scale_RG, requires_grad=True)

    def value(self) -> Tensor:
        """The matrix as it is stored, with straight-through gradients."""
        scale_RG = self.scale_RG * (1 + self.growth_RG)
        scale_RC = scale_RG.repeat_interleave(GROUP_SIZE, dim=1)
        start_RC = self.scale_RG.repeat_interleave(GROUP_SIZE, dim=1)
        # the weight itself does not grow with its scale, so a larger scale makes for a smaller quotient
        quotient_RC = (self.start_RC + self.delta_RC) * start_RC / scale_RC
        inside_RC = quotient_RC.clamp(self.lowest_R1, self.highest_R1)
        return (inside_RC + (torch.round(inside_RC) - inside_RC).detach()) * scale_RC

    def stored(self) -> tuple[Tensor, Tensor]:
        """int8 codes and fp32 scales that fp16 holds."""
        with torch.no_grad():
            scale_RG = storable(self.scale_RG * (1 + self.growth_RG))
            start_RC, scale_RC = (s.repeat_interleave(GROUP_SIZE, dim=1) for s in (self.scale_RG, scale_RG))
            quotient_RC = (self.start_RC + self.delta_RC) * start_RC / scale_RC
            codes_RC = torch.round(quotient_RC).clamp(self.lowest_R1, self.highest_R1)
        return codes_RC.to(torch.int8), scale_RG


class _Plain:
    """A tensor in floating point under training, relative to its size."""

    def __init__(self, base: Tensor) -> None:
        self.base, self.size = base, base.square().mean().sqrt()
        self.delta = torch.zeros_like(base, requires_grad=True)

    def value(self) -> Tensor:
        return self.base + self.size * self.delta


def finish(
    network: Network,
    quantized: QuantizedModel,
    batches: Sequence[Batch],
    num_steps: int,
    progress: Progress = silent,
) -> QuantizedModel:
    """Train codes, scales, norms and embedding together, one batch a step.

    Args:
        network: the original, fp32; not changed.
        quantized: what GPTQ or rounding made of it; not changed.
        batches: calibration rows, read in turn and from the start again when they end.
        num_steps: of Adam.
        progress: counts steps; its value is the divergence in nats per token.

    Raises:
        DataError: no text.
    """
    if not batches:
        raise DataError("there is no text to finish on", fix="give --text, or leave --finish out")
    original = dict(network.named_parameters())
    weights = {
        name: _Weight(
            _towards(original[name].detach(), dequantize(codes, quantized.scales[name])),
            codes,
            quantized.scales[name],
            _bits_by_row(network, name, quantized),
        )
        for name, codes in quantized.codes.items()
    }
    plain = {n: _Plain(p.detach()) for n, p in quantized.network.named_parameters() if n not in weights}
    adam = torch.optim.Adam(
        [
            {"params": [weight.delta_RC for weight in weights.values()], "rate": WEIGHT_RATE},
            {"params": [weight.growth_RG for weight in weights.values()], "rate": REST_RATE},
            {"params": [tensor.delta for tensor in plain.values()], "rate": REST_RATE},
        ],
        lr=0.0,
        betas=_BETAS,
    )
    for step in range(num_steps):
        parameters = {name: weight.value() for name, weight in weights.items()}
        parameters |= {name: tensor.value() for name, tensor in plain.items()}
        loss = divergence_of(network, parameters, batches[step % len(batches)])
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in adam.param_groups:
            group["lr"] = group["rate"] * min((step + 1) / _WARMUP, 1 - step / num_steps)
        adam.step()
        progress(step + 1, num_steps, "finish", divergence=loss.item())
    return _result(network, quantized, weights, plain, batches, num_steps)


def _towards(original_RC: Tensor, coded_RC: Tensor) -> Tensor:
    """The original, moved by the common row that centring took from a head: what codes were chosen for."""
    return original_RC + (coded_RC - original_RC).mean(0)


def _bits_by_row(network: Network, name: str, quantized: QuantizedModel) -> Tensor:
    """Bits of every row of a parameter, int64 (R,)."""
    parts = parts_of(network, name)
    return torch.cat(
        [torch.full((quantized.tensors[p].shape[0],), quantized.tensors[p].num_bits) for p in parts]
    )


def _result(
    network: Network,
    quantized: QuantizedModel,
    weights: Mapping[str, _Weight],
    plain: Mapping[str, _Plain],
    batches: Sequence[Batch],
    num_steps: int,
) -> QuantizedModel:
    """The stored form of what was trained, with what it cost added."""
    stored = {name: weight.stored() for name, weight in weights.items()}
    with torch.no_grad():
        rest = {name: tensor.value().to(torch.float16).to(torch.float32) for name, tensor in plain.items()}
    widths = {name: tensor.num_bits for name, tensor in quantized.tensors.items()}
    num_tokens = sum(batches[step % len(batches)].num_tokens for step in range(num_steps))
    return assemble(
        network,
        widths | dict.fromkeys(rest, FULL),
        {name: codes for name, (codes, _) in stored.items()},
        {name: scale for name, (_, scale) in stored.items()},
        rest,
        errors=quantized.errors,
        flop=quantized.flop + 4 * num_tokens * network.config.num_flops_per_token(batches[0].ids_BT.shape[1]),
        num_tokens=quantized.num_tokens + num_tokens,
    )
