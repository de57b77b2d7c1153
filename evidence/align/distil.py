"""Distillation on stories with a calculator: a student of a third of its teacher's cost, and what it is worth.

The teacher is the model of the default recipe after reinforcement. The student has half its width and has read stories.
For every seed it is shown the recipe's 2,048 demonstrations in mixed styles, and then learns with one and the same
number of FLOP in one of three ways:

- on-policy: it answers, and the teacher says token by token what it would have said (reverse KL); the FLOP of its own
  answers and of the teacher's reading are counted;
- samples: it is trained on answers that the teacher sampled; the FLOP of sampling are counted;
- alone: without a teacher, by reinforcement with the verifier, as the teacher was.

So all three have the same total, the student's own reading included, and the teacher is there already. If its training
counts too, alone may spend many times as much: it goes on, for a stated share of that, and the table says what
the distilled student then gains or lacks. A teacher who must be trained for one student alone is not expected to pay
(Busbridge et al. 2025, "Distillation Scaling Laws", arXiv 2502.08606).

Teacher and reading are one, seeds are those of everything after. Rates and the number of answers per update were chosen
on seed 9. `KWEEK_RUNS` may name a finished run folder.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import evidence
from seeds import by_seed, finished_runs
from small_models import (
    Purse,
    attempts,
    demonstrations,
    first_chats,
    problems,
    right,
    student,
    taught,
    taught_for,
)

from kweek.align.algorithms import reinforce
from kweek.align.learner import Learner
from kweek.align.on_policy import REVERSE, OnPolicy
from kweek.align.rollout import Rollout
from kweek.align.teacher_answers import learn_tokens
from kweek.align.word_problems import WordProblems
from kweek.data.batches import Batch
from kweek.model.network import Network
from kweek.stats.intervals import bootstrap
from kweek.stats.paired import paired_difference
from kweek.store.artifact import Artifact
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.distillation import Distillation, load_teacher
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer, fit

SEEDS = (0, 1, 2)
TOKENS, SHOWN, SHOWN_STEPS, SHOWN_RATE = 2.5e6, 2048, 256, 1e-3
BUDGET = 1.5e12  # FLOP of each way to learn; the student's reading before took four times as many
LONGER = 2  # times the budget, for which alone goes on
ROLLOUTS, ON_POLICY_RATE = 32, 1e-3
SAMPLED_SHARE = 0.3  # of the budget, for the teacher's answers: two epochs over them are left
SAMPLES_RATE = 1e-3
PROMPTS, ATTEMPTS, WARMUP, ALONE_RATE = 24, 8, 5, 2.5e-4  # as in the recipe
TEST = 600
KEPT, COST = 0.95, 1 / 3
SIZES = {"TOKENS": TOKENS, "BUDGET": BUDGET, "TEST": TEST}
QUICK = {"TOKENS": 8e5, "BUDGET": 3e11, "TEST": 200}


def learner(network: Network, rate: float, objective: Any = None) -> Trainer:
    """One rate for all parameters, as in the recipe's reinforcement."""
    optimiser = SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0)
    return Trainer(network, optimiser, objective=objective)


def on_policy(pupil: Network, teacher: Network, tokenizer: Tokenizer, purse: Purse, seed: int) -> None:
    """The student answers, the teacher reads."""
    trainer = learner(pupil, ON_POLICY_RATE, Distillation(teacher, REVERSE))

    def sample(step: int) -> list[Rollout]:
        key = f"distil/{seed}/{step}"
        groups = attempts(pupil, tokenizer, problems(key, ROLLOUTS, "train"), key)
        return [group[0] for group in groups]

    lessons = OnPolicy(sample, 10**6)

    def batches(first_step: int) -> Iterator[list[Batch]]:
        before = 0.0
        for batch in lessons(first_step):
            purse.spent, before = purse.spent + lessons.flop - before, lessons.flop
            yield batch
            if purse.empty:
                return

    fit(trainer, batches, 10**6, purse.factor, on_step=purse.pay)


def from_samples(pupil: Network, teacher: Network, tokenizer: Tokenizer, purse: Purse, seed: int) -> None:
    """The teacher answers, the student reads."""
    rollouts: list[Rollout] = []
    while purse.spent < SAMPLED_SHARE * purse.budget:
        key = f"distil/{seed}/{len(rollouts)}"
        groups = attempts(teacher, tokenizer, problems(key, 256, "train"), key)
        purse.spent += sum(group[0].flop for group in groups)
        rollouts += [group[0] for group in groups]
    lesson = learn_tokens(rollouts)
    taught_for(pupil, lesson.segments, purse, SAMPLES_RATE, seed)


def alone(pupil: Network, tokenizer: Tokenizer, purses: Mapping[str, Purse], seed: int) -> Iterator[str]:
    """Reinforcement with the verifier, as in the recipe, through one purse after the other; yields the name of each."""
    trainer = Learner(learner(pupil, ALONE_RATE), reinforce(), limit=WordProblems().max_new_tokens)
    step, spent = 0, 0.0
    for name, purse in purses.items():
        purse.spent = spent
        while not purse.empty:
            key = f"alone/{seed}/{step}"
            groups = attempts(pupil, tokenizer, problems(key, PROMPTS, "train"), key, samples=ATTEMPTS)
            purse.spent += sum(one.flop for group in groups for one in group)
            purse.spent += trainer.learn(groups, step=step, factor=min(1.0, (step + 1) / WARMUP)).flop
            step += 1
        spent = purse.spent
        yield name


