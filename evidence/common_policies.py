"""Rows of the common task for what samples by itself: policy gradients, expert iteration, distillation on policy.

They are told the gold score of what they say; one is told what a reward model says that has learnt from the pairs of
the other rows (RLHF), and two have the network that RLOO left for a teacher, whose own training is not in their FLOP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import common_task
import numpy as np
from common_task import ANSWERS, BATCH, LENGTH, LETTERS, PROMPTS, RATE, Row, Task, begin, measured, prompt

from kweek.align import algorithms
from kweek.align.critic import Critic
from kweek.align.environment import Item
from kweek.align.expert import demonstrations, select
from kweek.align.learner import Learner
from kweek.align.on_policy import REVERSE, sampled_segments
from kweek.align.pairs import PairBatches
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.rollout import Group, Rollout
from kweek.align.sequences import micro_batches
from kweek.align.sft import ChatBatches
from kweek.data.batches import Batch, collate, pack, segment
from kweek.data.packing import keyed_generator
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scorer_from, scores
from kweek.protocols import Request, Score
from kweek.train.distillation import Distillation
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

SAMPLES = BATCH // PROMPTS
ASKED = Item(({"role": "user", "content": "?"},))  # only its tokens matter here
NO_ANSWER = -3.0  # what is said that is no letter
Judge = Callable[[Sequence[Sequence[int]]], list[float]]  # rewards of whole sequences


def gold_judge(task: Task) -> Judge:
    """The gold score."""
    place = {answer: i for i, answer in enumerate(ANSWERS)}

    def judge(rows: Sequence[Sequence[int]]) -> list[float]:
        return [
            float(task.gold[row[0] - LETTERS, place[tuple(row[1:])]])
            if tuple(row[1:]) in place
            else NO_ANSWER
            for row in rows
        ]

    return judge


def model_judge(scorer: Scorer) -> Judge:
    """What a reward model says."""
    return lambda rows: [float(x) for x in scores(scorer, rows)]


@dataclass
class Sampler:
    """Groups of answers of the present policy."""

    task: Task
    network: Network
    judge: Judge

    def __post_init__(self) -> None:
        self._engine = Engine(self.network)

    def groups(self, step: int) -> tuple[list[Group], float]:
        """A group for every prompt, and its FLOP."""
        requests = [
            Request(prompt(p), LENGTH, 1.0, int(keyed_generator(self.task.seed, step, p, n).integers(2**62)))
            for p in range(PROMPTS)
            for n in range(SAMPLES)
        ]
        said = self._engine.generate(requests)
        rows = [[*r.prompt_ids, *c.token_ids] for r, c in zip(requests, said, strict=True)]
        rollouts = [
            Rollout(
                ASKED, row, 1, [False, *done.sampled], [0.0, *done.logprobs], (), Score(value, True), "stop",
                done.flop,
            )
            for row, done, value in zip(rows, said, self.judge(rows), strict=True)
        ]  # fmt: skip
        cut = [rollouts[start : start + SAMPLES] for start in range(0, len(rollouts), SAMPLES)]
        return cut, sum(rollout.flop for rollout in rollouts)


def trainer_of(network: Network) -> Trainer:
    """At the rate of all rows."""
    rates = LearningRates(RATE, RATE, RATE, RATE)
    return Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0))


def reinforced(task: Task, policy: Policy, updates: int, judge: Judge) -> tuple[Network, float]:
    """A network after some updates on its own samples, and the FLOP of all."""
    network = begin(task)
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(trainer_of(scorer_from(network, per_token=True)))
    reference = Reference(begin(task)) if policy.needs_reference else None
    minibatches = 1 if policy.ratio == "none" else 2  # so that a ratio has something to correct
    learner = Learner(
        trainer_of(network), policy, limit=LENGTH, critic=critic, reference=reference, minibatches=minibatches
    )
    sampler, flop, batches = Sampler(task, network, judge), 0.0, updates // minibatches
    for step in range(batches):
        groups, spent = sampler.groups(step)
        flop += spent + learner.learn(groups, step=step, factor=1 - step / batches).flop
    return network, flop


def by_gold(make: Callable[[], Policy]) -> Row:
    """A row of an algorithm."""

    def row(task: Task, updates: int) -> dict[str, float]:
        return measured(task, *reinforced(task, make(), updates, gold_judge(task)))

    return row


def expert(task: Task, updates: int) -> dict[str, float]:
    """Expert iteration: the best eighth of the answers to each prompt are learnt, in rounds of ten updates."""
    network, flop = begin(task), 0.0
    sampler, trainer = Sampler(task, network, gold_judge(task)), trainer_of(network)
    for number in range(updates // 10):
        groups, spent = sampler.groups(number)
        flop += spent
        parts = []
        for group in groups:
            limit = float(np.sort([r.score.value for r in group])[-SAMPLES // 8])
            parts += demonstrations(select([group], most=SAMPLES, right=limit))
        for batch in ChatBatches(parts, batch_size=len(parts), epochs=10, seed=number)():
            flop += trainer.step([batch], 1 - number / (updates // 10)).flop
    return measured(task, network, flop)


def rlhf(task: Task, updates: int) -> dict[str, float]:
    """A reward model from the pairs, then RLOO on what it says, kept near the reference."""
    scorer, flop = common_task.reward_model(task, updates)
    network, spent = reinforced(task, algorithms.rloo(kl_weight=0.3), updates, model_judge(scorer))
    return measured(task, network, flop + spent)


def distilled(task: Task, updates: int) -> dict[str, float]:
    """On the answers of the reference, which stand in the pairs."""
    network, teacher = begin(task), reinforced(task, algorithms.rloo(), updates, gold_judge(task))[0]
    pairs = PairBatches(task.pairs, batch_size=BATCH // 2, epochs=updates, seed=task.seed)
    weights = np.array([0.0] + [1.0] * LENGTH, np.float32) / (BATCH * LENGTH)

    def batches(first_step: int) -> Iterator[list[Batch]]:
        for step in range(first_step, updates):
            sides = (side for one in pairs.chosen(step) for side in (one.chosen, one.rejected))
            yield micro_batches([[segment(side.token_ids, weights)] for side in sides], 64)

    return measured(task, network, common_task.learn(network, Distillation(teacher), batches, updates))


def distilled_on_policy(task: Task, updates: int) -> dict[str, float]:
    """On the pupil's own answers, by reverse KL."""
    network, teacher = begin(task), reinforced(task, algorithms.rloo(), updates, gold_judge(task))[0]
    sampler, trainer, flop = Sampler(task, network, gold_judge(task)), trainer_of(network), 0.0
    trainer.objective = Distillation(teacher, REVERSE)
    for step in range(updates):
        groups, spent = sampler.groups(step)
        parts = sampled_segments([rollout for group in groups for rollout in group])
        flop += spent + trainer.step([collate(pack(parts, 64))], 1 - step / updates).flop
    return measured(task, network, flop)


def rows() -> dict[str, Row]:
    """All of them."""
    found = {name: by_gold(make) for name, make in algorithms.ALGORITHMS.items() if name != "dapo"}
    found["dapo"] = by_gold(
        lambda: algorithms.dapo(overlong="keep", overlong_tokens=0)
    )  # all are equally long
    return found | {
        "expert iteration": expert,
        "reward model, then RLOO": rlhf,
        "distillation of RLOO": distilled,
        "distillation of RLOO, on policy": distilled_on_policy,
    }
