"""One small task for every algorithm: answers of three letters, so few that expectations are sums and not estimates.

A gold function gives every answer to every prompt a score. Algorithms that learn from preferences get pairs sampled
from the reference policy and ordered by a labeller who follows the gold scores with noise (Bradley and Terry);
those that judge single answers get thumbs up or down of the same labeller; those that sample by themselves get the
gold score. After the same number of updates each has a row: mean gold score under its policy, its distance from the
reference, its FLOP.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kweek.align.dpo import DPO
from kweek.align.ipo import IPO
from kweek.align.kto import KTO, Judged, JudgedBatches, prepared
from kweek.align.pairs import Pair, PairBatches, answered, pair, with_reference
from kweek.align.ranking import ranking
from kweek.align.reward import BradleyTerry, judged_ids, reward_segments
from kweek.align.sequences import micro_batches, network_logprobs
from kweek.align.simpo import SimPO
from kweek.data.batches import Batch, segment
from kweek.data.packing import keyed_generator
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scorer_from, scores
from kweek.train.objective import Likelihood, Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer, fit

LETTERS, PROMPTS, LENGTH = 6, 4, 3
NUM_PAIRS, BATCH, UPDATES = 2000, 64, 100
RATE = 2e-3  # the same for all
ANSWERS = list(itertools.product(range(LETTERS), repeat=LENGTH))
Update = Iterator[list[Batch]]


@dataclass(frozen=True)
class Task:
    """One draw of the task.

    Attributes:
        gold: score of every answer to every prompt, mean 0 and standard deviation 1 over the answers of a prompt.
        reference: log-probabilities of the policy that everything begins with, likewise.
        pairs, held_out: with its log-probabilities.
        judged: the chosen and rejected answers apart, by a labeller of single answers.
    """

    seed: int
    start: dict[str, torch.Tensor]
    gold: np.ndarray
    reference: np.ndarray
    pairs: list[Pair]
    held_out: list[Pair]
    judged: list[Judged]


Row = Callable[[Task, int], dict[str, float]]  # figures of an algorithm after some updates


def fresh(seed: int) -> Network:
    """The network before anything has been learnt: a policy that is far from uniform."""
    network = Network(ModelConfig(LETTERS + PROMPTS, 32, 64, 2, 2, 1, 16, max_positions=8))
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def prompt(number: int) -> list[int]:
    """The token that asks."""
    return [LETTERS + number]


def policy(network: Network) -> np.ndarray:
    """log-probability of every answer to every prompt, given that it is one, (PROMPTS, answers)."""
    rows = [[*prompt(p), *answer] for p in range(PROMPTS) for answer in ANSWERS]
    logs = np.asarray(network_logprobs(network, rows)).sum(1).reshape(PROMPTS, -1)
    return np.asarray(logs - np.logaddexp.reduce(logs, 1, keepdims=True))


def draw(seed: int) -> Task:
    """Gold scores, data and start of one seed."""
    generator = keyed_generator("common task", seed)
    network = fresh(seed)
    weights = generator.normal(0, 1, (PROMPTS, LENGTH, LETTERS))
    tastes = generator.normal(
        0, 1, (PROMPTS, LETTERS, LETTERS)
    )  # of neighbours, so that letters do not decide alone
    gold = np.array(
        [
            [
                sum(weights[p, i, a] for i, a in enumerate(answer)) + tastes[p, answer[0], answer[1]]
                for answer in ANSWERS
            ]
            for p in range(PROMPTS)
        ]
    )
    gold = (gold - gold.mean(1, keepdims=True)) / gold.std(1, keepdims=True)
    reference = policy(network)
    pairs, judged = [], []
    while len(pairs) < NUM_PAIRS + 500:
        p = int(generator.integers(PROMPTS))
        shares = (
            np.exp(reference[p]) / np.exp(reference[p]).sum()
        )  # a network may also end in a prompt's token
        one, other = generator.choice(len(ANSWERS), 2, p=shares)
        if one == other:
            continue
        if generator.random() > 1 / (1 + np.exp(gold[p, other] - gold[p, one])):
            one, other = other, one
        pairs.append(pair(prompt(p), ANSWERS[one], ANSWERS[other]))
        for place in (one, other):
            good = bool(generator.random() < 1 / (1 + np.exp(-gold[p, place])))
            judged.append(Judged(answered(prompt(p), ANSWERS[place]), good))
    score = lambda rows: network_logprobs(network, rows)  # noqa: E731
    pairs = with_reference(pairs, score)
    judged = prepared(judged[: 2 * NUM_PAIRS], score, seed)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    return Task(seed, start, gold, reference, pairs[:NUM_PAIRS], pairs[NUM_PAIRS:], judged)


def begin(task: Task) -> Network:
    """A network with the weights of the reference."""
    network = fresh(task.seed)
    network.load_state_dict(task.start)
    return network


def measured(task: Task, network: Network, flop: float) -> dict[str, float]:
    """A row of the table; expectations are exact sums over all answers."""
    logs = policy(network)
    shares = np.exp(logs)
    held = task.held_out
    rows = network_logprobs(network, [s.token_ids for one in held for s in (one.chosen, one.rejected)])
    sums = np.asarray(rows).sum(1).reshape(-1, 2)
    before = np.array([[sum(one.chosen_reference), sum(one.rejected_reference)] for one in held])
    gained = sums - before
    return {
        "gold": float((shares * task.gold).sum(1).mean()),
        "KL to the reference": float((shares * (logs - task.reference)).sum(1).mean()),
        "held-out pairs ranked": float((np.sign(gained[:, 0] - gained[:, 1]) + 1).mean() / 2),
        "gain of chosen answers": float(gained[:, 0].mean()),
        "flop": flop,
    }


def learn(network: Any, objective: Objective, batches: Callable[[int], Update], updates: int) -> float:
    """Train; the FLOP of it."""
    rates = LearningRates(RATE, RATE, RATE, RATE)
    trainer = Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0), objective=objective)
    return fit(trainer, batches, updates, WarmupStableDecay(updates, decay=1.0)).flop


def _by_pairs(objective: Objective) -> Row:
    def row(task: Task, updates: int) -> dict[str, float]:
        network = begin(task)
        batches = PairBatches(
            task.pairs, batch_size=BATCH, epochs=1 + updates * BATCH // NUM_PAIRS, seed=task.seed
        )
        return measured(task, network, learn(network, objective, batches, updates))

    return row


def _reference(task: Task, updates: int) -> dict[str, float]:
    return measured(task, begin(task), 0.0)


def _sft(task: Task, updates: int) -> dict[str, float]:
    """Likelihood of the chosen answers."""
    network = begin(task)
    weights = np.array([0.0] + [1.0] * LENGTH) / (BATCH * LENGTH)

    def batches(first_step: int) -> Update:
        chosen = PairBatches(task.pairs, batch_size=BATCH, epochs=updates, seed=task.seed)
        for step in range(first_step, updates):
            parts = [segment(one.chosen.token_ids, weights) for one in chosen.chosen(step)]
            yield micro_batches([[part] for part in parts], 64)

    return measured(task, network, learn(network, Likelihood(), batches, updates))


def _kto(task: Task, updates: int) -> dict[str, float]:
    network = begin(task)
    score = lambda rows: network_logprobs(network, rows)  # noqa: E731
    epochs = 1 + updates * 2 * BATCH // len(task.judged)
    batches = JudgedBatches(task.judged, score, batch_size=2 * BATCH, epochs=epochs, seed=task.seed)
    flop = learn(network, KTO(0.3), batches, updates)
    strangers = updates * 2 * BATCH * (LENGTH + 1) * network.config.num_flops_per_token(LENGTH)
    return measured(task, network, flop + strangers)


def reward_model(task: Task, updates: int) -> tuple[Scorer, float]:
    """A reward model of the pairs, and its FLOP."""
    scorer = scorer_from(begin(task))
    batches = PairBatches(
        task.pairs,
        batch_size=BATCH,
        epochs=1 + updates * BATCH // NUM_PAIRS,
        seed=task.seed,
        segments=reward_segments,
    )
    return scorer, learn(scorer, BradleyTerry(), batches, updates)


def _best_of_four(task: Task, updates: int) -> dict[str, float]:
    """The best of four answers of the reference under a reward model; there is no policy of its own."""
    scorer, flop = reward_model(task, updates)
    rows = [[*prompt(p), *answer] for p in range(PROMPTS) for answer in ANSWERS]
    rewards = torch.stack(scores(scorer, rows))[:, 0].double().numpy().reshape(PROMPTS, -1)
    shares = _best_of(
        np.exp(task.reference - np.logaddexp.reduce(task.reference, 1, keepdims=True)), rewards, 4
    )
    chosen, rejected = (
        [float(x) for x in scores(scorer, [judged_ids(getattr(one, side)) for one in task.held_out])]
        for side in ("chosen", "rejected")
    )
    lengths = [LENGTH] * len(chosen)
    return {
        "gold": float((shares * task.gold).sum(1).mean()),
        "KL to the reference": float(
            np.where(shares > 0, shares * (np.log(shares.clip(1e-300)) - task.reference), 0).sum(1).mean()
        ),
        "held-out pairs ranked": ranking(chosen, rejected, lengths, lengths).accuracy.mid,
        "flop": flop,
    }


def _best_of(shares: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """The distribution of the answer with the highest reward among n draws, exactly."""
    result = np.zeros_like(shares)
    for p in range(len(shares)):
        order = rewards[p].argsort()
        below = np.concatenate([[0.0], shares[p][order].cumsum()])
        result[p][order] = np.diff(below**n)
    return result


ROWS: dict[str, Row] = {
    "reference": _reference,
    "SFT on chosen answers": _sft,
    "DPO": _by_pairs(DPO(0.3)),
    "DPO, anchored": _by_pairs(DPO(0.3, anchor=1.0)),
    "IPO": _by_pairs(IPO(0.3)),
    "SimPO": _by_pairs(SimPO()),
    "KTO": _kto,
    "reward model, best of 4": _best_of_four,
}


def table(rows: Mapping[str, Row], seed: int, updates: int = UPDATES) -> dict[str, dict[str, float]]:
    """Every row under one seed."""
    task = draw(seed)
    return {name: row(task, updates) for name, row in rows.items()}


def means(tables: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Every row's means over the seeds."""
    return {
        name: {key: round(float(np.mean([table[name][key] for table in tables])), 4) for key in row}
        for name, row in tables[0].items()
    }
