"""Is a scaffold worth its FLOP? Every scaffold beside self-consistency that spends as much, on the same tasks.

The vote is the one that `self_consistency` takes, which stops where it is decided. Its size is a number of votes,
mixed of two neighbours, whose mean FLOP equal those of the scaffold. From a pool of samples of each task the expected
outcome of a vote of every size is taken over many orders, so that the vote adds hardly any noise of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from kweek.errors import DataError
from kweek.protocols import Verifier
from kweek.stats.paired import Paired, paired_difference
from kweek.system.context import Context
from kweek.system.cost import Cost
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.votes import Poll
from kweek.system.system import Solved, System
from kweek.system.task import Answer, Task
from kweek.system.together import WORKERS, answer_all

POOL = 24  # samples of each task: more votes than that hardly change anything
ORDERS = 16  # in which the pool is counted
_POWER = 0.8  # with which the detectable difference would be found: the usual

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A scaffold beside votes of as many FLOP.

    Attributes:
        accuracy, votes_accuracy: shares of right answers.
        difference: of the two, paired by task, with its 95% interval.
        detectable: the true difference that would be found with 80% probability on so many tasks.
        flop, votes_flop: of an answer, on average.
        num_votes: mixed of two whole numbers.
        matched: false where the scaffold costs less than one vote or more than the whole pool.
        cost: of everything that the scaffold did.
    """

    accuracy: float
    votes_accuracy: float
    difference: Paired
    detectable: float
    flop: float
    votes_flop: float
    num_votes: float
    matched: bool
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        data = {name: value for name, value in vars(self).items() if name not in ("difference", "cost")}
        return {**data, "difference": self.difference._asdict(), "cost": self.cost.to_dict()}


@dataclass(frozen=True)
class Pool:
    """Votes of every size on every task.

    Attributes:
        right_KN: share of the orders in which the first k + 1 votes are right, by task.
        flop_KN: what they cost on average.
    """

    right_KN: Vector
    flop_KN: Vector


def pool_votes(
    system: System,
    tasks: Sequence[Task],
    verifier: Verifier,
    *,
    way: Way | None = None,
    size: int = POOL,
    seed: int = 0,
    workers: int = WORKERS,
) -> Pool:
    """Draw the samples of a system's role "core" that votes are made of, and count them.

    Raises:
        DataError: nobody knows what they cost.
    """
    way = way or Way()

    def draw(context: Context, task: Task) -> Answer:
        samples = way.ask(context, task.messages, size)
        return Answer(
            "",
            data={"said": [way.answer_of(one) for one in samples], "num_prompt": len(samples[0].prompt_ids)},
        )

    drawing = System(system.roles, draw, name="votes")
    columns = []
    generator = np.random.default_rng(seed)
    role = system.core
    for task, solved in zip(tasks, answer_all(drawing, tasks, seed=seed, workers=workers), strict=True):
        if solved.cost.num_unknown:
            raise DataError(
                "what a vote costs is not known", fix="compare by tokens, or with a model of known size"
            )
        said: list[str | None] = list(solved.answer.data["said"])
        once = role.most(solved.answer.data["num_prompt"], 1).flop
        reading = once if role.shares_prompt else once * len(said)
        each = max(0.0, solved.cost.flop - reading) / len(said)
        columns.append(_counted(said, task.gold, verifier, once, each, role.shares_prompt, generator))
    return Pool(*(np.stack([column[part] for column in columns], axis=1) for part in (0, 1)))


def against_votes(
    system: System,
    tasks: Sequence[Task],
    verifier: Verifier,
    *,
    way: Way | None = None,
    pool: Pool | None = None,
    seeds: Sequence[int] = (0,),
    workers: int = WORKERS,
) -> Comparison:
    """Compare a system's scaffold with self-consistency of its role "core" at equal FLOP.

    Args:
        system: whose models bear several threads, see `Together`.
        tasks: with gold answers; at least two.
        verifier: judges an answer against the gold one.
        way: how votes are asked for.
        pool: of the same tasks in the same order; None draws one.
        seeds: the scaffold runs once with each, and its outcomes of a task are averaged.
        workers: runs at once.

    Raises:
        DataError: nobody knows the FLOP of the scaffold or of the votes.
    """
    pool = pool or pool_votes(system, tasks, verifier, way=way, workers=workers)
    right_SN, flop_SN, cost = [], [], Cost()
    for seed in seeds:
        solved = list(answer_all(system, tasks, seed=seed, workers=workers))
        right_SN.append([_right(one, task, verifier) for one, task in zip(solved, tasks, strict=True)])
        flop_SN.append([one.cost.flop for one in solved])
        cost = sum((one.cost for one in solved), start=cost)
    if cost.num_unknown:
        raise DataError("what the scaffold costs is not known", fix="use models of known size")
    return compared(np.mean(right_SN, axis=0), float(np.mean(flop_SN)), pool, cost)


def compared(right_N: Vector, flop: float, pool: Pool, cost: Cost) -> Comparison:
    """The comparison of outcomes that are there already; `flop` is the mean of an answer."""
    means_K = pool.flop_KN.mean(axis=1)
    place = int(np.searchsorted(means_K, flop, side="right")) - 1
    below, above = max(0, place), min(len(means_K) - 1, place + 1)
    gap = means_K[above] - means_K[below]
    share = 0.0 if gap <= 0 else float(np.clip((flop - means_K[below]) / gap, 0, 1))
    votes_N = (1 - share) * pool.right_KN[below] + share * pool.right_KN[above]
    difference = paired_difference(right_N, votes_N)
    error = float(np.std(right_N - votes_N, ddof=1)) / math.sqrt(len(right_N))
    noticed = float(stats.norm.ppf(0.975) + stats.norm.ppf(_POWER))
    return Comparison(
        float(right_N.mean()), float(votes_N.mean()), difference, noticed * error, flop,
        float((1 - share) * means_K[below] + share * means_K[above]), 1 + below + share,
        bool(means_K[0] <= flop <= means_K[-1]), cost,
    )  # fmt: skip


def _right(solved: Solved, task: Task, verifier: Verifier) -> float:
    return verifier(solved.answer.text, task.gold).value


def _counted(
    said: Sequence[str | None],
    gold: str,
    verifier: Verifier,
    once: float,
    each: float,
    shares_prompt: bool,
    generator: np.random.Generator,
) -> tuple[Vector, Vector]:
    """Share right and mean FLOP of votes of every size, over some orders of the samples."""
    values = {one: verifier(one, gold).value for one in said if one is not None}
    right, used = np.zeros(len(said)), np.zeros(len(said))
    for _ in range(ORDERS):
        order = [said[at] for at in generator.permutation(len(said))]
        for size in range(1, len(said) + 1):
            winner, count = _vote(order[:size])
            right[size - 1] += (values[winner] if winner is not None else 0.0) / ORDERS
            used[size - 1] += count / ORDERS
    reading = once if shares_prompt else once * used
    return right, reading + each * used


def _vote(order: Sequence[str | None]) -> tuple[str | None, int]:
    """The winner and how many were asked for, as `self_consistency` does it."""
    poll, asked = Poll(), 0
    while asked < len(order) and not poll.is_decided(len(order) - asked):
        batch = poll.next_batch(len(order) - asked)
        for one in order[asked : asked + batch]:
            poll.add(one)
        asked += batch
    return poll.winner, asked
