"""Weak-to-strong on stories with a calculator: how much of the gap between supervisor and ceiling a student recovers.

The supervisor is a small model that has read stories and is shown 64 right demonstrations of the calculator. It then
answers 1,000 other problems, many of them wrongly. The student is the base model of the default recipe, which has read
more with three times as many parameters and has never seen a chat. It learns

- naive: from all of the supervisor's greedy answers;
- filtered: from answers on which the supervisor's four samples agree;
- confident: from all greedy answers with the auxiliary confidence loss;
- ceiling: from right answers to the same problems.

All four make the same number of updates at the same rate. What the two have read is one, as in the paper; the
demonstrations, the problems, all training after and the test problems depend on the seed. `KWEEK_RUNS` may name a
finished run folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import evidence
from seeds import by_seed, finished_runs
from small_models import attempts, demonstrations, first_chats, problems, right, student, taught

from kweek.align.environment import Item
from kweek.align.rollout import Rollout
from kweek.align.sft import chat_segments
from kweek.align.weak_to_strong import (
    ConfidenceLoss,
    Recovered,
    agreed,
    gap_recovered,
    labelled_segments,
    with_confidence,
)
from kweek.align.word_problems import as_item
from kweek.data import stories
from kweek.data.batches import Segment
from kweek.model.checkpoint import load_model
from kweek.model.network import Network
from kweek.stats.intervals import mean_interval
from kweek.tokenize.tokenizer import Tokenizer

SEEDS = (0, 1, 2, 3, 4)
WAYS = ("naive", "filtered", "confident")
#: What the supervisor reads and is shown: right on about half of the problems.
TOKENS, SHOWN, SHOWN_STEPS = 2.5e6, 64, 96
LABELLED, STEPS, RATE = 1000, 80, 1e-3
SAMPLES, AGREEING = 4, 0.75  # three of four
TEST = 400
QUICK = {"TOKENS": 8e5, "LABELLED": 400, "STEPS": 50, "TEST": 100}


def supervisor(tokenizer: Tokenizer, tokens: float, seed: int) -> Network:
    """A model that knows little, and all of it from right examples."""
    network, _ = student(tokenizer, tokens)
    first_chats(network, tokenizer, seed)
    taught(network, demonstrations(tokenizer, SHOWN, ("tool",), seed), SHOWN_STEPS, RATE, seed)
    return network


def labels(
    weak: Network, tokenizer: Tokenizer, items: Sequence[Item], seed: int
) -> tuple[list[Rollout], list[Rollout]]:
    """The supervisor's greedy answers, and those that its samples agree on."""
    greedy = attempts(weak, tokenizer, items, "label", greedy=True)
    drawn = attempts(weak, tokenizer, items, f"label/{seed}", samples=SAMPLES)
    return [group[0] for group in greedy], agreed(drawn, AGREEING)


def of_seed(seed: int, folder: Path, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured for one seed."""
    torch.set_num_threads(1)
    base = folder / "artifacts" / "base"
    tokenizer, strong = Tokenizer.load(base), load_model(base)
    first_chats(strong, tokenizer, seed)
    tasks = stories.problems(f"weak/{seed}", sizes["LABELLED"], "train")
    items = [as_item(task) for task in tasks]
    test = problems(f"weak-test/{seed}", sizes["TEST"], "test")
    weak = supervisor(tokenizer, sizes["TOKENS"], seed)
    greedy, agreeing = labels(weak, tokenizer, items, seed)
    gold = chat_segments(tokenizer, [stories.as_chat(task, "tool") for task in tasks])
    steps = sizes["STEPS"]
    lessons: dict[str, list[Segment]] = {
        "naive": labelled_segments(greedy),
        "filtered": labelled_segments(agreeing),
        "confident": labelled_segments(greedy),
        "ceiling": gold,
    }
    scores = {"weak": right(weak, tokenizer, test)[0].tolist()}
    for name, segments in lessons.items():
        pupil = copy.deepcopy(strong)
        more: dict[str, Any] = {}
        if name == "confident":
            more = {"objective": ConfidenceLoss(), "arrange": with_confidence}
        taught(pupil, segments, steps, RATE, seed, **more)
        scores[name] = right(pupil, tokenizer, test)[0].tolist()
    return {
        "seed": seed,
        "scores": scores,
        "labels right": float(np.mean([one.score.value for one in greedy])),
        "filtered": {
            "kept": len(agreeing) / len(items),
            "right": float(np.mean([one.score.value for one in agreeing])),
        },
    }


def run(quick: bool) -> dict[str, Any]:
    """Five seeds; one, small, when quick."""
    seeds = SEEDS[:1] if quick else SEEDS
    sizes = {"TOKENS": TOKENS, "LABELLED": LABELLED, "STEPS": STEPS, "TEST": TEST} | (QUICK if quick else {})
    folder = finished_runs([0])[0]
    student(
        Tokenizer.load(folder / "artifacts" / "base"), sizes["TOKENS"]
    )  # once, before the seeds go side by side
    found = by_seed(__file__, of_seed, [folder] * len(seeds), seeds, sizes)
    scores = {name: np.stack([one["scores"][name] for one in found]) for name in found[0]["scores"]}
    recovered = {way: gap_recovered(scores["weak"], scores[way], scores["ceiling"]) for way in WAYS}
    ratios = {
        way: [
            float(_pgr(*(scores[name][row].mean() for name in ("weak", way, "ceiling"))))
            for row in range(len(seeds))
        ]
        for way in WAYS
    }
    best = recovered["naive"]
    return {
        "ours": best.pgr.mid,
        "reference": 0.0,
        "unit": "of the gap between supervisor and ceiling, naive",
        "interval": [best.pgr.lo, best.pgr.hi],
        "n": scores["weak"].size,
        "seeds": list(seeds),
        "details": {
            "accuracy": {name: float(one.mean()) for name, one in scores.items()},
            "recovered": {way: _plain(one) for way, one in recovered.items()},
            "by seed": ratios,
            "over seeds": {way: list(mean_interval(v)) for way, v in ratios.items() if len(v) > 1},
            "seeds": [{k: v for k, v in one.items() if k != "scores"} for one in found],
        },
        "passed": best.pgr.lo > 0,
    }


def _plain(one: Recovered) -> dict[str, Any]:
    return {"gap": one.gap._asdict(), "gain": one.gain._asdict(), "pgr": one.pgr._asdict()}


def _pgr(weak: float, student: float, ceiling: float) -> float:
    return (student - weak) / (ceiling - weak)


if __name__ == "__main__":  # the other processes import this file
    evidence(
        "align/weak_to_strong",
        claim="a stronger student trained on a weaker supervisor's answers recovers a part of the gap to right answers "
        "(paired interval over items and seeds above 0)",
        run=run,
    )
