"""After rounding: scales, norms and embedding tuned until the 4-bit network predicts what the original predicts.

Codes stay as GPTQ chose them. What is stored in floating point anyway is moved by a few steps of Adam down the
Kullback-Leibler divergence from the original's predictions (Hinton et al. 2015, arXiv 1503.02531, at temperature 1).
GPTQ minimises the error of each matrix alone; this sees all of them at once and the softmax behind them.
Shapes: B rows, T tokens, N real tokens, D width, G groups, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from kweek.compress.scales import dequantize, storable
from kweek.data.batches import Batch
from kweek.model.network import Network
from kweek.protocols import Progress, silent

#: Largest step of every tuned value relative to the size of its tensor; of 0.0025, 0.005 and 0.01 the best.
LEARNING_RATE = 0.0025
_BETAS = (0.9, 0.95)  # a short memory, since there are only some tens of steps
_WARMUP = 3  # steps, so that Adam's first, badly scaled ones are small


class _Tuned:
    """A tensor as base + size * delta, with delta trained from zero: one learning rate then fits all."""

    def __init__(self, base: Tensor, *, relative: bool) -> None:
        self.base = base.detach()
        self.size = self.base if relative else self.base.square().mean().sqrt()
        self.delta = torch.zeros_like(self.base, requires_grad=True)

    def value(self) -> Tensor:
        return self.base + self.size * self.delta


def tune(
    network: Network,
    codes: Mapping[str, Tensor],
    scales: Mapping[str, Tensor],
    batches: Sequence[Batch],
    progress: Progress = silent,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One Adam step per batch.

    Args:
        network: the original; not changed.
        codes, scales: of its quantised matrices by parameter name, int8 (R, C) and fp32 (R, G).
        batches: calibration rows, each read once.
        progress: counts batches; its value is the divergence in nats per token.

    Returns:
        scales that fp16 holds, and all parameters that are not quantised, rounded to fp16; both fp32, by name.
    """
    tuned_scales = {name: _Tuned(scale, relative=True) for name, scale in scales.items()}
    plain = {
        name: _Tuned(parameter, relative=parameter.dim() == 1)
        for name, parameter in network.named_parameters()
        if name not in codes
    }
    everything = [*tuned_scales.values(), *plain.values()]
    adam = torch.optim.Adam([part.delta for part in everything], betas=_BETAS)
    for step, batch in enumerate(batches):
        parameters = {name: dequantize(codes[name], part.value()) for name, part in tuned_scales.items()}
        parameters |= {name: part.value() for name, part in plain.items()}
        loss = divergence_of(network, parameters, batch)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.param_groups[0]["lr"] = LEARNING_RATE * min((step + 1) / _WARMUP, 1 - step / len(batches))
        adam.step()
        progress(step + 1, len(batches), "tune", divergence=loss.item())
    with torch.no_grad():
        return (
            {name: storable(part.value()) for name, part in tuned_scales.items()},
            {name: part.value().to(torch.float16).to(torch.float32) for name, part in plain.items()},
        )


def divergence_of(network: Network, parameters: dict[str, Tensor], batch: Batch) -> Tensor:
    """Mean over real tokens of KL(original || network with these parameters), in nats."""
    arguments = {"positions_BT": batch.positions_BT, "mask": batch.mask_B1TT}
    valid_BT = batch.weights_BT > 0
    with torch.no_grad():
        hidden_ND = network(batch.ids_BT, **arguments)[valid_BT]
        wanted_NV = torch.log_softmax(network.logits(hidden_ND).float(), -1)
    hidden_ND = functional_call(network, parameters, (batch.ids_BT,), arguments)[valid_BT]
    head = "model.embed_tokens.weight" if network.config.tied_embeddings else "lm_head.weight"
    found_NV = torch.log_softmax(torch.nn.functional.linear(hidden_ND, parameters[head]), -1)
    return torch.nn.functional.kl_div(found_NV, wanted_NV, log_target=True, reduction="sum") / len(hidden_ND)