def begun(tokenizer: Tokenizer, num_tokens: float, seed: int) -> tuple[Network, float]:
    """The student that has read stories and seen the demonstrations, and the FLOP of that."""
    network, flop = student(tokenizer, num_tokens)
    first_chats(network, tokenizer, seed)
    shown = demonstrations(tokenizer, SHOWN, ("direct", "reasoned", "tool"), seed)
    return network, flop + taught(network, shown, SHOWN_STEPS, SHOWN_RATE, seed)


def of_seed(seed: int, folder: Path, sizes: Mapping[str, float]) -> dict[str, Any]:
    """Everything measured for one seed."""
    torch.set_num_threads(1)
    stages = {name: Artifact.open(folder / "artifacts" / name) for name in ("base", "sft", "rl")}
    tokenizer = Tokenizer.load(stages["base"].path)
    teacher = load_teacher(stages["rl"].path, tokenizer)
    test = problems(f"distil-test/{seed}", int(sizes["TEST"]), "test")
    scores: dict[str, list[float]] = {}
    costs: dict[str, float] = {}

    def measured(name: str, network: Network) -> None:
        found, costs[name] = right(network, tokenizer, test)
        scores[name] = found.tolist()

    measured("teacher", teacher)
    start, reading = begun(tokenizer, sizes["TOKENS"], seed)
    measured("start", start)
    flop = {"teacher": math.fsum(stage.ledger["flop_total"] for stage in stages.values()), "start": reading}
    ways: dict[str, Callable[[Network, Purse], None]] = {
        "on-policy": lambda network, purse: on_policy(network, teacher, tokenizer, purse, seed),
        "samples": lambda network, purse: from_samples(network, teacher, tokenizer, purse, seed),
    }
    for name, way in ways.items():
        pupil, purse = copy.deepcopy(start), Purse(sizes["BUDGET"])
        way(pupil, purse)
        flop[name] = purse.spent
        measured(name, pupil)
    purses = {"alone": Purse(sizes["BUDGET"]), "alone, longer": Purse(LONGER * sizes["BUDGET"])}
    for name in alone(start, tokenizer, purses, seed):
        flop[name] = purses[name].spent
        measured(name, start)
    return {"seed": seed, "scores": scores, "flop per answer": costs, "flop": flop}


def kept(scores: dict[str, np.ndarray], name: str) -> list[float]:
    """A student's score over its teacher's, with a paired bootstrap interval over items."""
    pairs = np.stack([scores[name].ravel(), scores["teacher"].ravel()], 1)
    return list(bootstrap(pairs, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum())))


def run(quick: bool) -> dict[str, Any]:
    """Three seeds; one, short, when quick."""
    seeds, sizes = (SEEDS[:1], SIZES | QUICK) if quick else (SEEDS, SIZES)
    folder = finished_runs([0])[0]
    student(
        Tokenizer.load(folder / "artifacts" / "base"), sizes["TOKENS"]
    )  # once, before the seeds go side by side
    found = by_seed(__file__, of_seed, [folder] * len(seeds), seeds, sizes)
    scores = {name: np.stack([one["scores"][name] for one in found]) for name in found[0]["scores"]}
    flop = {name: float(np.mean([one["flop"][name] for one in found])) for name in found[0]["flop"]}
    costs = {name: float(np.mean([one["flop per answer"][name] for one in found])) for name in scores}

    def against(other: str) -> dict[str, Any]:
        return paired_difference(scores["on-policy"].ravel(), scores[other].ravel())._asdict()

    equal, share = against("alone"), kept(scores, "on-policy")
    cost = costs["on-policy"] / costs["teacher"]
    strict = flop["teacher"] + flop["start"] + flop["on-policy"]
    return {
        "ours": float(scores["on-policy"].mean()),
        "reference": float(scores["alone"].mean()),
        "unit": "of test problems right; reference: trained alone",
        "difference": equal["difference"],
        "interval": [equal["lo"], equal["hi"]],
        "n": scores["teacher"].size,
        "seeds": list(seeds),
        "details": {
            "right": {name: float(one.mean()) for name, one in scores.items()},
            "right by seed": {name: one.mean(1).tolist() for name, one in scores.items()},
            "share of the teacher's score": {name: kept(scores, name) for name in ("on-policy", "samples")},
            "cost per answer over the teacher's": cost,
            "flop": flop,
            "flop per answer": costs,
            "equal FLOP: on-policy minus samples": against("samples"),
            "equal FLOP: on-policy minus alone": equal,
            "teacher's training counted: on-policy minus alone, longer": against("alone, longer"),
            "teacher's training counted: share of it that alone, longer spent": (
                (flop["start"] + flop["alone, longer"]) / strict
            ),
        },
        "passed": share[0] >= KEPT and cost <= COST and equal["lo"] > 0,
    }


if __name__ == "__main__":  # the other processes import this file
    evidence(
        "align/distil",
        claim="a student distilled on-policy keeps at least 95% of its teacher's score at a third or less of its cost "
        "per answer and beats training alone at equal FLOP, each by the lower end of the paired interval; details: "
        "against samples of the teacher at equal FLOP, and against training alone when the teacher's training counts",
        run=run,
    )
