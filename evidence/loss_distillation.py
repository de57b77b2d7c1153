"""Distillation on the stored batch: the chosen answers, read by a pupil and a teacher that differ.

The divergences here are sums over a whole vocabulary, token by token; nothing of `kweek.model.divergence` is used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import loss_batch
import loss_references as papers
import numpy as np
import torch
from loss_batch import Stored
from torch import Tensor

from kweek.align.pairs import Pair
from kweek.data.batches import Segment, segment
from kweek.data.predictions import KIND, ROW, Predicted, PredictionInfo, Predictions, write_predictions
from kweek.model.divergence import Measure
from kweek.model.network import Network
from kweek.store.artifact import ArtifactWriter
from kweek.train.distillation import TEACHER, Distillation, SampledDistillation, StoredDistillation
from kweek.train.objective import Objective

NUM_LIKELIEST = 4
Units = Sequence[Sequence[Segment]]
Term = Callable[
    [Tensor, Tensor, int], Tensor
]  # of the pupil's logits, the teacher's, and the token that followed


class DistillationCase(NamedTuple):
    """The arguments of `loss_cases.Case`, but for the network."""

    name: str
    objective: Callable[[torch.dtype], Objective]
    units: Units
    reference: Callable[[Any], Tensor]
    trl: str | None


def distillation_cases(stored: Stored) -> list[DistillationCase]:
    """Every objective of `kweek.train.distillation`; the family of divergences at its ends and in between."""
    pairs, found = stored.pairs, []
    measures = {
        "distillation, forward KL": (Measure(), "gkd_forward"),
        "distillation, reverse KL": (Measure(1.0), "gkd_reverse"),
        "distillation, Jensen-Shannon": (Measure(0.3), "gkd_between"),
        "distillation, tempered, beside the text": (Measure(0.3, 2.0, 0.25), None),
    }
    for name, (measure, trl) in measures.items():
        found.append(
            DistillationCase(
                name, lambda dtype, measure=measure: Distillation(loss_batch.teacher(dtype), measure),
                _units(pairs), lambda net, measure=measure: _mean(net, pairs, _measured(measure)), trl,
            )
        )  # fmt: skip
    predictions = _stored(pairs)
    found.append(
        DistillationCase(
            "distillation, likeliest tokens", lambda _: StoredDistillation(predictions, Measure(0.3)),
            [[part] for part in predictions.segments()], lambda net: _few(net, pairs, predictions), None,
        )
    )  # fmt: skip
    found.append(
        DistillationCase(
            "distillation, sampled reverse KL", lambda _: SampledDistillation(), _units(pairs, said=True),
            lambda net: _mean(net, pairs, _sampled), None,
        )
    )  # fmt: skip
    return found


def _total(pairs: Sequence[Pair]) -> int:
    return sum(sum(pair.chosen.loss_mask) for pair in pairs)


def _units(pairs: Sequence[Pair], said: bool = False) -> Units:
    """The chosen answers; with what the teacher says of their tokens where it does not read along."""
    found = []
    for pair in pairs:
        streams, labels = dict[str, list[float]](), dict[str, float]()
        if said:
            logs = papers.token_logprobs(loss_batch.teacher(), pair.chosen.token_ids)
            streams, labels = {TEACHER: [float(x.detach()) for x in logs]}, {TEACHER: 1.0}
        weights = np.asarray(pair.chosen.loss_mask, np.float32) / _total(pairs)
        found.append([segment(pair.chosen.token_ids, weights, streams, labels)])
    return found


def _mean(network: Network, pairs: Sequence[Pair], term: Term) -> Tensor:
    """Over the counted tokens of all chosen answers."""
    teacher, terms = loss_batch.teacher(), []
    for pair in pairs:
        ids = pair.chosen.token_ids
        own_TV = papers.logits(network, ids)
        wanted_TV = papers.logits(teacher, ids).detach()
        terms += [
            term(own_TV[t - 1], wanted_TV[t - 1], ids[t])
            for t, counted in enumerate(pair.chosen.loss_mask)
            if counted
        ]
    return torch.stack(terms).sum() / _total(pairs)


def _measured(measure: Measure) -> Term:
    def term(own_V: Tensor, wanted_V: Tensor, token: int) -> Tensor:
        t, share = measure.temperature, measure.text_share
        q, p = torch.softmax(own_V / t, -1), torch.softmax(wanted_V / t, -1)
        text = -torch.log(torch.softmax(own_V, -1)[token])
        return (1 - share) * t**2 * papers.jensen_shannon(p, q, measure.beta) + share * text

    return term


def _sampled(own_V: Tensor, wanted_V: Tensor, token: int) -> Tensor:
    q = torch.log(torch.softmax(own_V, -1)[token])
    p = torch.log(torch.softmax(wanted_V, -1)[token])
    return (q - p).detach() * q


def _stored(pairs: Sequence[Pair]) -> Predictions:
    """What the teacher says, as it lies on disk: its likeliest tokens, in 16 bits."""
    teacher, total, rows = loss_batch.teacher(), _total(pairs), []
    for pair in pairs:
        places = [t for t, counted in enumerate(pair.chosen.loss_mask) if counted]
        logs_TV = torch.log_softmax(papers.logits(teacher, pair.chosen.token_ids).detach(), -1)
        top = logs_TV[[t - 1 for t in places]].topk(NUM_LIKELIEST)
        weights = np.asarray(pair.chosen.loss_mask, np.float32) / np.float32(total)
        rows.append(Predicted(pair.chosen.token_ids, weights, top.indices.numpy(), top.values.numpy()))
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays readable after it is gone
        where = Path(folder) / "predictions"
        with ArtifactWriter(where, kind=KIND, fingerprint="losses") as out:
            info = PredictionInfo(loss_batch.VOCABULARY, NUM_LIKELIEST, "words", "the teacher")
            write_predictions(out, rows, info)
        return Predictions.open(where, "words")


def _few(network: Network, pairs: Sequence[Pair], predictions: Predictions) -> Tensor:
    """The divergence of the named tokens and one more, "any other"."""
    terms = []
    for part in predictions.segments():
        q_TV = torch.softmax(papers.logits(network, [*part.ids.tolist(), int(part.targets[-1])]), -1)
        for t in np.nonzero(part.weights)[0]:
            row = torch.tensor([int(part.streams[ROW][t])])
            ids_1K, logs_1L = predictions.rows(torch.zeros(1, dtype=torch.long), row)
            named_K, shares_L = q_TV[t][ids_1K[0]], torch.exp(logs_1L[0].double())
            q_L = torch.cat([named_K, (1 - named_K.sum())[None]])
            terms.append(papers.jensen_shannon(shares_L / shares_L.sum(), q_L, 0.3))
    return torch.stack(terms).sum() / _total(pairs)
