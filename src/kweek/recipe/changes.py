"""The records of what a stage of alignment changed, which the report shows for every stage that has them.

    change        how many answers gained and lost, mean reward and length before and after, paired
    beside        a prompt with two texts side by side: an answer that changed much, or a pair that was judged wrongly
    distribution  counts of a quantity, one series for each time or side
    divergence    nats per answer from where the stage began
    tax           one measure of something else before and after, paired: what was lost

Fields are described in docs/report.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kweek.align.answers import MOST, Answer, most_changed, require_same
from kweek.align.distance import Moved
from kweek.stats.paired import paired_difference
from kweek.store.records import Records

FEW = 9  # distinct values up to which each has a column of its own
COLUMNS = 20  # of a distribution of more: enough for its shape, wide enough to be pointed at
UPDATES = 3  # at each end of a run whose groups are shown: some seventy of them
LONGEST = 4000  # characters of a text that are kept; a report shows less

#: Kinds that a stage writes when it has finished learning: a stage that goes on from a checkpoint drops them.
KINDS = frozenset({"change", "beside", "distribution", "tax", "panel"})


def record_answers(records: Records, before: Sequence[Answer], after: Sequence[Answer], of: str) -> None:
    """Everything about answers to the same prompts before and after a stage.

    Args:
        of: what was answered and how, for people: "64 held-out problems, greedy".

    Raises:
        ValueError: the answers are not to the same prompts, or fewer than two.
    """
    require_same(before, after)
    gains = [b.reward - a.reward for a, b in zip(before, after, strict=True)]
    records.append(
        "change",
        of=of,
        n=len(gains),
        up=sum(gain > 0 for gain in gains),
        down=sum(gain < 0 for gain in gains),
        reward=_both([a.reward for a in before], [b.reward for b in after]),
        length=_both([a.length for a in before], [b.length for b in after]),
    )
    for at in most_changed(before, after):
        sides = {"before": before[at], "after": after[at]}
        record_beside(records, before[at].prompt, sides, gold=before[at].gold, of=of)
    for quantity, unit in (("reward", ""), ("length", "tokens")):
        series = {
            "before": [float(getattr(answer, quantity)) for answer in before],
            "after": [float(getattr(answer, quantity)) for answer in after],
        }
        record_distribution(records, quantity, series, of=of, unit=unit, scale=quantity == "length")


def record_beside(
    records: Records, prompt: str, sides: Mapping[str, Answer], *, gold: str = "", of: str = ""
) -> None:
    """Two texts side by side, each under its name.

    Args:
        of: what they are taken from, for people.
    """
    shown = [
        {"name": name, "text": one.text[:LONGEST], "reward": one.reward, "length": one.length}
        for name, one in sides.items()
    ]
    records.append("beside", prompt=prompt[:LONGEST], gold=gold[:LONGEST], sides=shown, of=of)


def record_ranked(records: Records, preferred: Sequence[Answer], other: Sequence[Answer], of: str) -> None:
    """How a reward model sees held-out pairs, and those that it ranks most wrongly.

    Args:
        preferred, other: the two answers of each pair in parallel, with their rewards.
        of: which pairs, for people.
    """
    sides = {"preferred": preferred, "other": other}
    rewards = {name: [answer.reward for answer in answers] for name, answers in sides.items()}
    record_distribution(records, "reward", rewards, of=of)
    margins = [a - b for a, b in zip(*rewards.values(), strict=True)]
    record_distribution(records, "margin", {"preferred less other": margins}, of=of)
    wrong = sorted((at for at in range(len(margins)) if margins[at] < 0), key=lambda at: margins[at])
    for at in wrong[:MOST]:
        both = {name: answers[at] for name, answers in sides.items()}
        record_beside(records, preferred[at].prompt, both, of=f"pairs ranked most wrongly of {of}")


def record_distribution(
    records: Records,
    quantity: str,
    series: Mapping[str, Sequence[float]],
    *,
    of: str = "",
    unit: str = "",
    scale: bool = False,
) -> None:
    """How a quantity is spread, for one or several groups with columns in common.

    Args:
        series: values by name of the group ("before", "after"; "preferred", "other"); empty groups are left out.
        scale: columns of equal width even where there are few distinct values, whose distances then matter.
    """
    known = {name: [float(value) for value in values] for name, values in series.items() if len(values)}
    if not known:
        return
    edges, ticks = columns([value for values in known.values() for value in values], 1 if scale else FEW)
    records.append(
        "distribution",
        quantity=quantity,
        unit=unit,
        of=of,
        edges=edges,
        ticks=ticks,
        series=[
            {
                "name": name,
                "n": len(values),
                "mean": float(np.mean(values)),
                "counts": np.histogram(values, bins=edges)[0].tolist(),
            }
            for name, values in known.items()
        ],
    )


def record_divergence(records: Records, step: int, moved: Moved) -> None:
    """How far the policy had gone when it gave the answers of update `step`, or after so many updates."""
    records.append("divergence", step=step, **moved._asdict())


def record_groups(records: Records) -> None:
    """How the mean reward of the groups is spread at the start of reinforcement and at its end.

    Made from the records `update` of a finished stage; nothing for fewer than two of them.
    """
    updates = [record for record in Records.read(records.path) if record["kind"] == "update"]
    count = min(UPDATES, len(updates) // 2)
    if not count:
        return
    series = {}
    for part in (updates[:count], updates[-count:]):
        first, last = part[0]["step"], part[-1]["step"]
        name = f"updates {first} to {last}" if last > first else f"update {first}"
        series[name] = [value for record in part for value in record["group_rewards"]]
    record_distribution(
        records, "reward of a prompt's samples", series, of="mean of each group, other prompts"
    )


def record_tax(
    records: Records,
    measure: str,
    before: Sequence[float],
    after: Sequence[float],
    *,
    unit: str,
    lower_is_better: bool = False,
    weights: Sequence[float] | None = None,
    **about: Any,
) -> None:
    """One measure, item by item, before and after; see `paired_difference`.

    Args:
        unit: "share" or "bits per byte".
        about: further fields, such as the names of the two models.
    """
    better, worse = (after, before) if not lower_is_better else (before, after)
    found = paired_difference(worse, better, weights=weights)
    shares = np.ones(len(before)) if weights is None else np.asarray(weights, np.float64)
    records.append(
        "tax",
        name=measure,
        unit=unit,
        before=float(np.average(before, weights=shares)),
        after=float(np.average(after, weights=shares)),
        lost=found.difference,
        lo=found.lo,
        hi=found.hi,
        n=found.n,
        p_value=found.p_value,
        **about,
    )


def columns(values: Sequence[float], few: int = FEW) -> tuple[list[float], list[float]]:
    """Edges of the columns for some finite values, and the values themselves where each has a column of its own.

    Up to `few` distinct values are told apart exactly; more go into equal columns, whole numbers into whole widths.
    """
    distinct = sorted(set(values))
    if len(distinct) <= few:
        above = max(distinct[-1] + 1.0, math.nextafter(distinct[-1], math.inf))
        return [*distinct, above], distinct
    low, high = distinct[0], distinct[-1]
    if all(value == int(value) for value in distinct):
        width = max(1, -(-int(high - low + 1) // COLUMNS))
        count = -(-int(high - low + 1) // width)
        return [low - 0.5 + width * number for number in range(count + 1)], []
    return np.unique(np.linspace(low, high, COLUMNS + 1)).tolist(), []


def _both(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Means before and after, and their paired difference."""
    found = paired_difference(after, before)
    return {
        "before": float(np.mean(before)), "after": float(np.mean(after)), "difference": found.difference,
        "lo": found.lo, "hi": found.hi, "p_value": found.p_value,
    }  # fmt: skip
