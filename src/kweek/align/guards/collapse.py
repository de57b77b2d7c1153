"""The guard against collapse: a policy that says one thing, or nothing in particular, or numbers that are none.

Low entropy, equal answers and groups of equal reward are also what success looks like. What tells the two apart is
the reward: a policy that has become sure without having become better has collapsed, one that is sure and right is
done. So every symptom is measured against the run's own first updates, and counts only while the reward is no better
than it was then and not at the top of what it can be. A reward that falls far below what the run has already reached
needs no further symptom.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kweek.align.guards.guard import Step, Verdict
from kweek.align.rollout import Group
from kweek.stats.robust import Usual, usual

START = 5  # updates that say what is usual for this run: the learning rate is warming up in them
LATELY = 5  # updates that are held against that: single strange batches are common
SPREADS = 5.0  # of the start's own noise, below which nothing has moved
SURE = 0.2  # of the start's entropy: less is no exploration
WILD = 3.0  # times the start's entropy: the policy has forgotten how to speak
EQUAL = 0.9  # share of groups of equal reward, or of attempts with a twin: no signal is left
COMMON = 0.5  # share of items that get the very same answer, above the start's
STEEP = 20.0  # times the start's gradient
APART = 3.0  # nats by which a token's probability may differ from when it was sampled: a factor of twenty
FALL = 0.4  # standard deviations of a single answer's reward at the start: from 0.5 right to 0.3, say
ERRORS = 4.0  # standard errors that a fall must exceed too: the best of many windows is a lucky one
TOP = 0.1  # of the range of rewards seen: nearer to the highest, a policy is done
KEEP = 5  # updates between weights that are kept, and between figures that are shown


@dataclass(frozen=True)
class Figures:
    """One update.

    Attributes:
        step: its number.
        reward: mean of the judge's values. Not after shaping: a penalty that grows is no collapse.
        spread: standard deviation over attempts.
        error: standard error of the mean reward, from the means of the groups.
        equal: share of groups of equal reward.
        twins: share of attempts equal to another at the same item.
        common: share of items that got the most widespread answer.
        entropy, gradient, ratio: see `Step.metrics`; nan where not measured.
    """

    step: int
    reward: float
    spread: float
    error: float
    equal: float
    twins: float
    common: float
    entropy: float
    gradient: float
    ratio: float

    def shown(self) -> dict[str, float]:
        """What was measured, for the records."""
        values = {name: float(value) for name, value in asdict(self).items() if name != "step"}
        return {name: value for name, value in values.items() if math.isfinite(value)}


class CollapseGuard:
    """See the module. Watches runs with rollouts; of others only whether loss and gradient are numbers."""

    name = "collapse"

    def __init__(self) -> None:
        self._seen: list[Figures] = []
        self._range: tuple[float, float] = (math.inf, -math.inf)
        self._kept = 0

    def before(self) -> Verdict:
        """See `Guard`."""
        return Verdict(keep=self._kept)

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        broken = [
            name for name, value in step.metrics.items() if name in NUMBERS and not math.isfinite(value)
        ]
        if broken:
            return Verdict("stop", f"{' and '.join(broken)} no longer finite", self._kept)
        scores = [[rollout.score.value for rollout in group] for group in step.groups if group]
        if not scores:
            return Verdict(keep=self._kept)
        self._seen.append(figures_of(step, scores))
        flat = [score for group in scores for score in group]
        self._range = (min(self._range[0], *flat), max(self._range[1], *flat))
        told = self._seen[-1].shown() if step.number % KEEP == 0 else {}
        if len(self._seen) < START + LATELY:
            return Verdict(keep=self._kept, figures=told)
        start, lately = self._seen[:START], self._seen[-LATELY:]
        floor, best, now = self._floor(start, lately), self._best(), _mean(lately)
        limits = {"reward": floor, **limits_of(start)}
        wrong = f"the reward fell from {best:.3g} to {now:.3g}" if now < floor else ""
        found = [] if wrong or self._well(start, lately) else symptoms(start, lately)
        if found:
            wrong = f"{'; '.join(found)}; the reward went from {_mean(start):.3g} to {now:.3g}"
        if wrong:
            return Verdict("stop", wrong, self._kept, self._seen[-1].shown(), limits)
        if step.number % KEEP == 0 and now >= best:
            self._kept = step.number
        return Verdict(keep=self._kept, figures=told, limits=limits if told else {})

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {
            "seen": [asdict(figures) for figures in self._seen],
            "range": list(self._range),
            "kept": self._kept,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        self._seen = [Figures(**figures) for figures in state["seen"]]
        self._range = (state["range"][0], state["range"][1])
        self._kept = state["kept"]

    def _best(self) -> float:
        """The highest mean reward of neighbouring updates so far."""
        ends = range(LATELY, len(self._seen) + 1)
        return max(_mean(self._seen[end - LATELY : end]) for end in ends)

    def _floor(self, start: Sequence[Figures], lately: Sequence[Figures]) -> float:
        """The reward below which a run has lost what it had reached."""
        single = usual([f.spread for f in start]).middle
        error = math.sqrt(2 * sum(f.error**2 for f in lately)) / LATELY
        return self._best() - max(FALL * single, ERRORS * error)

    def _well(self, start: Sequence[Figures], lately: Sequence[Figures]) -> bool:
        """Whether the reward is better than at the start, or as good as it can be."""
        low, high = self._range
        single = usual([f.spread for f in start]).middle
        now = _mean(lately)
        return now > _mean(start) + FALL * single / 2 or now > high - TOP * (high - low)


#: Metrics that must be numbers.
NUMBERS = ("loss", "gradient_norm", "ratio", "reward", "entropy", "kl")


def limits_of(start: Sequence[Figures]) -> dict[str, float]:
    """What each figure may not pass while the reward is no better, from a run's first updates.

    Most may not rise above theirs; `entropy` may not fall below it, nor rise above `wild`. What was not measured has
    none.
    """
    at = {name: _usual(start, name) for name in ("entropy", "equal", "twins", "common", "gradient", "ratio")}
    entropy, common = at["entropy"], at["common"]
    limits = {
        "entropy": SURE * entropy.middle,
        "wild": WILD * entropy.middle + SPREADS * entropy.spread,
        **{n: max(EQUAL, at[n].middle + SPREADS * at[n].spread) for n in ("equal", "twins")},
        "common": common.middle + max(COMMON, SPREADS * common.spread),
        "gradient": STEEP * at["gradient"].middle,
        "ratio": at["ratio"].middle + APART,
    }
    return {name: limit for name, limit in limits.items() if math.isfinite(limit)}


def symptoms(start: Sequence[Figures], lately: Sequence[Figures]) -> list[str]:
    """What has moved beyond what is usual, in words."""
    limits, found = limits_of(start), []

    def both(name: str) -> tuple[float, float]:
        return _usual(start, name).middle, _usual(lately, name).middle

    was, now = both("entropy")
    if now < limits.get("entropy", -math.inf):
        found.append(f"entropy fell from {was:.3g} to {now:.3g} nats")
    if now > limits.get("wild", math.inf):
        found.append(f"entropy rose from {was:.3g} to {now:.3g} nats")
    for name, told in (("equal", "groups are of equal reward"), ("twins", "attempts have a twin")):
        was, now = both(name)
        if now > limits[name]:
            found.append(f"{now:.0%} of {told}, {was:.0%} at the start")
    was, now = both("common")
    if now > limits["common"]:
        found.append(f"{now:.0%} of items get the very same answer, {was:.0%} at the start")
    was, now = both("gradient")
    if now > limits.get("gradient", math.inf):
        found.append(f"gradients grew from {was:.3g} to {now:.3g}")
    was, now = both("ratio")
    if now > limits.get("ratio", math.inf):
        found.append(f"probabilities differ by {now:.3g} nats from when they were sampled")
    return found


def _usual(figures: Sequence[Figures], name: str) -> Usual:
    return usual([getattr(one, name) for one in figures])


def figures_of(step: Step, scores: Sequence[Sequence[float]]) -> Figures:
    """The figures of an update with rollouts, whose scores are given by group."""
    flat = np.array([score for group in scores for score in group])
    metrics = step.metrics
    return Figures(
        step.number,
        float(flat.mean()),
        float(flat.std()),
        error_of([sum(group) / len(group) for group in scores]),
        sum(len(set(group)) < 2 for group in scores) / len(scores),
        twins(step.groups),
        common(step.groups),
        metrics.get("entropy", math.nan),
        metrics.get("gradient_norm", math.nan),
        metrics.get("ratio", math.nan),
    )


def error_of(means: Sequence[float]) -> float:
    """Standard error of the mean of some groups' means; 0 of a single one."""
    return float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else 0.0


def twins(groups: Sequence[Group]) -> float:
    """Share of attempts that are equal, token by token, to another one at the same item."""
    counts = [Counter(_answer(rollout) for rollout in group) for group in groups]
    total = sum(sum(count.values()) for count in counts)
    return sum(n for count in counts for n in count.values() if n > 1) / total


def common(groups: Sequence[Group]) -> float:
    """Share of items at which the most widespread answer was given at least once."""
    spread = Counter(answer for group in groups for answer in {_answer(rollout) for rollout in group})
    return max(spread.values()) / len(groups)


def _answer(rollout: Any) -> tuple[int, ...]:
    return tuple(rollout.token_ids[rollout.num_prompt_tokens :])


def _mean(figures: Sequence[Figures]) -> float:
    return sum(f.reward for f in figures) / len(figures)
