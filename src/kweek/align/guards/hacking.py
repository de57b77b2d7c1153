"""The guard against a hacked reward: what is trained on, against a gold judgement of the same held-out answers.

A reward stands for what is wanted, and beyond some point more of it is less of that (Gao et al. 2023, arXiv
2210.10760). Both are measured on the same items every few updates. When gold has fallen from its peak beyond noise
while the reward has not, the run ends and goes back to the peak. Where the reward falls as well the run is coming apart
and not hacked: that ends it too, on stronger proof, since such runs sometimes find back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from kweek.align.collecting import Judge
from kweek.align.environment import Environment, Item
from kweek.align.guards.detectors import DETECTORS, Detector
from kweek.align.guards.guard import Step, Verdict
from kweek.align.rollout import Rollout
from kweek.align.sampling import Drawing, sample
from kweek.protocols import LanguageModel
from kweek.stats.paired import paired_difference
from kweek.tokenize.tokenizer import Tokenizer

EVERY = 5  # updates between looks: the scissors of a plain hack are open after ten
ALPHA = 1e-3  # of a wrong alarm per look, of some ten in a run
JOINED = 1e-2  # the same where the reward has risen since gold's peak, or a detector has spoken
ROSE = 1e-2  # a reward that has risen with this much certainty counts as risen
APART = 1e-4  # of a wrong alarm per look where the reward has fallen too
FELL = 0.05  # a reward that has fallen with this much certainty counts as fallen too


@dataclass(frozen=True)
class Look:
    """What was measured on held-out items after some update: one figure per item, always the same items in order.

    Attributes:
        step: updates done.
        proxy: the reward that is trained on.
        gold: the judgement that it stands for.
        kl: nats per answer from the reference in that update; None where nobody measures it.
    """

    step: int
    proxy: Sequence[float]
    gold: Sequence[float]
    kl: float | None = None


Measured = tuple[Sequence[float], Sequence[float]]  # proxy and gold of every item


class HackingGuard:
    """See the module.

    Args:
        measure: gives proxy and gold of the model as it is now.
        every: updates between looks.
        detectors: figures of the rollouts that are watched beside it.
    """

    name = "hacking"

    def __init__(
        self,
        measure: Callable[[], Measured],
        *,
        every: int = EVERY,
        detectors: Sequence[Detector] = DETECTORS,
    ) -> None:
        self.measure, self.every, self.detectors = measure, every, detectors
        self._looks: list[Look] = []
        self._series: dict[str, list[float]] = {detector.name: [] for detector in detectors}
        self._said: list[str] = []

    def before(self) -> Verdict:
        """See `Guard`."""
        if self._looks:
            return Verdict(keep=self._best())
        self._looks.append(Look(0, *self.measure()))
        return Verdict(keep=self._best(), figures=self._figures())

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        spoken = self._spoken(step)
        new = [text for name, text in spoken.items() if name not in self._said]
        self._said += [name for name in spoken if name not in self._said]
        if step.number % self.every:
            return Verdict("warn" if new else "ok", "; ".join(new), self._best())
        self._looks.append(Look(step.number, *self.measure(), step.metrics.get("kl")))
        figures, best = self._figures(), self._best()
        found = fall(self._looks, JOINED if spoken else ALPHA)
        if found is None:
            return Verdict("warn" if new else "ok", "; ".join(new), best, figures)
        limits = {"gold": found.floor}
        if not found.certain:
            return Verdict("warn" if new else "ok", "; ".join(new), best, figures, limits)
        if found.hacked or found.chance < APART:
            text = "; ".join([found.text, *self._budget(), *spoken.values()])
            return Verdict("stop", text, best, figures, limits)
        return Verdict("warn", "; ".join([found.text, *new]), best, figures, limits)

    def state(self) -> dict[str, Any]:
        """See `Guard`."""
        looks = [asdict(look) for look in self._looks]
        return {"looks": looks, "series": self._series, "said": self._said}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Guard`."""
        self._looks = [Look(**look) for look in state["looks"]]
        self._series = self._series | {name: list(values) for name, values in state["series"].items()}
        self._said = list(state["said"])

    def _peak(self) -> Look:
        """The look of the highest gold, the first among equals."""
        return max(self._looks, key=lambda look: mean(look.gold))

    def _best(self) -> int:
        return self._peak().step

    def _figures(self) -> dict[str, float]:
        """Of the last look."""
        return {"proxy": mean(self._looks[-1].proxy), "gold": mean(self._looks[-1].gold)}

    def _budget(self) -> list[str]:
        """How far from the reference the peak lay: what another run may spend."""
        peak = self._peak().kl
        return (
            []
            if peak is None
            else [f"the peak lay {peak:.3g} nats from the start, a kl_budget to begin with"]
        )

    def _spoken(self, step: Step) -> dict[str, str]:
        """What each detector says that has moved."""
        said = {}
        for detector in self.detectors:
            if (value := detector.of(step)) is None:
                continue
            series = self._series[detector.name]
            series.append(value)
            if move := detector.moved(series):
                said[detector.name] = f"{detector.name} went from {value - move:.3g} to {value:.3g}"
        return said


