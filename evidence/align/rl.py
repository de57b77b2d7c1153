"""Four ways to learn from rewards, from one model taught by chats: accuracy against FLOP on one axis.

The start is the model `sft` of the recipe `laptop` (a finished run folder may be given as KWEEK_RUN); the reward is
1 for the right number. GRPO, RLOO, PPO and expert iteration each spend the same FLOP, all of them counted:
sampling, updates, critic, reference. Nothing is replayed beside them. Greedy accuracy on held-out problems is
measured along the way, at no charge; at the end on more problems, with pass@16, and beside the control that tells
learning from choosing: the model forced to open with a call of the calculator, before and after.

Per seed and algorithm the gain over the start is a paired test over the same problems. Between algorithms, every
problem counts the share of seeds that solve it, which is paired again. The picture is docs/reinforcement.svg. A
measurement that was killed goes on after the last seed of an algorithm that was finished.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, evidence, kept, taught
from progress_chart import Curve, Level, draw

from kweek.align.algorithms import grpo, ppo, rloo
from kweek.align.collecting import Collector, Course
from kweek.align.critic import Critic
from kweek.align.environment import Item
from kweek.align.expert import demonstrations, select
from kweek.align.guards.guard import Step, Verdict
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.rollout import Group
from kweek.align.sampling import Drawing, sample
from kweek.align.sft import ChatBatches
from kweek.align.sources import Synchronous
from kweek.align.verifier import whole_number
from kweek.align.word_problems import WordProblems, as_item
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.evaluate.problems import Asker, attempt
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.recipe.materials import load
from kweek.stats.intervals import mean_interval
from kweek.stats.paired import paired_difference
from kweek.store.files import write_text
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

SEEDS = (0, 1, 2, 3, 4)
BUDGET, QUICK_BUDGET = 5e12, 4e11  # FLOP
POINTS = 10  # measurements along the way
HELD_OUT, PASSED, SAMPLES = 400, 100, 16
RATE = 2.5e-4  # the recipe's
ALGORITHMS = ("GRPO", "RLOO", "PPO", "expert iteration")


class Budget:
    """A guard that ends a run when its FLOP are spent, and measures it on the way."""

    name = "budget"

    def __init__(self, total: float, measure: Callable[[], float]) -> None:
        self.total, self.spent, self._measure = total, 0.0, measure
        self.curve = [(0.0, measure())]

    def add(self, flop: float) -> bool:
        """Whether it is used up."""
        self.spent += flop
        if self.spent >= min(self.total, len(self.curve) * self.total / POINTS):
            self.curve.append((self.spent, self._measure()))
        return self.spent >= self.total

    def before(self) -> Verdict:
        """See `Guard`."""
        return Verdict()

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        flop = sum(step.metrics[f"flop_{kind}"] for kind in ("rollout", "reward", "update"))
        return Verdict("stop", "spent") if self.add(flop) else Verdict()

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""


def trainer_of(network: Network, rate: float) -> Trainer:
    """AdamW at one rate for everything, as the recipe's stage."""
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))


def by_policy(name: str, network: Network, tokenizer: Tokenizer, budget: Budget, seed: int) -> None:
    """GRPO, RLOO or PPO until the budget is used up."""
    policies: dict[str, Policy] = {"GRPO": grpo(), "RLOO": rloo(), "PPO": ppo()}
    updates = {"GRPO": 2, "RLOO": 1, "PPO": 4}[name]  # per batch of rollouts
    world = WordProblems(share_sums=0.1)
    critic = Critic(trainer_of(scorer_from(network, per_token=True), 1e-3)) if name == "PPO" else None
    learner = Learner(
        trainer_of(network, RATE), policies[name], limit=world.max_new_tokens, critic=critic,
        reference=Reference(copy.deepcopy(network)), minibatches=updates, seed=seed,
    )  # fmt: skip
    course = Course(10_000, prompts=24, samples=8, warmup=5)
    collector = Collector(
        world, tokenizer, course, f"rl/{name}/{seed}", max_positions=network.config.max_positions
    )

    Loop(learner, Synchronous(collector, Engine(network)), course, guards=[budget]).run()


def by_expert(network: Network, tokenizer: Tokenizer, budget: Budget, seed: int) -> None:
    """Rounds of sampling, keeping what is right, and learning it for two epochs."""
    world, engine, trainer = WordProblems(share_sums=0.1), Engine(network), trainer_of(network, 2 * RATE)
    for number in range(10_000):
        key = f"expert/{seed}/{number}"
        groups: list[Group] = sample(
            engine, tokenizer, world, world.items(key, 96, "train"), samples=8, key=key, drawing=Drawing()
        )
        if budget.add(sum(rollout.flop for group in groups for rollout in group)):
            return
        parts = demonstrations(select(groups))
        if not parts:
            continue
        for batch in ChatBatches(parts, batch_size=min(16, len(parts)), epochs=2, seed=seed + number)():
            if budget.add(trainer.step([batch], 1.0).flop):
                return


def greedy(network: Network, tokenizer: Tokenizer, items: Sequence[Item]) -> list[float]:
    """Right or wrong on each item."""
    groups = sample(Engine(network), tokenizer, WordProblems(), items, samples=1, key="greedy")
    return [group[0].score.value for group in groups]


def passed(network: Network, tokenizer: Tokenizer, items: Sequence[Item]) -> list[float]:
    """Whether one of 16 samples is right, for each item."""
    groups = sample(
        Engine(network), tokenizer, WordProblems(), items, samples=SAMPLES, key="pass", drawing=Drawing()
    )
    return [max(rollout.score.value for rollout in group) for group in groups]


