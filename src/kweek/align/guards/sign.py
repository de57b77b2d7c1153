"""The guard against an inverted reward: better answers must earn more, and updates must make them likelier.

In 2019 a change turned the sign of reward and divergence at once: the model was trained overnight to be as bad as it
could, in fluent language, and nothing in its curves said so (Ziegler et al. 2019, arXiv 1909.08593, section 4.4). Known
pairs decide it beforehand. They pass the whole path of the run, after all shaping, weights and divergence, and a real
update along them must raise the better answers over the worse. The same again every few updates finds what turns
later, as does the run's own material: where a gold judgement of the rollouts is at hand, rewards that contradict it
show at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from scipy import stats

from kweek.align.guards.direction import Direction, Probe, direction
from kweek.align.guards.guard import Step, Verdict
from kweek.align.rollout import Rollout
from kweek.errors import ConfigError, GuardError

#: Of a wrong alarm per look. A run has some tens of looks; a real flip passes it by many orders of magnitude.
ALPHA = 1e-3
DOUBT = 0.05  # a learnt reward that chance equals as often as this is not known to point anywhere
EVERY = 10  # updates between looks: two looks within the twenty in which a flip is to be found
WINDOW = 2  # updates whose groups are counted together: one has few where both kinds of answer occur

Ranking = Callable[
    [], Sequence[tuple[float, float]]
]  # reward of the better and of the worse answer of each pair


class SignGuard:
    """Refuses a run whose reward or update points the wrong way, and ends one that turns.

    Args:
        probes: updates that must raise known pairs' margins, see `kweek.align.guards.direction`.
        ranking: rewards of known pairs after all shaping, made anew at every call; None where nothing is rewarded.
        exact: whether the reward is exact, so that every single pair must be ranked rightly; a learnt one may err, but
            not in more pairs than chance would.
        other: a further condition on the path, says what is wrong with it; None has none.
        gold: a judgement of rollouts that is not the reward's own; None does without.
        shaped: whether gold is held against the rewards after shaping, or against the judge's own. A divergence in the
            reward evens out good and bad at its optimum: then only the judge's own can tell.
        watched: margins that the run as a whole must not lower, as those of known pairs under a training on pairs.
        every: updates between looks.

    Raises:
        ConfigError: neither a probe nor a ranking.
    """

    name = "sign"

    def __init__(
        self,
        probes: Sequence[Probe],
        *,
        ranking: Ranking | None = None,
        exact: bool = True,
        other: Callable[[], str] | None = None,
        gold: Callable[[Rollout], float] | None = None,
        shaped: bool = True,
        watched: Callable[[], Sequence[float]] | None = None,
        every: int = EVERY,
    ) -> None:
        if not probes and ranking is None:
            raise ConfigError("a guard of the sign needs a probe or a ranking of known pairs")
        self.probes, self.ranking, self.exact, self.other = probes, ranking, exact, other
        self.gold, self.shaped, self.watched, self.every = gold, shaped, watched, every
        self._start: list[float] = []
        self._groups: list[list[float]] = []  # by update, gaps of reward between better and worse attempts
        self._ranked: list[tuple[float, float]] = []  # of the last updates: pairs ranked as labelled, and all
        self._earlier: tuple[float, float] = (0.0, 0.0)  # the same of all before these
        self._passed = 0

    def before(self) -> Verdict:
        """See `Guard`.

        Raises:
            GuardError: a reward or an update prefers worse answers.
        """
        wrong, doubt, figures = self._look(first=True)
        if wrong:
            raise GuardError(wrong, fix="look at the sign of reward, data columns, weights and loss together")
        if self.watched is not None and not self._start:
            self._start = list(self.watched())
        return Verdict("warn" if doubt else "ok", doubt, self._passed, figures)

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        figures: dict[str, float] = {}
        wrong = self._contradicted(step) or self._turned(step)
        if not wrong and step.number % self.every == 0:
            wrong, _, figures = self._look(first=False)
            wrong = wrong or self._lowered()
            if not wrong:
                self._passed = step.number
        if wrong:
            text = f"{wrong}; the sign was last seen right after update {self._passed}"
            return Verdict("stop", text, self._passed, figures)
        return Verdict(keep=self._passed, figures=figures)

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        return {
            "start": self._start,
            "groups": self._groups,
            "ranked": self._ranked,
            "earlier": self._earlier,
            "passed": self._passed,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        self._start, self._groups = list(state["start"]), list(state["groups"])
        self._ranked = [(right, count) for right, count in state["ranked"]]
        self._earlier = (state["earlier"][0], state["earlier"][1])
        self._passed = state["passed"]

    def _look(self, *, first: bool) -> tuple[str, str, dict[str, float]]:
        """What is wrong, what is doubtful, each empty when nothing is; and the figures."""
        figures: dict[str, float] = {}
        doubt = ""
        if self.ranking is not None:
            rewards = self.ranking()
            ranked = sum(better > worse for better, worse in rewards)
            figures |= {"pairs": len(rewards), "ranked": ranked}
            wrong, doubt = misranked(ranked, len(rewards), exact=self.exact)
            if wrong:
                return wrong, doubt, figures
        if self.other is not None and (wrong := self.other()):
            return wrong, doubt, figures
        for probe in self.probes:
            if first or (probe.again and (probe.own or self._unlearnt())):
                found = direction(probe)
                figures |= {f"{probe.figure}_before": found.before, f"{probe.figure}_after": found.after}
                if wrong := misdirected(found, probe):
                    return wrong, doubt, figures
        return "", doubt, figures

    def _contradicted(self, step: Step) -> str:
        """Whether the last updates' rewards prefer what gold calls worse, among attempts at the same item."""
        if self.gold is None:
            return ""
        earned = (
            step.rewards
            if self.shaped and step.rewards
            else [[r.score.value for r in g] for g in step.groups]
        )
        gaps = [gap(group, rewards, self.gold) for group, rewards in zip(step.groups, earned, strict=True)]
        self._groups = [*self._groups, [g for g in gaps if g]][-WINDOW:]
        told = [g for groups in self._groups for g in groups]
        against = sum(g < 0 for g in told)
        if told and stats.binomtest(against, len(told), 0.5, "greater").pvalue < ALPHA:
            return f"in {against} of {len(told)} groups the reward prefers attempts that gold calls worse"
        return ""

    def _turned(self, step: Step) -> str:
        """Whether fresh pairs are labelled against what the run has learnt from all those before them."""
        if not {"ranked", "pairs"} <= set(step.metrics):
            return ""
        count = step.metrics["pairs"]
        self._ranked.append((step.metrics["ranked"] * count, count))
        if len(self._ranked) > WINDOW:
            right, count = self._ranked.pop(0)
            self._earlier = (self._earlier[0] + right, self._earlier[1] + count)
        right, count = (sum(values) for values in zip(*self._ranked, strict=True))
        if by_chance(*self._earlier, "greater") < ALPHA and by_chance(right, count, "less") < ALPHA:
            return (
                f"of the last {count:.0f} pairs {right / count:.0%} are labelled as the model has learnt to rank them,"
                f" of those before {self._earlier[0] / self._earlier[1]:.0%}"
            )
        return ""

    def _unlearnt(self) -> bool:
        """Whether the run has not raised the watched margins so far: an update on its data then still has to."""
        return self.watched is not None and sum(self.watched()) <= sum(self._start)

    def _lowered(self) -> str:
        """Whether the run as a whole has lowered the watched margins."""
        if self.watched is None:
            return ""
        change = [now - was for now, was in zip(self.watched(), self._start, strict=True)]
        mean, fallen = sum(change) / len(change), sum(c < 0 for c in change)
        # Margins of some pairs move a hundred times as far as others': their ranks decide (Wilcoxon 1945).
        if mean < 0 and stats.wilcoxon(change, alternative="less").pvalue < ALPHA:
            return (
                f"better answers have lost {-mean:.3g} nats against worse ones since the start, in {fallen} of"
                f" {len(change)} known pairs"
            )
        return ""


