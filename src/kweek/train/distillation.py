"""Distillation as objectives: a network learns to predict what a larger one predicts.

Three ways to know what the teacher says, for three situations; all three are weighted by the batch, token by token:

- `Distillation`: the teacher is in this process and reads along. The divergence of the full distributions, from any
  member of the family in `kweek.model.divergence`, on text or on what the pupil itself has just sampled.
- `StoredDistillation`: it has read the text before, and its likeliest tokens are on disk (`kweek.data.predictions`).
- `SampledDistillation`: it has only said how likely it finds the very tokens that the pupil sampled.

All need the tokenizer of the teacher, which networks do not know: `load_teacher` and `Predictions.open` compare it.
Shapes: B rows, T positions, N = B T tokens, D width of the pupil, G of the teacher, S segments.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kweek.data.batches import Batch
from kweek.data.predictions import ROW, SHARD, Predictions
from kweek.errors import ConfigError, DataError
from kweek.model.checkpoint import load_model
from kweek.model.divergence import FORWARD, Measure, fused_divergence, likeliest_divergence
from kweek.model.head import fused_cross_entropy, token_nll, token_nll_flop
from kweek.model.network import Network
from kweek.tokenize.agreement import check_same_tokenizer
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.objective import Likelihood, Loss

TEACHER = "teacher_logprob"  # the stream of what a teacher says of the targets, natural logs


class Distillation:
    """The divergence from a teacher that reads the batch too.

    Args:
        teacher: in evaluation; its own weights never change here.
        measure: which divergence, and the share of the text's own loss; at share 1 the teacher is not read.
    """

    def __init__(self, teacher: Network, measure: Measure = FORWARD) -> None:
        self.teacher, self.measure = teacher, measure
        self._text = Likelihood()

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            ConfigError: the teacher has another number of tokens.
        """
        if self.measure.text_share == 1:
            return self._text(network, hidden_BTD, batch)
        teacher = self.teacher
        _check_vocabulary(network, teacher.config.vocab_size)
        with torch.no_grad():
            wanted_BTG = teacher(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        value, divergence_N, nll_N = fused_divergence(
            hidden_BTD.flatten(0, 1),
            network.head_weight,
            wanted_BTG.flatten(0, 1),
            teacher.head_weight,
            batch.targets_BT.flatten(),
            batch.weights_BT.flatten(),
            self.measure,
        )
        reading = batch.ids_BT.numel() * teacher.config.num_flops_per_token(batch.ids_BT.shape[1])
        parts = {"divergence": float(divergence_N @ batch.weights_BT.flatten())}
        return Loss(value, nll_N, parts, reading)


class StoredDistillation:
    """The divergence from predictions that were stored; "any other token" counts as one.

    A segment without predictions, text that is replayed, has its own likelihood for a loss.

    Args:
        predictions: whose segments the batches are made of.
        measure: at temperature 1.
    """

    def __init__(self, predictions: Predictions, measure: Measure = FORWARD) -> None:
        self.predictions, self.measure = predictions, measure

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            ConfigError: the teacher had another number of tokens.
            DataError: a batch in which nothing has predictions, or damaged ones.
        """
        _check_vocabulary(network, self.predictions.info.vocab_size)
        if batch.sequence_BT is None or SHARD not in batch.labels:
            raise DataError(
                "the batch names no predictions", fix="make batches of the segments of the predictions"
            )
        sequence_N, weights_N = batch.sequence_BT.flatten(), batch.weights_BT.flatten()
        shard_N = batch.labels[SHARD][sequence_N.clamp_min(0)]
        taught_N = (sequence_N >= 0) & ~shard_N.isnan() & (weights_N != 0)
        hidden_ND, targets_N = hidden_BTD.flatten(0, 1), batch.targets_BT.flatten()
        value, divergence_N, taught_nll_N = likeliest_divergence(
            hidden_ND[taught_N],
            network.head_weight,
            *self.predictions.rows(shard_N[taught_N].long(), batch.streams[ROW].flatten()[taught_N].long()),
            targets_N[taught_N],
            weights_N[taught_N],
            self.measure,
        )
        text, text_nll_N = fused_cross_entropy(
            hidden_ND[~taught_N], network.head_weight, targets_N[~taught_N], weights_N[~taught_N]
        )
        nll_N = torch.empty_like(weights_N)
        nll_N[taught_N], nll_N[~taught_N] = taught_nll_N, text_nll_N
        return Loss(value + text, nll_N, {"divergence": float(divergence_N @ weights_N[taught_N])})


class SampledDistillation:
    """The pupil's reverse KL from a teacher, estimated from the tokens that the pupil sampled.

    With q the pupil and p the teacher, log q(x) - log p(x) of a sampled token x estimates KL(q || p) at its place, and
    (log q(x) - log p(x)) * grad log q(x) its gradient: a policy gradient whose reward is the teacher's surprise, token
    by token (Lu 2025, "On-Policy Distillation", Thinking Machines). Both estimates are unbiased where x was drawn
    from q itself, at temperature 1 and without truncation; what a token does to later places is left out, as in
    `Distillation`, whose full sum over the vocabulary has the same expectation and far less noise.

    Batches carry the stream and the label `TEACHER`. A segment without them, text that is replayed, has its own
    likelihood for a loss.
    """

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: a batch without the teacher's log-probabilities.
        """
        if TEACHER not in batch.streams or TEACHER not in batch.labels or batch.sequence_BT is None:
            raise DataError(
                "the batch does not say what the teacher thinks of its tokens",
                fix="make it of segments with the teacher's log-probabilities",
            )
        nll_N = token_nll(hidden_BTD.flatten(0, 1), network.head_weight, batch.targets_BT.flatten())
        weights_N = batch.weights_BT.flatten().to(nll_N.dtype)
        sequence_N = batch.sequence_BT.flatten()
        judged_N = (sequence_N >= 0) & ~batch.labels[TEACHER][sequence_N.clamp_min(0)].isnan()
        excess_N = -nll_N.detach() - batch.streams[TEACHER].flatten().to(nll_N.dtype)
        excess_N = torch.where(judged_N, excess_N, 0.0)
        value = (torch.where(judged_N, -excess_N, 1.0) * weights_N) @ nll_N
        flop = token_nll_flop(network.head_weight, int(weights_N.count_nonzero()), len(weights_N))
        return Loss(value, nll_N.detach(), {"divergence": float(excess_N @ weights_N)}, flop)


def load_teacher(folder: Path, tokenizer: Tokenizer) -> Network:
    """The network of a checkpoint folder, in fp32, to teach a pupil with this tokenizer.

    Raises:
        ConfigError: the folder's tokenizer gives a text other ids, also where it has as many tokens.
        CheckpointError: the folder cannot be loaded.
    """
    check_same_tokenizer(Tokenizer.load(folder), tokenizer)
    return load_model(folder)


def _check_vocabulary(network: Network, vocab_size: int) -> None:
    """Raise ConfigError unless the pupil predicts as many tokens as its teacher."""
    if network.config.vocab_size != vocab_size:
        raise ConfigError(
            f"the teacher predicts {vocab_size} tokens, the pupil {network.config.vocab_size}",
            fix="take a teacher with the tokenizer of the pupil",
        )