def forced(network: Network, tokenizer: Tokenizer, count: int) -> list[float]:
    """Greedy, each answer opened with a call of the calculator."""
    opening = (tokenizer.special["<think>"], tokenizer.special["<tool>"])
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer), beginning=opening)
    found = attempt(Engine(network), asker, stories.problems("evaluate", count, "test"))
    return [float(group[0].correct) for group in found]


def one(folder: Path, name: str, seed: int, quick: bool) -> dict[str, Any]:
    """One algorithm under one seed; "" is the start itself."""
    torch.set_num_threads(1)
    started = time.monotonic()
    network, tokenizer = load(folder)
    count = 60 if quick else HELD_OUT
    items = [as_item(problem) for problem in stories.problems("evaluate", count, "test")]
    along = items[: 60 if quick else 200]
    found: dict[str, Any] = {"name": name, "seed": seed}
    if name:
        budget = Budget(
            QUICK_BUDGET if quick else BUDGET, lambda: float(np.mean(greedy(network, tokenizer, along)))
        )
        if name == "expert iteration":
            by_expert(network, tokenizer, budget, seed)
        else:
            by_policy(name, network, tokenizer, budget, seed)
        found["curve"] = budget.curve
    found["forced"] = forced(network, tokenizer, count)
    found["greedy"] = greedy(network, tokenizer, items)
    found["pass"] = passed(network, tokenizer, items[: 20 if quick else PASSED])
    return found | {"seconds": time.monotonic() - started}


def curves(runs: Sequence[dict[str, Any]]) -> list[Curve]:
    """Per algorithm the mean over seeds, with the extremes, at the points of measurement."""
    found = []
    for name in ALGORITHMS:
        mine = [run["curve"] for run in runs if run["name"] == name]
        points = []
        for place in range(min(map(len, mine))):
            x = float(np.mean([curve[place][0] for curve in mine]))
            y = [curve[place][1] for curve in mine]
            points.append((x, min(y), float(np.mean(y)), max(y)))
        found.append(Curve(name, points))
    return found


def told(name: str, runs: Sequence[dict[str, Any]], begun: dict[str, Any]) -> dict[str, Any]:
    """An algorithm's figures."""
    mine = [run for run in runs if run["name"] == name]
    shares = np.mean([run["greedy"] for run in mine], axis=0)
    accuracy = [float(np.mean(run["greedy"])) for run in mine]
    return {
        "algorithm": name,
        "accuracy": list(mean_interval(accuracy)) if len(mine) > 1 else accuracy,
        "gain": list(paired_difference(shares, begun["greedy"])[:3]),
        "gains_by_seed": [list(paired_difference(run["greedy"], begun["greedy"])[:3]) for run in mine],
        "beyond_forced": list(paired_difference(shares, begun["forced"])[:3]),
        "gain_where_forced": list(
            paired_difference(np.mean([r["forced"] for r in mine], axis=0), begun["forced"])[:3]
        ),
        "pass_at_16_gain": list(
            paired_difference(np.mean([r["pass"] for r in mine], axis=0), begun["pass"])[:3]
        ),
        "pass_at_16": float(np.mean([run["pass"] for run in mine])),
        "seconds": [round(run["seconds"]) for run in mine],
    }


def run(quick: bool) -> dict[str, Any]:
    """Every seed of every algorithm, one after the other."""
    seeds = SEEDS[: 1 if quick else None]
    folder = taught("sft")

    def kept_one(name: str, seed: int) -> Any:
        part = f"{name or 'start'}-{seed}{'-quick' if quick else ''}".replace(" ", "-")
        return kept("align/rl", part, one, folder, name, seed, quick)

    begun = kept_one("", 0)
    runs = [kept_one(name, seed) for seed in seeds for name in ALGORITHMS]
    rows = [told(name, runs, begun) for name in ALGORITHMS]
    shares = {
        name: np.mean([found["greedy"] for found in runs if found["name"] == name], axis=0)
        for name in ALGORITHMS
    }
    pairs = {
        f"{a} - {b}": list(paired_difference(shares[a], shares[b])[:3])
        for number, a in enumerate(ALGORITHMS)
        for b in ALGORITHMS[number + 1 :]
    }
    control, before = float(np.mean(begun["forced"])), float(np.mean(begun["greedy"]))
    drawn = curves(runs)
    if not quick:
        levels = [Level("before", before), Level("before, forced to call the tool", control)]
        svg = draw(
            drawn, levels, x="teraFLOP after the chats", y="held-out problems solved, greedy", scale=1e12
        )
        write_text(ROOT / "docs" / "reinforcement.svg", svg)
    best = max(rows, key=lambda row: row["gain"][0])
    return {
        "ours": before + best["gain"][0],
        "reference": before,
        "unit": "share of held-out problems solved, best algorithm against the start",
        "difference": best["gain"][0],
        "interval": best["gain"][1:],
        "n": len(begun["greedy"]),
        "seeds": list(seeds),
        "details": {
            "before": {"greedy": before, "forced_tool": control, "pass_at_16": float(np.mean(begun["pass"]))},
            "algorithms": rows,
            "between": pairs,
            "flop": QUICK_BUDGET if quick else BUDGET,
            "curves": {curve.name: list(curve.points) for curve in drawn},
            "raw_curves": [{key: run[key] for key in ("name", "seed", "curve")} for run in runs],
        },
        "passed": all(gain[1] > 0 for row in rows for gain in row["gains_by_seed"]),
    }


if __name__ == "__main__":
    evidence(
        "align/rl",
        claim="GRPO, RLOO, PPO and expert iteration, from one SFT model at equal FLOP: each gains on held-out problems "
        "in every seed (paired 95% interval above 0); shown with the forced-strategy control and pass@16",
        run=run,
    )
