"""Distillation on stories with a calculator: a student of a third of its teacher's cost, and what it is worth.

The teacher is the model of the default recipe after reinforcement. The student has half its width. For every seed it
reads stories, is shown the recipe's 2,048 demonstrations in mixed styles, and then learns with one and the same number
of FLOP in one of three ways:

- on-policy: it answers, and the teacher says token by token what it would have said (reverse KL); the FLOP of its own
  answers and of the teacher's reading are counted;
- samples: it is trained on answers that the teacher sampled; the FLOP of sampling are counted;
- alone: without a teacher, by reinforcement with the verifier, as the teacher was.

Training alone is compared in two ways, as in `engine/pruned`:

- the teacher is there already: alone, from the same start, with as many FLOP as distillation took;
- strict, and what the claim is judged by: the teacher's own training counts too. As many FLOP as that took would make
  alone read twenty times as many stories; it is given a stated share of them, and where that is enough to beat the
  distilled student, more could not help it. Then the table says by how much, and at what share of the FLOP.

Rates were chosen on seed 9.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import evidence, run_folder
from small_models import (
    Purse,
    attempts,
    demonstrations,
    first_chats,
    grown,
    problems,
    right,
    small_shape,
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
WIDTH, CHANNELS = 64, 160  # a third of the teacher's cost per answer
TOKENS, SHOWN, SHOWN_STEPS, SHOWN_RATE = 2.5e6, 2048, 256, 1e-3
BUDGET = 2e12  # FLOP of each way to learn; the student's reading before took three times as many
ROLLOUTS, ON_POLICY_RATE = 64, 1e-3
SAMPLED_SHARE, SAMPLES_RATE = (
    0.3,
    1e-3,
)  # of the budget, for the teacher's answers: two epochs over them are left
PROMPTS, ATTEMPTS, WARMUP, ALONE_RATE = 24, 8, 5, 2.5e-4  # as in the recipe
LONG_TOKENS = 7.5e6  # what the student that is to win alone reads
TEST = 600
KEPT, COST = 0.95, 1 / 3
SIZES = {"TOKENS": TOKENS, "LONG_TOKENS": LONG_TOKENS, "BUDGET": BUDGET, "TEST": TEST}
QUICK = {"TOKENS": 8e5, "LONG_TOKENS": 1.6e6, "BUDGET": 3e11, "TEST": 200}


def learner(network: Network, rate: float, objective: Any = None) -> Trainer:
    """One rate for all parameters, as in the recipe's reinforcement."""
    optimiser = SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0)
    return Trainer(network, optimiser, objective=objective)


def on_policy(student: Network, teacher: Network, tokenizer: Tokenizer, purse: Purse, seed: int) -> None:
    """The student answers, the teacher reads."""
    trainer = learner(student, ON_POLICY_RATE, Distillation(teacher, REVERSE))

    def sample(step: int) -> list[Rollout]:
        key = f"distil/{seed}/{step}"
        groups = attempts(student, tokenizer, problems(key, ROLLOUTS, "train"), key)
        return [group[0] for group in groups]

    lessons = OnPolicy(sample, 10**6)

    def batches(first_step: int) -> Iterator[Batch]:
        before = 0.0
        for batch in lessons(first_step):
            purse.spent, before = purse.spent + lessons.flop - before, lessons.flop
            yield batch
            if purse.empty:
                return

    fit(trainer, batches, 10**6, purse.factor, on_step=purse.pay)


def from_samples(student: Network, teacher: Network, tokenizer: Tokenizer, purse: Purse, seed: int) -> None:
    """The teacher answers, the student reads."""
    rollouts: list[Rollout] = []
    while purse.spent < SAMPLED_SHARE * purse.budget:
        key = f"distil/{seed}/{len(rollouts)}"
        groups = attempts(teacher, tokenizer, problems(key, 256, "train"), key)
        purse.spent += sum(group[0].flop for group in groups)
        rollouts += [group[0] for group in groups]
    lesson = learn_tokens(rollouts)
    taught_for(student, lesson.segments, purse, SAMPLES_RATE, seed)


def alone(student: Network, tokenizer: Tokenizer, purse: Purse, seed: int) -> None:
    """Reinforcement with the verifier, as in the recipe."""
    pupil = Learner(learner(student, ALONE_RATE), reinforce(), limit=WordProblems().max_new_tokens)
    step = 0
    while not purse.empty:
        key = f"alone/{seed}/{step}"
        groups = attempts(student, tokenizer, problems(key, PROMPTS, "train"), key, samples=ATTEMPTS)
        purse.spent += sum(one.flop for group in groups for one in group)
        purse.spent += pupil.learn(groups, step=step, factor=min(1.0, (step + 1) / WARMUP)).flop
        step += 1


