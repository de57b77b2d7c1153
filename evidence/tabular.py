"""Problems small enough to know the answer: answers of one token, so that a policy is a table of prompts by tokens.

Every problem is trained through the package's own objective, batches and loop on a network that can represent any such
table, with the whole population of the data in every update, and ends with the largest distance from an optimum that
is known in closed form or found by an independent solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from kweek.align.dpo import DPO
from kweek.align.ipo import IPO
from kweek.align.kto import KTO, Judged, judged_segments, moved
from kweek.align.pairs import Pair, answered, pair_segments, with_reference
from kweek.align.process import Chain, StepCorrectness, chain_segments
from kweek.align.reward import BradleyTerry, judged_ids, reward_segments
from kweek.align.sequences import micro_batches, network_logprobs
from kweek.align.simpo import SimPO
from kweek.align.value import RETURN, ValueRegression
from kweek.data.batches import Batch, segment
from kweek.model.config import ModelConfig
from kweek.model.divergence import Measure
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scorer_from, scores
from kweek.train.distillation import TEACHER, Distillation, SampledDistillation
from kweek.train.objective import Likelihood, Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer, fit

PROMPTS, ACTIONS = 3, 4
STEPS, RATE = 700, 5e-3
TOLERANCE = 1e-3  # of probabilities, of nats, of rewards
Table = np.ndarray


@dataclass(frozen=True)
class Solved:
    """One problem.

    Attributes:
        optimum: what is known to be the best, in words.
        distance: the largest of the table from it.
        tolerance: wider where the data are sampled.
    """

    algorithm: str
    optimum: str
    distance: float
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        return self.distance <= self.tolerance


def table_network(seed: int) -> Network:
    """A network of 32 dimensions over the actions and prompts, with a policy that is not uniform."""
    network = Network(ModelConfig(PROMPTS + ACTIONS, 32, 32, 1, 1, 1, 32, max_positions=8))
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    with torch.no_grad():
        network.lm_head.weight.normal_(0.0, 0.1, generator=generator)
    return network


def policy(network: Network, num_actions: int = ACTIONS) -> Table:
    """log pi of every action after every prompt, normalised over the actions."""
    with torch.no_grad():
        logits = network.logits(network(torch.arange(ACTIONS, ACTIONS + PROMPTS)[:, None]))[
            :, 0, :num_actions
        ]
    return logits.double().log_softmax(-1).numpy()


def train(
    network: Network,
    objective: Objective,
    batches: Callable[[int], Iterator[list[Batch]]],
    steps: int = STEPS,
) -> None:
    """Without weight decay, and with a learning rate that falls to zero."""
    rates = LearningRates(RATE, RATE, RATE, RATE)
    trainer = Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0), objective=objective)
    fit(trainer, batches, steps, WarmupStableDecay(steps, decay=0.7))


def always(batches: list[Batch]) -> Callable[[int], Iterator[list[Batch]]]:
    """The same update again and again."""

    def forever(first_step: int) -> Iterator[list[Batch]]:
        while True:
            yield batches

    return forever


def sft(seed: int) -> Solved:
    """Likelihood: the shares of the data."""
    counts = np.random.default_rng(seed).integers(1, 20, (PROMPTS, ACTIONS))
    parts = [
        segment([ACTIONS + p, a], [0.0, counts[p, a] / counts.sum()])
        for p in range(PROMPTS)
        for a in range(ACTIONS)
    ]
    network = table_network(seed)
    train(network, Likelihood(), always(micro_batches([[part] for part in parts], 4)))
    wanted = np.log(counts / counts.sum(1, keepdims=True))
    return Solved("SFT", "the distribution of the data", _distance(policy(network), wanted))


def preferences(network: Network, strength: Table, num_actions: int = ACTIONS) -> list[Pair]:
    """Every ordered pair of actions, weighed by how often the first is preferred, with the network as reference."""
    pairs = [
        Pair(
            answered([ACTIONS + p], [a]), answered([ACTIONS + p], [b]),
            weight=float(1 / (1 + math.exp(strength[p, b] - strength[p, a]))),
        )
        for p in range(PROMPTS)
        for a in range(num_actions)
        for b in range(num_actions)
        if a != b
    ]  # fmt: skip
    return with_reference(pairs, lambda rows: network_logprobs(network, rows))


def dpo(seed: int) -> Solved:
    """pi proportional to pi_ref exp(r / beta)."""
    reward, beta = np.random.default_rng(seed).normal(0, 1, (PROMPTS, ACTIONS)), 0.5
    network = table_network(seed)
    before = policy(network)
    pairs = preferences(network, reward)
    train(network, DPO(beta), always(micro_batches(pair_segments(pairs), 4)))
    wanted = before + reward / beta
    wanted -= np.logaddexp.reduce(wanted, -1, keepdims=True)
    return Solved("DPO", "pi_ref exp(r / beta) / Z", _distance(policy(network), wanted))


def dpo_smoothed(seed: int) -> Solved:
    """A pair that all agree on: the margin of rewards is log((1 - e) / e)."""
    beta, smoothing = 0.5, 0.1
    return _margin(
        "DPO, smoothed", f"a margin of log({1 - smoothing} / {smoothing}) / beta", DPO(beta, smoothing),
        np.full(PROMPTS, math.inf), [math.log((1 - smoothing) / smoothing) / beta] * PROMPTS, seed,
    )  # fmt: skip


def ipo(seed: int) -> Solved:
    """Two actions: a finite margin (2p - 1) / (2 tau), also where all agree."""
    tau, strength = 0.5, np.array([math.inf, 1.0, -0.5])
    wanted = [(2 / (1 + math.exp(-s)) - 1) / (2 * tau) for s in strength]
    return _margin("IPO", "a margin of (2p - 1) / (2 tau)", IPO(tau), strength, wanted, seed)


def simpo(seed: int) -> Solved:
    """Two actions, one preferred by a share p: the margin of least expected loss, by a solver in one dimension."""
    beta, gamma, strength = 2.0, 0.5, np.array([2.0, 1.0, -0.5])

    def expected(margin: float, share: float) -> float:
        losses = [math.log1p(math.exp(-(sign * beta * margin - gamma))) for sign in (1, -1)]
        return share * losses[0] + (1 - share) * losses[1]

    wanted = [
        optimize.minimize_scalar(expected, args=(1 / (1 + math.exp(-s)),), bracket=(-1, 1), tol=1e-10).x
        for s in strength
    ]
    return _margin(
        "SimPO", "the margin of least expected loss", SimPO(beta, gamma), strength, wanted, seed, False
    )


def _margin(
    name: str, optimum: str, objective: Objective, strength: Table, wanted: Sequence[float], seed: int,
    from_reference: bool = True,
) -> Solved:  # fmt: skip
    """Two actions a prompt: the log-ratio of the first to the second, against a known one."""
    network = table_network(seed)
    before = policy(network, 2) if from_reference else np.zeros((PROMPTS, 2))
    pairs = preferences(network, np.stack([strength, np.zeros(PROMPTS)], 1), 2)
    train(network, objective, always(micro_batches(pair_segments([p for p in pairs if p.weight > 0]), 4)))
    gained = policy(network, 2) - before
    return Solved(name, optimum, float(np.abs(gained[:, 0] - gained[:, 1] - np.asarray(wanted)).max()))


def kto(seed: int) -> Solved:
    """Answers of which more than half are judged good: where the gradient is zero with z as it then is, by a solver."""
    beta, generator = 0.5, np.random.default_rng(seed)
    good, bad = generator.integers(5, 9, (PROMPTS, 3)), generator.integers(1, 4, (PROMPTS, 3))
    network = table_network(seed)
    start = policy_all(network)[:, :3]
    items = [
        Judged(answered([ACTIONS + p], [a]), judged)
        for p in range(PROMPTS)
        for a in range(3)
        for judged, count in ((True, good[p, a]), (False, bad[p, a]))
        for _ in range(count)
    ]
    # A stranger here is the answer of another item to one's own prompt: shifted by one within the prompt.
    order = [
        i
        for p in range(PROMPTS)
        for i in _cycle([k for k, x in enumerate(items) if x.answer.token_ids[0] == ACTIONS + p])
    ]
    ids = [list(item.answer.token_ids) for item in items]
    references = network_logprobs(network, ids)
    items = [
        replace(item, reference=own, stranger=items[other].answer, stranger_reference=references[other])
        for item, own, other in zip(items, references, order, strict=True)
    ]  # fmt: skip
    score = lambda rows: network_logprobs(network, rows)  # noqa: E731

    def batches(first_step: int) -> Iterator[list[Batch]]:
        while True:
            yield micro_batches([[part] for part in judged_segments(items, moved(items, score))], 64)

    train(network, KTO(beta), batches)
    pull, count = good - bad, good + bad

    def slope(flat: Table) -> Table:
        logs = flat.reshape(PROMPTS, 3) - np.logaddexp.reduce(flat.reshape(PROMPTS, 3), -1, keepdims=True)
        z = max(0.0, float((count * (logs - start)).sum() / count.sum()))
        saturated = 1 / (1 + np.exp(-beta * (logs - start - z)))
        force = pull * saturated * (1 - saturated)
        away = force - np.exp(logs) * force.sum(-1, keepdims=True)
        return np.concatenate(
            [away[:, :2], flat.reshape(PROMPTS, 3)[:, 2:]], 1
        ).ravel()  # the last logit is 0

    found = optimize.root(slope, np.zeros(PROMPTS * 3), tol=1e-12)
    assert found.success, found.message
    wanted = found.x.reshape(PROMPTS, 3)
    wanted = wanted - np.logaddexp.reduce(wanted, -1, keepdims=True)
    return Solved("KTO", "the stationary point with its own z", _distance(policy(network, 3), wanted))


def policy_all(network: Network) -> Table:
    """log pi of every token after every prompt."""
    with torch.no_grad():
        logits = network.logits(network(torch.arange(ACTIONS, ACTIONS + PROMPTS)[:, None]))[:, 0]
    return logits.double().log_softmax(-1).numpy()


def _cycle(numbers: list[int]) -> list[int]:
    return [*numbers[1:], numbers[0]]


def reward_model(seed: int) -> Solved:
    """The true scores up to a constant per prompt."""
    truth = np.random.default_rng(seed).normal(0, 1, (PROMPTS, ACTIONS))
    network = table_network(seed)
    pairs = preferences(network, truth)
    scorer = scorer_from(network)
    train(scorer, BradleyTerry(0.0), always(micro_batches(reward_segments(pairs), 8)))
    rows = [judged_ids(answered([ACTIONS + p], [a])) for p in range(PROMPTS) for a in range(ACTIONS)]
    found = torch.stack(scores(scorer, rows)).double().numpy().reshape(PROMPTS, ACTIONS)
    apart = (found - found.mean(1, keepdims=True)) - (truth - truth.mean(1, keepdims=True))
    return Solved("reward model", "the true scores up to a constant", float(np.abs(apart).max()))


def critic(seed: int) -> Solved:
    """The mean of the returns after every prompt."""
    returns = np.random.default_rng(seed).normal(0, 1, (PROMPTS, 5))
    parts = [
        segment([ACTIONS + p, 0], [0.0, 1 / returns.size], {RETURN: [0.0, float(x)]})
        for p in range(PROMPTS)
        for x in returns[p]
    ]
    scorer = scorer_from(table_network(seed), per_token=True)
    train(scorer, ValueRegression(), always(micro_batches([[part] for part in parts], 16)))
    apart = _judged(scorer)[:, 0] - torch.from_numpy(returns.mean(1))
    return Solved("critic", "the mean of the returns", float(apart.abs().max()))


def process(seed: int) -> Solved:
    """The share of right steps after every prompt."""
    right = np.random.default_rng(seed).integers(2, 9, PROMPTS)
    chains = [
        Chain([ACTIONS + p], [0], None if number < right[p] else 0)
        for p in range(PROMPTS)
        for number in range(10)
    ]
    scorer = scorer_from(table_network(seed), per_token=True)
    train(scorer, StepCorrectness(), always(micro_batches([[part] for part in chain_segments(chains)], 32)))
    apart = _judged(scorer)[:, 0].sigmoid() - torch.from_numpy(right / 10)
    return Solved("process reward model", "the share of right steps", float(apart.abs().max()))


def distillation(measure: Measure, seed: int) -> Solved:
    """Any divergence: what the teacher says."""
    network, teacher = table_network(seed), table_network(seed + 100)
    parts = [segment([ACTIONS + p, 0], [0.0, 1 / PROMPTS]) for p in range(PROMPTS)]
    train(network, Distillation(teacher, measure), always(micro_batches([[part] for part in parts], 4)))
    name = {0.0: "forward KL", 1.0: "reverse KL"}.get(measure.beta, "Jensen-Shannon")
    return Solved(f"distillation, {name}", "the teacher", _distance(policy_all(network), policy_all(teacher)))


def distillation_sampled(seed: int) -> Solved:
    """The same from what the teacher says of the pupil's tokens, every token as often as the pupil says it."""
    network, wanted = table_network(seed), policy_all(table_network(seed + 100))

    def batches(first_step: int) -> Iterator[list[Batch]]:
        while True:
            shares = np.exp(policy_all(network)) / PROMPTS
            parts = [
                segment([ACTIONS + p, a], [0.0, shares[p, a]], {TEACHER: [0.0, wanted[p, a]]}, {TEACHER: 1.0})
                for p in range(PROMPTS)
                for a in range(PROMPTS + ACTIONS)
            ]
            yield micro_batches([[part] for part in parts], 32)

    train(network, SampledDistillation(), batches)
    return Solved("distillation, sampled", "the teacher", _distance(policy_all(network), wanted))


def _judged(scorer: Scorer) -> Tensor:
    return torch.stack([row[-1] for row in scores(scorer, [[ACTIONS + p] for p in range(PROMPTS)])]).double()


def _distance(logs: Table, wanted: Table) -> float:
    return float(np.abs(np.exp(logs) - np.exp(wanted)).max())


PROBLEMS: tuple[Callable[[int], Solved], ...] = (
    sft, dpo, dpo_smoothed, ipo, simpo, kto, reward_model, critic, process,
    *(partial(distillation, Measure(beta)) for beta in (0.0, 0.3, 1.0)), distillation_sampled,
)  # fmt: skip
