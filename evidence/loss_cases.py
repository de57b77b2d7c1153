"""Every algorithm on the stored batch: its objective, the micro-batches it reads, and the independent reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import loss_batch
import loss_references as papers
import numpy as np
import torch
from loss_batch import FOLDER, Stored
from loss_distillation import distillation_cases
from loss_policies import policy_cases
from torch import Tensor

from kweek.align.dpo import DPO
from kweek.align.ipo import IPO
from kweek.align.kto import KTO, judged_segments, moved
from kweek.align.pairs import Pair, pair_segments
from kweek.align.process import StepCorrectness, chain_segments
from kweek.align.reward import BradleyTerry, judged_ids, reward_segments
from kweek.align.sequences import micro_batches
from kweek.align.simpo import SimPO
from kweek.align.value import RETURN, ValueRegression
from kweek.data.batches import Batch, Segment, segment
from kweek.model.network import Network
from kweek.tokenize.chat import Chat
from kweek.train.objective import Likelihood, Objective

ROW, TOKENS = 32, 40  # several rows and several micro-batches for six pairs
Units = Sequence[Sequence[Segment]]


@dataclass(frozen=True)
class Case:
    """One algorithm.

    Attributes:
        objective: in a precision, which matters where it holds a network of its own.
        open: the network or scorer in a precision.
        units: what has to stay in one micro-batch, given the network (KTO asks it how far it has moved).
        reference: the loss of the whole update by the formula of the paper.
        trl: the name of TRL's values on this batch, if TRL has the algorithm.
    """

    name: str
    objective: Callable[[torch.dtype], Objective]
    open: Callable[[torch.dtype], Any]
    units: Callable[[Network], Units]
    reference: Callable[[Any], Tensor]
    trl: str | None = None


def cases(stored: Stored) -> list[Case]:
    """All algorithms of the package."""
    pairs, plain = stored.pairs, [replace(pair, margin=0.0) for pair in stored.pairs]

    def per_pair(chosen: list[Pair], loss: Callable[..., Tensor]) -> Callable[[Network], Tensor]:
        return lambda network: torch.stack([loss(network, pair) for pair in chosen]).mean()

    def simpo(network: Network, pair: Pair) -> Tensor:
        logs = _logprobs(network, pair)
        return papers.simpo(*logs, sum(pair.chosen.loss_mask), sum(pair.rejected.loss_mask), 2.0, 0.7)

    def dpo(smoothing: float) -> Callable[[Network, Pair], Tensor]:
        return lambda network, pair: papers.dpo(
            *_logprobs(network, pair), *_references(pair), 0.1, smoothing, pair.margin
        )

    policy, judge = loss_batch.network, loss_batch.scorer
    found = [
        Case("SFT", always(Likelihood()), policy, lambda _: _sft_units(pairs), lambda net: _sft(net, pairs)),
        Case("DPO", always(DPO()), policy, lambda _: pair_segments(plain), per_pair(plain, dpo(0.0)), "dpo"),
        Case(
            "DPO, smoothed, with margins", always(DPO(label_smoothing=0.2)), policy,
            lambda _: pair_segments(pairs), per_pair(pairs, dpo(0.2)),
        ),
        Case(
            "IPO", always(IPO(0.3)), policy, lambda _: pair_segments(pairs),
            per_pair(pairs, lambda net, pair: papers.ipo(*_logprobs(net, pair), *_references(pair), 0.3)),
        ),
        Case(
            "IPO, per token", always(IPO(0.3, per_token=True)), policy, lambda _: pair_segments(pairs),
            per_pair(pairs, _ipo_per_token), "ipo_per_token",
        ),
        Case("SimPO", always(SimPO(2.0, 0.7)), policy, lambda _: pair_segments(pairs), per_pair(pairs, simpo), "simpo"),
        Case(
            "KTO", always(KTO(0.2, 1.2, 0.9)), policy,
            lambda net: [[part] for part in judged_segments(stored.judged, moved(stored.judged, score_of(net)))],
            lambda net: _kto(net, stored), "kto",
        ),
        Case(
            "reward model", always(BradleyTerry(0.02)), judge, lambda _: reward_segments(pairs),
            lambda net: _bradley_terry(net, pairs), "bradley_terry",
        ),
    ]  # fmt: skip
    tokens = lambda dtype: loss_batch.scorer(dtype, per_token=True)  # noqa: E731
    found += [
        Case(
            "critic", always(ValueRegression()), tokens, lambda _: _value_units(stored),
            lambda net: _values(net, stored),
        ),
        Case(
            "process reward model", always(StepCorrectness()), tokens,
            lambda _: [[part] for part in chain_segments(stored.chains)], lambda net: _steps(net, stored),
        ),
    ]  # fmt: skip
    for name, objective, units, reference, trl in policy_cases(stored):
        found.append(Case(name, always(objective), policy, lambda _, units=units: units, reference, trl))
    for name, make, units, reference, trl in distillation_cases(stored):
        found.append(Case(name, make, policy, lambda _, units=units: units, reference, trl))
    return found


def always(objective: Objective) -> Callable[[torch.dtype], Objective]:
    """The same in every precision."""
    return lambda dtype: objective


def ours(case: Case, dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients as training has them: packed, in micro-batches, through the objective."""
    network, objective = case.open(dtype), case.objective(dtype)
    total = 0.0
    for batch in batches(case, network):
        hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        loss = objective(network, hidden_BTD, batch).value
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, gradients(network)