def begun(tokenizer: Tokenizer, num_tokens: float, seed: int) -> tuple[Network, float]:
    """A student that has read stories and seen the demonstrations, and the FLOP of that."""
    network, flop = grown(small_shape(tokenizer, WIDTH, CHANNELS), tokenizer, num_tokens, seed)
    first_chats(network, tokenizer, seed)
    shown = demonstrations(tokenizer, SHOWN, ("direct", "reasoned", "tool"), seed)
    return network, flop + taught(network, shown, SHOWN_STEPS, SHOWN_RATE, seed)


def of_seed(seed: int, folder: Path, sizes: dict[str, float]) -> dict[str, Any]:
    """Everything measured for one seed."""
    torch.set_num_threads(1)
    stages = {name: Artifact.open(folder / "artifacts" / name) for name in ("base", "sft", "rl")}
    tokenizer = Tokenizer.load(stages["base"].path)
    teacher = load_teacher(stages["rl"].path, tokenizer)
    teacher_flop = math.fsum(stage.ledger["flop_total"] for stage in stages.values())
    test = problems(f"distil-test/{seed}", int(sizes["TEST"]), "test")
    scores, costs, flop = {}, {}, {"teacher": teacher_flop}
    scores["teacher"], costs["teacher"] = right(teacher, tokenizer, test)

    start, flop["start"] = begun(tokenizer, sizes["TOKENS"], seed)
    scores["start"], costs["start"] = right(start, tokenizer, test)
    long, flop["long start"] = begun(tokenizer, sizes["LONG_TOKENS"], seed)
    ways: dict[str, tuple[Network, Callable[[Network, Purse], None]]] = {
        "on-policy": (start, lambda network, purse: on_policy(network, teacher, tokenizer, purse, seed)),
        "samples": (start, lambda network, purse: from_samples(network, teacher, tokenizer, purse, seed)),
        "alone": (start, lambda network, purse: alone(network, tokenizer, purse, seed)),
        "alone, longer": (long, lambda network, purse: alone(network, tokenizer, purse, seed)),
    }
    for name, (network, way) in ways.items():
        student, purse = copy.deepcopy(network), Purse(sizes["BUDGET"])
        way(student, purse)
        flop[name] = purse.spent
        scores[name], costs[name] = right(student, tokenizer, test)
    return {"seed": seed, "scores": scores, "flop per answer": costs, "flop": flop}


def kept(scores: dict[str, np.ndarray], name: str) -> list[float]:
    """A student's score over its teacher's, with a paired bootstrap interval over items."""
    pairs = np.stack([scores[name].ravel(), scores["teacher"].ravel()], 1)
    return list(bootstrap(pairs, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum())))


def run(quick: bool) -> dict[str, Any]:
    """Three seeds on two cores; one, short, when quick."""
    seeds, sizes = (SEEDS[:1], SIZES | QUICK) if quick else (SEEDS, SIZES)
    folders = [run_folder(seed) for seed in seeds]
    with ProcessPoolExecutor(min(2, len(seeds)), get_context("spawn")) as processes:
        found = list(processes.map(of_seed, seeds, folders, [sizes] * len(seeds)))
    scores = {name: np.stack([one["scores"][name] for one in found]) for name in found[0]["scores"]}
    flop = {name: float(np.mean([one["flop"][name] for one in found])) for name in found[0]["flop"]}
    costs = {name: float(np.mean([one["flop per answer"][name] for one in found])) for name in scores}

    def against(a: str, b: str) -> dict[str, Any]:
        return paired_difference(scores[a].ravel(), scores[b].ravel())._asdict()

    strict, share = against("on-policy", "alone, longer"), kept(scores, "on-policy")
    total = flop["teacher"] + flop["start"] + flop["on-policy"]
    cost = costs["on-policy"] / costs["teacher"]
    return {
        "ours": float(scores["on-policy"].mean()),
        "reference": float(scores["alone, longer"].mean()),
        "unit": "of test problems right; reference: trained alone",
        "difference": strict["difference"],
        "interval": [strict["lo"], strict["hi"]],
        "n": scores["teacher"].size,
        "seeds": list(seeds),
        "details": {
            "right": {name: float(one.mean()) for name, one in scores.items()},
            "right by seed": {name: one.mean(1).tolist() for name, one in scores.items()},
            "share of the teacher's score": {name: kept(scores, name) for name in ("on-policy", "samples")},
            "cost per answer over the teacher's": cost,
            "flop": flop,
            "flop per answer": costs,
            "equal FLOP: on-policy minus samples": against("on-policy", "samples"),
            "equal FLOP, teacher free: on-policy minus alone": against("on-policy", "alone"),
            "strict: on-policy minus alone, longer": strict,
            "alone, longer: share of the strict total": (flop["long start"] + flop["alone, longer"]) / total,
        },
        "passed": share[0] >= KEPT and cost <= COST and strict["lo"] > 0,
    }


if __name__ == "__main__":  # the other processes import this file
    evidence(
        "align/distil",
        claim="a student distilled on-policy keeps at least 95% of its teacher's score at a third or less of its cost "
        "per answer and beats training alone at equal total FLOP, the teacher's training included (lower end of the "
        "paired interval); on-policy against samples of the teacher at equal FLOP in the details",
        run=run,
    )
