"""Distillation: a network learns to predict what a larger one predicts, on the one training loop.

The loss is the forward Kullback-Leibler divergence KL(teacher || pupil) of the full distributions at temperature 1
(Hinton et al. 2015, arXiv 1503.02531), with a share of the text's own next-token loss beside it: a small teacher knows
less than the text says. It needs the same vocabulary on both sides, so another tokenizer is refused. Head and loss go
through in chunks with a hand-written gradient, as in `kweek.model.head`, since two sets of logits would be the largest
tensors of a step.
Shapes: N tokens, D width of the pupil, G width of the teacher, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kweek.data.batches import Batch
from kweek.data.packing import PackedMix, Source
from kweek.errors import ConfigError
from kweek.model.head import CHUNK_ROWS
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, fit

#: What decides which ids a text gets; templates and settings beside it may differ.
_DECIDING = ("model", "added_tokens", "normalizer", "pre_tokenizer")
_RATES_WIDTH, _RATES_TOKENS = 128, 512  # what the default learning rates are tuned for


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to distil.

    The defaults were measured at 90 thousand parameters; see the log, "Pruning at equal total FLOP".

    Attributes:
        num_tokens: tokens of text to read.
        row_length: tokens per row.
        tokens_per_step: tokens per update.
        rate: of the learning rates of training from nothing (scaled to width and batch).
        text_share: weight of the text's own loss; the divergence has the rest. At 1 the teacher is not read.
        seed: of the order of the text.
    """

    num_tokens: int
    #: what small networks are trained on.
    row_length: int = 256
    #: small batches train best at this size.
    tokens_per_step: int = 512
    #: the network is trained already, and only has to make good what was taken out; 0.25 and 1 measured worse.
    rate: float = 0.5
    #: of 0, 0.3, 0.7 and 1 the best after a tenth of the teacher's FLOP.
    text_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a share of the loss that is none."""
        if not 0 <= self.text_share <= 1:
            raise ConfigError(f"{self.text_share:g} is not a share", where="text_share", fix="give 0 to 1")

    @property
    def num_steps(self) -> int:
        """Updates."""
        return max(1, self.num_tokens // self.tokens_per_step)


def check_same_tokenizer(teacher: Tokenizer, pupil: Tokenizer) -> None:
    """Raise ConfigError unless both give every text the same ids: a logit is a statement about one id."""
    for part in _DECIDING:
        if teacher.definition.get(part) != pupil.definition.get(part):
            raise ConfigError(
                f"teacher and pupil have different tokenizers ({part} differs): their predictions do not compare",
                where=teacher.name,
                fix="take a teacher with the tokenizer of the pruned model",
            )


class _FusedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        wanted_NG: Tensor,
        wanted_VG: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        text_share: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        matrix_VD, matrix_VG = weight_VD.to(hidden_ND.dtype), wanted_VG.to(wanted_NG.dtype)
        kl_N, nll_N = torch.empty_like(weights_N), torch.empty_like(weights_N)
        grad_hidden_ND, grad_weight_VD = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD)
        for start in range(0, hidden_ND.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            hidden_CD, weights_C1, targets_C1 = hidden_ND[rows], weights_N[rows, None], targets_N[rows, None]
            found_CV = torch.log_softmax(F.linear(hidden_CD, matrix_VD).float(), -1)
            wanted_CV = torch.log_softmax(F.linear(wanted_NG[rows], matrix_VG).float(), -1)
            nll_N[rows] = -found_CV.gather(-1, targets_C1)[:, 0]
            shares_CV = wanted_CV.exp()
            kl_N[rows] = (shares_CV * wanted_CV.sub_(found_CV)).sum(-1)
            # The gradient to the logits is weight * (pupil's shares - wanted shares), where what is wanted are the
            # teacher's shares and the token that followed.
            error_CV = found_CV.exp_().sub_(shares_CV, alpha=1 - text_share)
            truth_C1 = error_CV.new_full(targets_C1.shape, -text_share)
            error_CV = error_CV.scatter_add_(-1, targets_C1, truth_C1).to(hidden_ND.dtype)
            grad_hidden_ND[rows] = (error_CV @ matrix_VD) * weights_C1
            grad_weight_VD += error_CV.t() @ (hidden_CD * weights_C1).to(error_CV.dtype)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        ctx.mark_non_differentiable(kl_N, nll_N)
        return torch.lerp(kl_N, nll_N, text_share) @ weights_N, kl_N, nll_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * grad_loss, grad_weight_VD * grad_loss, None, None, None, None, None


def fused_divergence(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    wanted_NG: Tensor,
    wanted_VG: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    text_share: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted KL(teacher || pupil) of the next token, with gradients to the pupil's hidden states and head.

    Args:
        hidden_ND, weight_VD: the pupil's final hidden states and head.
        wanted_NG, wanted_VG: the teacher's; no gradient is taken to them.
        targets_N: the token that followed.
        weights_N: fp32, weight of each row in the sum.
        text_share: weight of the nll of the targets in the loss, beside 1 - that of KL.

    Returns:
        the loss, summed with the weights; KL (N,) and the pupil's nll of the targets (N,), nats, detached.
    """
    return _FusedDivergence.apply(  # type: ignore[no-untyped-call, no-any-return]
        hidden_ND, weight_VD, wanted_NG, wanted_VG, targets_N, weights_N, text_share
    )