def batches(case: Case, network: Network, max_tokens: int = TOKENS) -> list[Batch]:
    """The micro-batches of the case."""
    return micro_batches(case.units(network), ROW, max_tokens)


def theirs(case: Case) -> tuple[float, dict[str, Tensor]]:
    """The same of the independent reference, in float64."""
    network = case.open(torch.float64)
    loss = case.reference(network)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), gradients(network)


def peers(case: Case) -> tuple[float, dict[str, Tensor]]:
    """The same of TRL, from the store; only some of the gradients."""
    stored = json.loads((FOLDER / "trl.json").read_text())["losses"][case.trl]
    return stored["loss"], {
        name: torch.tensor(rows, dtype=torch.float64) for name, rows in stored["gradients"].items()
    }


def gradients(network: Network) -> dict[str, Tensor]:
    """By the names of a checkpoint, float64; zeros where there is none."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return {name: value.double() for name, value in network.state_dict().items()}


def difference(
    one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]
) -> tuple[float, float]:
    """Of losses and of gradients: the largest, over the largest gradient where that is above 1."""
    names = one[1].keys() & other[1].keys()
    largest = max(1.0, *(float(other[1][name].abs().max()) for name in names))
    apart = max(float((one[1][name] - other[1][name].view_as(one[1][name])).abs().max()) for name in names)
    return abs(one[0] - other[0]), apart / largest


def score_of(network: Network) -> Callable[[Sequence[Sequence[int]]], list[list[float]]]:
    """What the network says of sequences, by the reference's arithmetic."""

    def score(sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        with torch.no_grad():
            return [[float(x) for x in papers.token_logprobs(network, ids)] for ids in sequences]

    return score


def _logprobs(network: Network, pair: Pair) -> tuple[Tensor, Tensor]:
    sides = (pair.chosen, pair.rejected)
    chosen, rejected = (papers.logprob(network, side.token_ids, side.loss_mask) for side in sides)
    return chosen, rejected


def _counted(values: Sequence[float], answer: Chat) -> float:
    return sum(x for x, own in zip(values, answer.loss_mask, strict=True) if own)


def _references(pair: Pair) -> tuple[float, float]:
    return _counted(pair.chosen_reference, pair.chosen), _counted(pair.rejected_reference, pair.rejected)


def _ipo_per_token(network: Network, pair: Pair) -> Tensor:
    (lc, lr), (kc, kr) = _logprobs(network, pair), _references(pair)
    nc, nr = sum(pair.chosen.loss_mask), sum(pair.rejected.loss_mask)
    return papers.ipo(lc / nc, lr / nr, kc / nc, kr / nr, 0.3)


def _sft_units(pairs: list[Pair]) -> Units:
    total = sum(sum(pair.chosen.loss_mask) for pair in pairs)
    return [
        [segment(pair.chosen.token_ids, np.asarray(pair.chosen.loss_mask, np.float32) / total)]
        for pair in pairs
    ]


def _sft(network: Network, pairs: list[Pair]) -> Tensor:
    total = sum(sum(pair.chosen.loss_mask) for pair in pairs)
    return -torch.stack([_logprobs(network, pair)[0] for pair in pairs]).sum() / total


def _kto(network: Network, stored: Stored) -> Tensor:
    moves = []
    for item in stored.judged:
        assert item.stranger is not None
        now = papers.logprob(network, item.stranger.token_ids, item.stranger.loss_mask)
        moves.append(float(now.detach()) - _counted(item.stranger_reference, item.stranger))
    z = max(0.0, sum(moves) / len(moves))
    terms = [
        papers.kto(
            papers.logprob(network, item.answer.token_ids, item.answer.loss_mask),
            _counted(item.reference, item.answer), item.good, z, 0.2, 1.2 if item.good else 0.9,
        )
        for item in stored.judged
    ]  # fmt: skip
    return torch.stack(terms).mean()


def _bradley_terry(scorer: Any, pairs: list[Pair]) -> Tensor:
    terms = []
    for pair in pairs:
        rewards = [papers.judgements(scorer, judged_ids(side))[-1] for side in (pair.chosen, pair.rejected)]
        terms.append(papers.bradley_terry(*rewards, pair.margin, 0.02))
    return torch.stack(terms).mean()


def _value_units(stored: Stored) -> Units:
    total = sum(sum(side.loss_mask) for pair in stored.pairs for side in (pair.chosen, pair.rejected))
    units = []
    for number, pair in enumerate(stored.pairs):
        for side, answer in enumerate((pair.chosen, pair.rejected)):
            streams = {RETURN: stored.returns[number][side]}
            weights = np.asarray(answer.loss_mask, np.float32) / total
            units.append([segment(answer.token_ids, weights, streams)])
    return units


def _values(scorer: Any, stored: Stored) -> Tensor:
    terms = []
    for number, pair in enumerate(stored.pairs):
        for side, answer in enumerate((pair.chosen, pair.rejected)):
            now_T = papers.judgements(scorer, answer.token_ids)
            wanted = stored.returns[number][side]
            terms += [  # the value before token t is read at token t - 1
                papers.value(now_T[t - 1], wanted[t]) for t, own in enumerate(answer.loss_mask) if own
            ]
    return torch.stack(terms).mean()


def _steps(scorer: Any, stored: Stored) -> Tensor:
    terms = []
    for chain in stored.chains:
        logit_T = papers.judgements(scorer, chain.token_ids)
        for number, end in enumerate(chain.ends):
            if chain.first_wrong is None or number <= chain.first_wrong:
                terms.append(papers.step(logit_T[end], number != chain.first_wrong))
    return torch.stack(terms).mean()
