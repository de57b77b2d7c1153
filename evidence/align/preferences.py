"""Preferences of a labeller who is not gold: DPO, a reward model and RLHF on it, over-optimisation, and real pairs.

Gold is a right answer. The labeller who made the pairs likes right answers too, but also every token, and errs
(`preference_world`). The gain in gold is measured on held-out items, one sampled answer each, the same items and
seeds before and after. RLHF is measured twice: with a divergence from the start charged to the reward, and without,
for so long that the policy finds what the reward model likes more than gold does. The peak of that curve is chosen
on one half of the held-out items and measured on the other.

Real pairs are read from the folder that KWEEK_DATA names; without it that part is left out and says so. Nothing is
required of their accuracy: a model of a million parameters that has read two thousand chats is stated as what it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import preference_world as world
import real_pairs
import torch
from harness import evidence, kept

from kweek.stats.paired import Paired, paired_difference

KL_WEIGHT = 0.05
MEASURED_FOLDS = 2  # of five: some nine hundred pairs


def gained(after: list[float], before: list[float]) -> dict[str, float]:
    """The gain in gold over the start, paired by item."""
    found = paired_difference(after, before)
    return {"gain": found.difference, "lo": found.lo, "hi": found.hi}


def over_optimised(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """Where gold is highest, and what became of gold and reward after that."""
    peak = max(range(len(looks)), key=lambda i: looks[i]["gold"])
    top, last, first = looks[peak], looks[-1], looks[0]
    rose: Paired = paired_difference(top["test_gold"], first["test_gold"])
    fell: Paired = paired_difference(last["test_gold"], top["test_gold"])
    reward: Paired = paired_difference(last["test_reward"], top["test_reward"])
    return {
        "peak after updates": top["step"],
        "KL at the peak": top["kl"],
        "gold": [np.mean(first["test_gold"]), np.mean(top["test_gold"]), np.mean(last["test_gold"])],
        "rise to the peak": list(rose[:3]),
        "fall after it": list(fell[:3]),
        "reward after it": list(reward[:3]),
        "curve": [[row[key] for key in ("step", "kl", "reward", "gold")] for row in looks],
        "passed": bool(rose.lo > 0 and fell.hi < 0 and reward.lo > 0 and 0 < peak < len(looks) - 1),
    }


def one(seed: int, quick: bool) -> dict[str, Any]:
    """Everything of one seed."""
    data = world.draw(seed, 400 if quick else 1200, 450 if quick else 900)
    before = world.judged(world.small_world.started(seed), data.test)[1]
    network, parts = world.by_dpo(data)
    dpo = gained(world.judged(network, data.test)[1], before)
    model, report = world.reward_model(data)
    steps = 30 if quick else 80
    network, _ = world.by_rlhf(data, model, steps // 2, KL_WEIGHT, steps)
    rlhf = gained(world.judged(network, data.test)[1], before)
    _, looks = world.by_rlhf(data, model, steps, 0.0, 5)
    return {
        "seed": seed,
        "pairs": len(data.pairs),
        "labeller prefers what is right": data.agreement,
        "gold at the start": float(np.mean(before)),
        "DPO": dpo,
        "DPO, last updates": {name: round(value, 3) for name, value in parts.items()},
        "reward model": {
            "accuracy": report.accuracy, "pairs": report.num_pairs, "longer": report.longer,
            "length within pairs": report.within_pairs, "at equal length": report.equal_length,
        },
        "RLHF": rlhf,
        "over-optimisation": over_optimised(looks),
    }  # fmt: skip


def run(quick: bool) -> dict[str, Any]:
    """Three seeds, one when quick; two folds of real pairs, one when quick."""
    torch.set_num_threads(1)
    seeds = [0] if quick else [0, 1, 2]
    mark = "-quick" if quick else ""
    runs = [kept("align/preferences", f"{seed}{mark}", one, seed, quick) for seed in seeds]
    where = real_pairs.path()
    real: Any = f"left out: KWEEK_DATA names no folder with {real_pairs.FILE}"
    if where is not None:
        data, tokens = real_pairs.rows(where), 100_000 if quick else 300_000
        folds = [
            kept("align/preferences", f"fold-{number}{mark}", real_pairs.fold, data, number, tokens, 0)
            for number in range(1 if quick else MEASURED_FOLDS)
        ]
        real = real_pairs.measured(folds)
    gains = [found[name] for found in runs for name in ("DPO", "RLHF")]
    return {
        "ours": float(np.mean([found["DPO"]["gain"] for found in runs])),
        "reference": float(np.mean([found["RLHF"]["gain"] for found in runs])),
        "unit": "gain in gold (share of right answers) by DPO, and by RLHF",
        "difference": min(gain["gain"] for gain in gains),
        "interval": [min(gain["lo"] for gain in gains), max(gain["hi"] for gain in gains)],
        "n": len(runs),
        "seeds": seeds,
        "details": {"runs": runs, "real pairs": real},
        "passed": all(gain["lo"] > 0 for gain in gains)
        and all(r["over-optimisation"]["passed"] for r in runs),
    }


if __name__ == "__main__":
    evidence(
        "align/preferences",
        claim="DPO and RLHF on a reward model raise gold preference where gold is not what made the pairs: paired 95% "
        "intervals above 0 in every seed; without a divergence the reward goes on rising while gold falls from a peak",
        run=run,
    )
