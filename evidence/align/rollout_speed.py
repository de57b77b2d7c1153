"""Reinforcement end to end against TRL's `GRPOTrainer`: samples per second, and what they teach.

Both start from the model `sft` of the recipe `laptop` (a finished run folder may be given as KWEEK_RUN) and see the
same problems in the same order: Dr. GRPO on 24 problems with 8 samples each, at most 64 new tokens, temperature 1,
AdamW at one rate, one update per batch, fp32, one thread. No tool, which TRL could not force into a generation.
Blocks of steps alternate, one side waiting while the other works; imports, loading and the first step of each side
are not counted.

TRL lives in an environment of its own, whose interpreter KWEEK_TRL names:

    python -m venv trl && trl/bin/pip install torch trl
    KWEEK_TRL=trl/bin/python make evidence NAME=align/rollout_speed
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import ROOT, evidence, taught

from kweek.align.algorithms import dr_grpo
from kweek.align.collecting import Collected, Collector, Course
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.metrics import Metrics
from kweek.align.sources import Synchronous
from kweek.align.word_problems import WordProblems
from kweek.engine.engine import Engine
from kweek.recipe.materials import load
from kweek.stats.intervals import mean_interval
from kweek.store.files import write_json
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trained, Trainer

PROMPTS, SAMPLES, NEW_TOKENS = 24, 8, 64
STEPS, BLOCK, SEEDS = 45, 4, (0, 1, 2)
RATE = 2.5e-4  # the recipe's
FASTER = 3.0
SAME_REWARD = 0.05  # of the mean reward over the last half, between the two


def world() -> WordProblems:
    """The problems, without the calculator."""
    return WordProblems(calculator=False, max_new_tokens=NEW_TOKENS)


def key_of(seed: int) -> str:
    """Which problems a seed sees."""
    return f"speed/{seed}"


class Peer:
    """TRL's side, in its own process."""

    def __init__(
        self, python: str, folder: Path, tokenizer: Tokenizer, seed: int, steps: int, scratch: Path
    ) -> None:
        items = [world().items(f"{key_of(seed)}/{step}", PROMPTS, "train") for step in range(steps)]
        job = {
            "model": str(folder), "scratch": str(scratch), "samples": SAMPLES, "new_tokens": NEW_TOKENS, "rate": RATE,
            "seed": seed, "close": "</think>",
            "steps": [
                [
                    {
                        "prompt": list(map(dict, item.messages)), "gold": item.gold,
                        "ids": encode_prompt(tokenizer, item.messages),
                    }
                    for item in step
                ]
                for step in items
            ],
        }  # fmt: skip
        write_json(scratch / "job.json", job)
        self._process = subprocess.Popen(
            [python, str(ROOT / "evidence" / "trl_grpo.py"), str(scratch / "job.json")], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self.about = self._answer()

    def steps(self, count: int) -> dict[str, Any]:
        """Train some steps; seconds, rewards and lengths."""
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"TRL ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def one(python: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """One seed, in alternating blocks."""
    network, tokenizer = load(folder)
    course = Course(steps, PROMPTS, SAMPLES, warmup=0)
    trainer = Trainer(
        network, SplitOptimiser(network, LearningRates(RATE, RATE, RATE, RATE), weight_decay=0.0)
    )
    learner = Learner(trainer, dr_grpo(), limit=NEW_TOKENS)
    source = Synchronous(Collector(world(), tokenizer, course, key_of(seed)), Engine(network))
    ours: dict[str, list[float]] = {"seconds": [], "rewards": [], "lengths": []}
    theirs: dict[str, list[float]] = {"seconds": [], "rewards": [], "lengths": []}
    with tempfile.TemporaryDirectory() as scratch:
        peer = Peer(python, folder, tokenizer, seed, steps, Path(scratch))
        started = time.perf_counter()

        def on_step(totals: Trained, metrics: Metrics, batch: Collected) -> None:
            nonlocal started
            ours["rewards"].append(metrics.reward)
            ours["lengths"].append(metrics.length)
            first = metrics.step == 1  # of each side: it builds what later steps find built
            if not first and (metrics.step - 1) % BLOCK:
                return
            taken = time.perf_counter() - started
            done = peer.steps(1 if first else BLOCK)
            theirs["rewards"] += done["rewards"]
            theirs["lengths"] += done["lengths"]
            if not first:
                ours["seconds"].append(taken / BLOCK)
                theirs["seconds"].append(done["seconds"] / BLOCK)
            started = time.perf_counter()

        try:
            Loop(learner, source, course, on_step=on_step).run()
        finally:
            peer.close()
    return {"seed": seed, "ours": ours, "theirs": theirs, "trl": peer.about["trl"]}


def run(quick: bool) -> dict[str, Any]:
    """Three seeds of 45 steps; one of 9 when quick. Waits where TRL is not to be had."""
    python = os.environ.get("KWEEK_TRL")
    if not python:
        return {"passed": False, "waits": "for TRL: KWEEK_TRL names an interpreter that has it", "seeds": []}
    torch.set_num_threads(1)
    folder = taught("sft")
    seeds, steps = (SEEDS[:1], 2 * BLOCK + 1) if quick else (SEEDS, STEPS)
    found = [one(python, folder, seed, steps) for seed in seeds]
    size = PROMPTS * SAMPLES
    rates = {
        side: size / median([s for result in found for s in result[side]["seconds"]])
        for side in ("ours", "theirs")
    }
    ratios = [t / o for r in found for o, t in zip(r["ours"]["seconds"], r["theirs"]["seconds"], strict=True)]
    late = [
        float(np.mean(r["ours"]["rewards"][steps // 2 :]) - np.mean(r["theirs"]["rewards"][steps // 2 :]))
        for r in found
    ]
    apart = list(mean_interval(late)) if len(late) > 1 else [late[0]] * 3
    same = abs(apart[0]) <= SAME_REWARD and (apart[1] <= 0 <= apart[2])
    return {
        "ours": rates["ours"],
        "reference": rates["theirs"],
        "unit": "samples per second learnt from, 24 prompts x 8",
        "ratio": rates["ours"] / rates["theirs"],
        "interval": [float(x) for x in np.quantile(ratios, [0.025, 0.975])],
        "n": size * steps * len(seeds),
        "seeds": list(seeds),
        "details": {
            "difference_of_reward_in_the_last_half": apart,
            "runs": found,
            "interval": "2.5% to 97.5% of the ratios of neighbouring blocks",
            "peer": f"TRL {found[0]['trl']}",
        },
        "passed": rates["ours"] / rates["theirs"] >= FASTER and (quick or same),
    }


evidence(
    "align/rollout_speed",
    claim="rollout and update: 3 times the samples per second of TRL's GRPOTrainer on the same model and problems, one "
    "thread each; mean reward of the last half within 5 points, the difference's 95% interval over 3 seeds holds 0",
    run=run,
)
