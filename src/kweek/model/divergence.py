"""How far the predictions of one network are from those of another, with a hand-written gradient.

With the teacher's shares p and the pupil's q of the next token, and M = beta p + (1 - beta) q, the family is

    D = beta KL(p || M) + (1 - beta) KL(q || M)     0 < beta < 1: generalised Jensen-Shannon
    D = KL(p || q)                                  beta = 0: forward, its limit divided by beta
    D = KL(q || p)                                  beta = 1: reverse, its limit divided by 1 - beta

(Agarwal et al. 2024, "GKD", arXiv 2306.13649, section 2.1). Forward makes the pupil cover all that the teacher says,
reverse makes it keep to what the teacher would say. The gradient to the pupil's logits is q - p for forward, and else

    (1 - beta) q (log(q / M) - KL(q || M))          reverse: without the factor, M = p

Two heads and the divergence go through in chunks, as in `kweek.model.head`, since two sets of logits would be the
largest tensors of a step.
Shapes: N tokens, D width of the pupil, G width of the teacher, V vocabulary, C rows of a chunk, K likeliest tokens,
L = K + 1 (with the rest).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kweek.errors import ConfigError
from kweek.model.head import CHUNK_ROWS, add_outer


@dataclass(frozen=True)
class Measure:
    """Which divergence, and how much of the text's own loss stands beside it.

    Attributes:
        beta: 0 is forward KL, 1 reverse KL, between them generalised Jensen-Shannon.
        temperature: both networks' logits are divided by it, and the divergence is multiplied by its square, so that
            its gradient keeps its size (Hinton et al. 2015, arXiv 1503.02531, section 2). The text's loss has none.
        text_share: weight of the nll of the targets in the loss, beside 1 - that of the divergence.

    Raises:
        ConfigError: a share outside 0 to 1, or a temperature that is not positive.
    """

    beta: float = 0.0  # the text is the teacher's or like it: cover all of what it says
    temperature: float = 1.0  # the distribution that answers are drawn from
    text_share: float = 0.0  # the teacher alone

    def __post_init__(self) -> None:
        for name in ("beta", "text_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{value:g} is not a share", where=name, fix="give 0 to 1")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"{self.temperature:g} is no temperature", where="temperature", fix="give a number above 0"
            )


FORWARD = Measure()


class _Teacher(Protocol):
    """Where the wanted shares come from."""

    def logprobs(self, rows: slice, found_CV: Tensor, temperature: float) -> Tensor:
        """Their natural logs (C, V) in the dtype of `found_CV`, those of the pupil; the result may be written to."""
        ...


@dataclass(frozen=True)
class _Whole:
    """A teacher of which everything is known: hidden states and head."""

    hidden_NG: Tensor
    weight_VG: Tensor

    def logprobs(self, rows: slice, found_CV: Tensor, temperature: float) -> Tensor:
        hidden_CG = self.hidden_NG[rows]
        logits_CV = F.linear(hidden_CG, self.weight_VG.to(hidden_CG.dtype)).to(found_CV.dtype)
        return torch.log_softmax(logits_CV if temperature == 1 else logits_CV / temperature, -1)


@dataclass(frozen=True)
class _Likeliest:
    """A teacher of which the likeliest tokens are known, and what the others have together.

    What it says of the others is filled in from the pupil: they share the rest as the pupil's own tail does. The
    divergence is then exactly that of the K tokens and one more, "any other"; so is its gradient, since every member
    of the family is homogeneous in (p, q). It is never more than the divergence of the full distributions.
    """

    ids_NK: Tensor
    logprobs_NL: Tensor

    def logprobs(self, rows: slice, found_CV: Tensor, temperature: float) -> Tensor:
        ids_CK = self.ids_NK[rows]
        known_CL = torch.log_softmax(self.logprobs_NL[rows].to(found_CV.dtype), -1)  # stored ones are rounded
        tail_C1 = found_CV.scatter(-1, ids_CK, -math.inf).logsumexp(-1, keepdim=True)
        # Where the pupil's tail underflows, finite figures keep the products below from being inf times 0.
        rest_CV = found_CV + (known_CL[:, -1:] - tail_C1.clamp_min(-80.0))
        return rest_CV.scatter_(-1, ids_CK, known_CL[:, :-1])


class _FusedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        teacher: _Teacher,
        targets_N: Tensor,
        weights_N: Tensor,
        measure: Measure,
    ) -> tuple[Tensor, Tensor, Tensor]:
        matrix_VD = weight_VD.to(hidden_ND.dtype)
        exact = torch.promote_types(hidden_ND.dtype, torch.float32)
        divergence_N, nll_N = torch.empty_like(weights_N), torch.empty_like(weights_N)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            hidden_CD, weights_C1, targets_C1 = hidden_ND[rows], weights_N[rows, None], targets_N[rows, None]
            logits_CV = F.linear(hidden_CD, matrix_VD).to(exact)
            divergence_N[rows], nll_N[rows], error_CV = _chunk(logits_CV, teacher, rows, targets_C1, measure)
            error_CV = error_CV.to(hidden_ND.dtype)
            grad_hidden_ND[rows] = (error_CV @ matrix_VD) * weights_C1
            add_outer(grad_weight_VD, error_CV, (hidden_CD * weights_C1).to(error_CV.dtype))
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.mark_non_differentiable(divergence_N, nll_N)
        sized_N = divergence_N * measure.temperature**2
        return torch.lerp(sized_N, nll_N, measure.text_share) @ weights_N, divergence_N, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        grad_weight_VD = None if grad_weight_VD is None else grad_weight_VD * grad_loss
        return grad_hidden_ND * grad_loss, grad_weight_VD, None, None, None, None


def _chunk(
    logits_CV: Tensor, teacher: _Teacher, rows: slice, targets_C1: Tensor, measure: Measure
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence (C,), nll of the targets (C,), and the gradient of the loss to the logits (C, V)."""
    share, temperature = measure.text_share, measure.temperature
    found_CV = torch.log_softmax(logits_CV, -1)
    nll_C = -found_CV.gather(-1, targets_C1)[:, 0]
    if (
        measure.beta == 0 and temperature == 1
    ):  # the text's q - one-hot is in it: no pass over the logits more
        wanted_CV = teacher.logprobs(rows, found_CV, temperature)
        divergence_C, error_CV = _forward(found_CV, wanted_CV, 1 - share)
    else:
        plain_CV = found_CV.exp() if share else None
        if temperature != 1:
            found_CV = torch.log_softmax(logits_CV.div_(temperature), -1)
        wanted_CV = teacher.logprobs(rows, found_CV, temperature)
        if measure.beta:
            divergence_C, error_CV = _mixed(found_CV, wanted_CV, measure.beta)
        else:
            divergence_C, error_CV = _forward(found_CV, wanted_CV, 1.0)
        error_CV *= temperature * (1 - share)  # the loss has its square, the logits were divided by it
        if plain_CV is not None:
            error_CV.add_(plain_CV, alpha=share)
    if share:
        error_CV.scatter_add_(-1, targets_C1, error_CV.new_full(targets_C1.shape, -share))
    return divergence_C, nll_C, error_CV


