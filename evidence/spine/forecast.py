"""The forecast frozen before training holds the outcome, is narrow, and scores better than the largest small run."""

from __future__ import annotations

from typing import Any

from harness import evidence, records, run_folder

from kweek.stats.intervals import interval_score
from kweek.store.artifact import Artifact

ALPHA = 0.1  # the forecast's interval is nominally 90%
MAX_HALF_WIDTH = 0.05


def one(seed: int) -> dict[str, Any]:
    """Forecast and outcome of a seed; the naive rival is the largest small run with the forecast's own width."""
    folder = run_folder(seed)
    forecast = next(iter(records(folder, "forecast")))
    scale = Artifact.open(folder / "artifacts" / "scale")
    outcome = Artifact.open(folder / "artifacts" / "base").metrics["bits_per_byte"]
    naive = scale.metrics["largest_small_run"]
    half = (forecast["hi"] - forecast["lo"]) / 2
    return {
        "forecast": [forecast["lo"], forecast["mid"], forecast["hi"]],
        "outcome": outcome,
        "inside": forecast["lo"] <= outcome <= forecast["hi"],
        "half_width": forecast["half_width"],
        "score": interval_score(forecast["lo"], forecast["hi"], outcome, ALPHA),
        "naive_score": interval_score(naive - half, naive + half, outcome, ALPHA),
        "backtest_coverage": forecast["coverage"],
    }


def run(quick: bool) -> dict[str, Any]:
    """Five seeds of the default recipe, one when quick."""
    seeds = [0] if quick else [0, 1, 2, 3, 4]
    found = {seed: one(seed) for seed in seeds}
    score = sum(row["score"] for row in found.values()) / len(found)
    naive = sum(row["naive_score"] for row in found.values()) / len(found)
    inside = sum(row["inside"] for row in found.values())
    widest = max(row["half_width"] for row in found.values())
    return {
        "ours": score,
        "reference": naive,
        "unit": "interval score (bits per byte, lower is better)",
        "ratio": score / naive,
        "interval": [min(r["half_width"] for r in found.values()), widest],
        "n": len(seeds),
        "seeds": seeds,
        "details": {"inside": inside, "interval": "smallest and largest half-width", **found},
        "passed": widest <= MAX_HALF_WIDTH and inside >= 0.8 * len(seeds) and score < naive,
    }


evidence(
    "spine/forecast",
    claim="half-width at most 5%, outcome inside on four of five seeds, better score than the largest small run",
    run=run,
)