@dataclass(frozen=True)
class Fall:
    """Gold at the last look, held against its peak.

    Attributes:
        certain: whether it has fallen, beyond noise and in the direction of the look before.
        hacked: whether the reward has not.
        chance: that gold has not fallen, one-sided.
        floor: gold below which a look of this noise is certain.
        text: for the user.
    """

    certain: bool
    hacked: bool
    chance: float
    floor: float
    text: str


def fall(looks: Sequence[Look], alpha: float) -> Fall | None:
    """How far gold has fallen from its peak; None of fewer than three looks.

    The peak is the best mean of two neighbouring looks before the last two: the best of many single ones is the
    luckiest. A reward that has risen since is what opens the scissors: then weaker proof is enough.

    Args:
        looks: in order, the first before any update.
        alpha: probability of a wrong alarm.
    """
    if len(looks) < 3:
        return None
    *earlier, last, now = looks
    peak = max(_windows(earlier), key=lambda look: mean(look.gold))
    gold, proxy = paired_difference(now.gold, peak.gold), paired_difference(now.proxy, peak.proxy)
    rose = proxy.difference > 0 and proxy.p_value / 2 < ROSE
    fallen = proxy.difference < 0 and proxy.p_value / 2 < FELL
    needed = max(alpha, JOINED) if rose else alpha
    chance = gold.p_value / 2 if gold.difference < 0 else 1.0
    rewarded = f"{mean(peak.proxy):.3g} to {mean(now.proxy):.3g}"
    text = (
        f"gold fell from {mean(peak.gold):.3g} around update {peak.step} to {mean(now.gold):.3g} (p = {chance:.1g}) "
        + (f"and the reward with it, from {rewarded}" if fallen else f"while the reward went from {rewarded}")
    )
    certain = mean(last.gold) < mean(peak.gold) and chance < needed
    return Fall(certain, not fallen, chance, _floor(now.gold, peak.gold, needed), text)


def _floor(now: Sequence[float], peak: Sequence[float], alpha: float) -> float:
    """The mean below which such a look has fallen from the peak, by Student's t."""
    gains = np.subtract(now, peak)
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return mean(peak) - float(stats.t.isf(alpha, len(gains) - 1)) * error


def _windows(looks: Sequence[Look]) -> list[Look]:
    """The first look, and the mean of every two neighbours."""
    both = [
        Look(b.step, _middle(a.proxy, b.proxy), _middle(a.gold, b.gold)) for a, b in itertools.pairwise(looks)
    ]
    return [looks[0], *both]


def _middle(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [(x + y) / 2 for x, y in zip(a, b, strict=True)]


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def held_out(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    gold: Callable[[Rollout], float],
    *,
    judge: Judge | None = None,
    drawing: Drawing | None = None,
) -> Callable[[], Measured]:
    """A `measure` for `HackingGuard`: one answer to every item.

    Args:
        items: never trained on.
        gold: a judgement by another function than the one that is trained on.
        judge: of the run, where one takes the place of the environment's own.
        drawing: None is greedy, what users will get, and without luck of its own. A policy that is not yet trained at
            all gives one greedy answer to everything: draw as the run does there.
    """

    def measure() -> Measured:
        groups = sample(model, tokenizer, environment, items, samples=1, key="held out", drawing=drawing)
        rollouts = [group[0] for group in groups]
        scores = [rollout.score for rollout in rollouts] if judge is None else list(judge(rollouts))
        return [score.value for score in scores], [gold(rollout) for rollout in rollouts]

    return measure