def _forward(found_CV: Tensor, wanted_CV: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """Forward KL (C,), and the pupil's shares less `kept` times the teacher's (C, V). Both arguments are used up."""
    shares_CV = wanted_CV.exp()
    divergence_C = (shares_CV * wanted_CV.sub_(found_CV)).sum(-1)
    return divergence_C, found_CV.exp_().sub_(shares_CV, alpha=kept)


def _mixed(found_CV: Tensor, wanted_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Reverse KL and generalised Jensen-Shannon (C,), with the gradient to the pupil's logits (C, V)."""
    if beta < 1:
        mixture_CV = torch.logaddexp(wanted_CV + math.log(beta), found_CV + math.log1p(-beta))
    else:
        mixture_CV = wanted_CV
    shares_CV = found_CV.exp()
    lean_CV = found_CV - mixture_CV
    own_C1 = (shares_CV * lean_CV).sum(-1, keepdim=True)
    factor = 1 - beta if beta < 1 else 1.0
    divergence_C = factor * own_C1[:, 0]
    if beta < 1:
        divergence_C = divergence_C + beta * (wanted_CV.exp() * (wanted_CV - mixture_CV)).sum(-1)
    return divergence_C, lean_CV.sub_(own_C1).mul_(shares_CV).mul_(factor)


def fused_divergence(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    wanted_NG: Tensor,
    wanted_VG: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    measure: Measure = FORWARD,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted divergence of the next token from a teacher, with gradients to the pupil's hidden states and head.

    Args:
        hidden_ND, weight_VD: the pupil's final hidden states and head.
        wanted_NG, wanted_VG: the teacher's; no gradient is taken to them.
        targets_N: the token that followed.
        weights_N: weight of each row in the sum, in the dtype of the result.
        measure: which divergence.

    Returns:
        the loss, summed with the weights; the divergence (N,), without the square of the temperature, and the pupil's
        nll of the targets (N,), nats, detached.
    """
    teacher = _Whole(wanted_NG, wanted_VG)
    return _FusedDivergence.apply(  # type: ignore[no-untyped-call, no-any-return]
        hidden_ND, weight_VD, teacher, targets_N, weights_N, measure
    )


def likeliest_divergence(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    ids_NK: Tensor,
    logprobs_NL: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    measure: Measure = FORWARD,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same from a teacher's likeliest tokens alone: all others count as one, "any other".

    Args:
        ids_NK: int64, the teacher's likeliest tokens, each once.
        logprobs_NL: their natural logs and, last, that of all other tokens together; finite, normalised here.
        measure: at temperature 1: how the rest would spread at another is not known.

    Raises:
        ConfigError: another temperature than 1.
    """
    if measure.temperature != 1:
        raise ConfigError(
            "the likeliest tokens say nothing of another temperature than 1",
            where="temperature",
            fix="leave it at 1, or have the teacher in this process",
        )
    teacher = _Likeliest(ids_NK, logprobs_NL)
    return _FusedDivergence.apply(  # type: ignore[no-untyped-call, no-any-return]
        hidden_ND, weight_VD, teacher, targets_N, weights_N, measure
    )
