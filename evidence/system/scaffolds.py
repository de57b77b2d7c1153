"""Writer and checker, debate, team and generate-check-synthesise beside self-consistency that spends as many FLOP."""

from __future__ import annotations

from functools import partial
from typing import Any

from harness import evidence, taught

from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.system.context import Scaffold
from kweek.system.roles import Role
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.compare import Comparison, against_votes, pool_votes
from kweek.system.scaffolds.debate import debate
from kweek.system.scaffolds.synthesis import generate_check_synthesise
from kweek.system.scaffolds.team import team
from kweek.system.scaffolds.writer_checker import writer_checker
from kweek.system.system import System
from kweek.system.task import Task
from kweek.system.together import Together

TASKS, QUICK_TASKS = 2000, 200  # so many that a difference of 3 points is found in four of five experiments
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
NOTICED = 0.03
#: As the model is asked everywhere else: its longest right answer takes about 70 tokens.
WAY = Way(max_new_tokens=96, temperature=1.0)
SCAFFOLDS: dict[str, Scaffold] = {
    "writer and checker": partial(writer_checker, way=WAY),
    "debate": partial(debate, way=WAY),
    "team": partial(team, way=WAY),
    "generate, check, synthesise": partial(generate_check_synthesise, way=WAY),
}


def core() -> Role:
    """The model of the laptop recipe after SFT, in one engine for all runs."""
    role = Role.open(taught("sft"), max_new_tokens=96)
    return Role(
        Together(role.model), role.tokenizer, role.counts, role.max_positions, role.interceptor,
        max_new_tokens=96, shares_prompt=True,
    )  # fmt: skip


def told(one: Comparison) -> dict[str, Any]:
    """What the table keeps of a comparison."""
    return {
        "accuracy": round(one.accuracy, 4),
        "votes_at_equal_flop": round(one.votes_accuracy, 4),
        "difference": [round(value, 4) for value in one.difference[:3]],
        "detectable": round(one.detectable, 4),
        "flop_per_answer": one.flop,
        "num_votes": round(one.num_votes, 2),
        "matched": one.matched,
        "tokens": one.cost.tokens,
    }


def run(quick: bool) -> dict[str, Any]:
    """All four on the same held-out stories."""
    role = core()
    problems = stories.problems("scaffolds", QUICK_TASKS if quick else TASKS, "test")
    tasks = [Task.of(one.question, one.answer) for one in problems]
    seeds = QUICK_SEEDS if quick else SEEDS
    pool = pool_votes(System({"core": role}, SCAFFOLDS["debate"]), tasks, whole_number, way=WAY)
    rows = {
        name: against_votes(System({"core": role}, scaffold), tasks, whole_number, pool=pool, seeds=seeds)
        for name, scaffold in SCAFFOLDS.items()
    }
    largest = max(one.detectable for one in rows.values())
    return {
        "ours": {name: round(one.accuracy, 4) for name, one in rows.items()},
        "reference": {name: round(one.votes_accuracy, 4) for name, one in rows.items()},
        "unit": "share of held-out stories answered rightly, against votes of equal FLOP",
        "difference": {name: round(one.difference.difference, 4) for name, one in rows.items()},
        "interval": {name: [round(value, 4) for value in one.difference[1:3]] for name, one in rows.items()},
        "n": len(tasks),
        "seeds": list(seeds),
        "passed": largest <= NOTICED and all(one.matched for one in rows.values()),
        "details": {
            "scaffolds": {name: told(one) for name, one in rows.items()},
            "largest_detectable": largest,
            "one_vote": round(float(pool.right_KN[0].mean()), 4),
            "all_votes": round(float(pool.right_KN[-1].mean()), 4),
        },
    }


evidence(
    "system/scaffolds",
    claim="writer and checker, debate, team and generate-check-synthesise are compared with self-consistency at equal "
    "FLOP such that a difference of 3 points would be found (80% power), whichever way it falls",
    run=run,
)