class Distiller(Trainer):
    """A `Trainer` whose loss is the divergence from a teacher.

    Args:
        text_share: see `Schedule`.
        masks: by parameter name, false where a weight has to stay zero (2:4 sparsity).
    """

    def __init__(
        self,
        network: Network,
        teacher: Network,
        optimiser: SplitOptimiser,
        *,
        text_share: float = 0.0,
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(network, optimiser)
        if network.config.vocab_size != teacher.config.vocab_size:
            raise ConfigError(
                f"the teacher predicts {teacher.config.vocab_size} tokens, the pupil {network.config.vocab_size}",
                fix="take a teacher with the tokenizer of the pruned model",
            )
        self.teacher, self.text_share, self.masks = teacher, text_share, dict(masks or {})

    def step(self, batches: Sequence[Batch], factor: float) -> StepResult:
        """One update; its FLOP include the teacher's reading, of which there is none when the text alone counts."""
        result = super().step(batches, factor)
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.network.get_parameter(name).mul_(mask)
        if self.text_share == 1:
            return result
        reading = sum(
            batch.ids_BT.numel() * self.teacher.config.num_flops_per_token(batch.ids_BT.shape[1])
            for batch in batches
        )
        return replace(result, flop=result.flop + reading)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The weighted divergence (scalar) and the pupil's negative log-likelihood of every token (B*T, detached)."""
        if self.text_share == 1:
            return super().loss(batch)
        with torch.no_grad():
            wanted_BTG = _hidden(self.teacher, batch)
        hidden_BTD = _hidden(self.network, batch)
        loss, _, nll_N = fused_divergence(
            hidden_BTD.flatten(0, 1),
            self.network.head_weight,
            wanted_BTG.flatten(0, 1),
            self.teacher.head_weight,
            batch.targets_BT.flatten(),
            batch.weights_BT.flatten(),
            self.text_share,
        )
        return loss, nll_N


def _hidden(network: Network, batch: Batch) -> Tensor:
    """Final hidden states (B, T, D)."""
    hidden_BTD: Tensor = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
    return hidden_BTD


def distil(
    pupil: Network,
    teacher: Network,
    sources: Sequence[Source],
    eos_id: int,
    schedule: Schedule,
    *,
    masks: Mapping[str, Tensor] | None = None,
    state: Path | None = None,
    on_step: Callable[[Trained, StepResult, float], None] | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Trained:
    """Train the pupil, in place, to predict what the teacher predicts. See `kweek.train.trainer.fit` for the rest."""
    by_width = schedule.rate * _RATES_WIDTH / pupil.config.hidden_size
    by_batch = (
        schedule.tokens_per_step / _RATES_TOKENS
    ) ** 0.5  # of all but the embedding, as in pretraining
    optimiser = SplitOptimiser(pupil, LearningRates().scaled(by_width * by_batch, embedding=by_width))
    trainer = Distiller(pupil, teacher, optimiser, text_share=schedule.text_share, masks=masks)
    lengths = [schedule.row_length] * schedule.num_steps
    mix = PackedMix(sources, lengths, schedule.tokens_per_step, schedule.seed, eos_id)
    return fit(
        trainer,
        mix.batches,
        schedule.num_steps,
        WarmupStableDecay(schedule.num_steps, decay=1.0),
        state=state,
        on_step=on_step,
        progress=progress,
        should_stop=should_stop,
    )
