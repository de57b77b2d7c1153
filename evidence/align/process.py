"""The process reward model: how often the first wrong step of a held-out chain is found, and how often a healthy
chain is left alone.

The network is SmolLM2-135M-Instruct, which can read and calculate a little: as elsewhere, who judges a solution is at
least as able as who writes it. Under an adapter and with a head of one logit it learns to judge the steps of solutions
of which three in four have an error (`chains`). Held out are chains of questions that no training saw, by the hash of
their text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import chains
import numpy as np
import torch
from chains import KINDS, LEVELS, Told
from harness import evidence, kept, smollm

from kweek.align.process import StepCorrectness, chain_segments, first_wrong, step_probabilities
from kweek.compute.hardware import measure_peak
from kweek.data.batches import Batch, collate, pack
from kweek.model.adapter import AdapterConfig, attach, merge
from kweek.model.scorer import Scorer, scorer_from
from kweek.recipe.materials import load
from kweek.recipe.precision import fast_dtype
from kweek.stats.intervals import Interval, wilson
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer, fit

UPDATES = 400
RATE = 1e-3  # of the adapter and the head, as of a specialist
CHAINS = 8  # of an update: many small ones, since their number decides
ROW = 192
SHARE_FAULTY = 0.75
REQUIRED = 0.8


def batches(words: Tokenizer, key: str) -> Iterator[Batch]:
    """Updates on fresh chains; one is never seen twice."""
    for first in itertools.count(0, CHAINS):
        found = [chains.told(words, key, first + i, "train", SHARE_FAULTY).chain for i in range(CHAINS)]
        yield collate(pack(chain_segments(found), ROW))


def trained(base: Path, seed: int, updates: int) -> tuple[Scorer, float]:
    """A process reward model and the FLOP of its training."""
    network, words = load(base)
    scorer = scorer_from(network, per_token=True)
    attach(scorer, AdapterConfig(), torch.Generator().manual_seed(seed))
    scorer.score.requires_grad_()
    optimiser = SplitOptimiser(scorer, LearningRates(RATE, RATE, RATE, RATE), weight_decay=0.0)
    trainer = Trainer(
        scorer, optimiser, objective=StepCorrectness(), compute_dtype=fast_dtype(measure_peak(1))
    )
    schedule = WarmupStableDecay(updates, 0.05, 0.7)
    flop = fit(trainer, lambda _: batches(words, f"judge/{seed}"), updates, schedule).flop
    merge(scorer)
    return scorer, flop


def rates(scorer: Scorer, held_out: Sequence[Told]) -> dict[str, Interval]:
    """Shares of chains judged wholly right: of all, of the faulty ones (the first wrong step is found), of the healthy
    ones (none is flagged), and of each kind of error and length."""
    found = step_probabilities(scorer, [told.chain for told in held_out])
    hits: dict[str, list[bool]] = {}
    for told, row in zip(held_out, found, strict=True):
        faulty = told.chain.first_wrong is not None
        hit = first_wrong(row) == told.chain.first_wrong
        groups = ["faulty", told.error, f"faulty, {told.level} steps"] if faulty else ["healthy"]
        for group in ["all", *groups]:
            hits.setdefault(group, []).append(hit)
    return {group: wilson(sum(values), len(values)) for group, values in sorted(hits.items())}


def guessed(held_out: Sequence[Told]) -> float:
    """The share of faulty chains that the best rule finds which reads nothing: always one step, from either end."""
    faulty = [told.chain for told in held_out if told.chain.first_wrong is not None]
    places = range(-max(LEVELS), max(LEVELS))
    return max(
        sum(chain.first_wrong == (p if p >= 0 else len(chain.ends) + p) for chain in faulty) / len(faulty)
        for p in places
    )


def run(quick: bool) -> dict[str, Any]:
    """Three seeds; when quick, one of a few seconds, which shows that it runs and no more."""
    torch.set_num_threads(1)
    base = smollm()
    seeds = [0] if quick else [0, 1, 2]
    held_out = chains.many(load(base)[1], "held out", 200 if quick else 1000, "test", SHARE_FAULTY)

    def one(seed: int) -> dict[str, Any]:
        scorer, flop = trained(base, seed, UPDATES // (40 if quick else 1))
        return {"flop": flop, "rates": {name: list(x) for name, x in rates(scorer, held_out).items()}}

    runs = [kept("align/process", f"{seed}{'-quick' if quick else ''}", one, seed) for seed in seeds]
    located = [Interval(*found["rates"]["faulty"]) for found in runs]
    mean = float(np.mean([share.mid for share in located]))
    return {
        "ours": mean,
        "reference": REQUIRED,
        "unit": "share of faulty held-out chains whose first wrong step is found",
        "difference": mean - REQUIRED,
        "interval": [min(share.lo for share in located), max(share.hi for share in located)],
        "n": sum(told.chain.first_wrong is not None for told in held_out),
        "seeds": seeds,
        "details": {
            "all chains judged rightly": [found["rates"]["all"] for found in runs],
            "healthy chains left alone": [found["rates"]["healthy"] for found in runs],
            "always the same step": guessed(held_out),
            "kinds of error": KINDS,
            "steps": LEVELS,
            "runs": runs,
        },
        "passed": all(share.mid >= REQUIRED for share in located),
    }


if __name__ == "__main__":
    evidence(
        "align/process",
        claim="the process reward model locates the first wrong step in at least 80% of held-out chains, in every seed",
        run=run,
    )