def by_chance(right: float, count: float, side: Literal["less", "greater"]) -> float:
    """Probability that fair coins show so few, or so many, heads; 1 of none. Ties count half and are rounded away from
    what would be told."""
    if not count:
        return 1.0
    heads = math.ceil(right) if side == "less" else math.floor(right)
    return float(stats.binomtest(heads, round(count), 0.5, side).pvalue)


def misranked(ranked: int, pairs: int, *, exact: bool) -> tuple[str, str]:
    """What is wrong, and what is doubtful, with a reward that ranks so many pairs rightly; empty where nothing."""
    told = f"the reward ranks only {ranked} of {pairs} known better answers above worse ones"
    if exact:
        return (told, "") if ranked < pairs else ("", "")
    if stats.binomtest(ranked, pairs, 0.5, "less").pvalue < ALPHA:
        return told, ""
    chance = float(stats.binomtest(ranked, pairs, 0.5, "greater").pvalue)
    return "", f"{told}: by chance it would be no worse (p = {chance:.2g})" if chance > DOUBT else ""


def misdirected(found: Direction, probe: Probe) -> str:
    """What is wrong with a direction, empty where nothing is."""
    change = found.change
    if probe.own and not change.difference > 0:
        what = "leaves" if change.difference == 0 else "takes"
        margins = f"{found.before:.4f} to {found.after:.4f}"
        return f"{probe.name} {what} the margin of better over worse answers from {margins}"
    if not probe.own and change.difference < 0 and change.p_value / 2 < ALPHA:
        return (
            f"{probe.name} makes known better answers less likely than worse ones: {change.lost} of {change.n} margins"
            f" fall (p = {change.p_value / 2:.1g})"
        )
    return ""


def gap(group: Sequence[Rollout], rewards: Sequence[float], gold: Callable[[Rollout], float]) -> float:
    """Mean reward of the attempts that gold values above the group's mean, less that of the others; 0 where gold, or
    reward, does not tell them apart."""
    values = [gold(rollout) for rollout in group]
    if not values or max(values) == min(values):
        return 0.0
    middle = sum(values) / len(values)
    better = [r for r, value in zip(rewards, values, strict=True) if value > middle]
    worse = [r for r, value in zip(rewards, values, strict=True) if value <= middle]
    return sum(better) / len(better) - sum(worse) / len(worse)
