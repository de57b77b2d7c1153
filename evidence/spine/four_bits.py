"""Four bits: how much smaller the file is, and how much of what plain rounding loses the method recovers.

Measured on what no stage has used: test documents and test problems. The original, its plain rounding and the
run's 4-bit model are compared document by document and problem by problem. Plain rounding is llama.cpp's Q4_0
rule (the group's largest weight gets code -8), the best known of its kind; the rule absmax / 7, which loses more,
and searched scales stand beside it. `KWEEK_RUNS` may name finished run folders, one per seed; without it the
default recipe is run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from harness import evidence, run_folder

from kweek.align.verifier import whole_number
from kweek.compress.comparison import recovered_share
from kweek.compress.quantize import quantize_network
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.evaluate.bits import BitsPerByte, compare, pool
from kweek.evaluate.problems import Asker, attempt
from kweek.recipe.materials import TASKS, load, validation_texts
from kweek.recipe.pretraining import evaluate_bits
from kweek.stats.paired import paired_difference
from kweek.store.artifact import Artifact
from kweek.system.calculator import Calculator

SEEDS = (0, 1, 2)
SMALLER = (0.75, 0.85)
RECOVERED = 0.40
LOST_ACCURACY = 0.02
TEST_BYTES, PROBLEMS = 400_000, 1000
QUICK_BYTES, QUICK_PROBLEMS = 100_000, 200
INSTANT = {"rtn": "nearest", "rtn, absmax / 7": "nearest_absmax", "rtn, searched scales": "nearest_mse"}


def folders(quick: bool) -> list[Path]:
    """Run folders, one per seed."""
    named = os.environ.get("KWEEK_RUNS")
    if named:
        return [Path(path) for path in named.split(os.pathsep)]
    return [run_folder(seed) for seed in SEEDS[: 1 if quick else None]]


def measure(folder: Path, num_bytes: int, num_problems: int) -> dict[str, Any]:
    """One run: the share by which its file is smaller; of every model, bits by document and answers by problem."""
    artifacts = {name: Artifact.open(folder / "artifacts" / name) for name in ("corpus", "rl", "quantized")}
    original, tokenizer = load(artifacts["rl"])
    models = {"fp32": original, "4 bits": load(artifacts["quantized"])[0]}
    models |= {name: quantize_network(original, method=method).network for name, method in INSTANT.items()}
    texts = validation_texts(artifacts["corpus"], num_bytes, "test")
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    items = stories.problems("four_bits", num_problems, "test")
    bits: dict[str, BitsPerByte] = {}
    correct: dict[str, list[bool]] = {}
    for name, model in models.items():
        found = evaluate_bits(model, tokenizer, texts)
        bits[name] = pool([part for source, part in found.items() if source != TASKS])
        if name in ("fp32", "4 bits", "rtn"):
            correct[name] = [group[0].correct for group in attempt(Engine(model), asker, items)]
    size = artifacts["quantized"].file("model.safetensors").stat().st_size
    exact = 4 * original.config.num_parameters()["total"]
    return {"seed": folder.name, "smaller": 1 - size / exact, "bits": bits, "correct": correct}


def of_run(found: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run, as plain data."""
    bits = found["bits"]
    share = recovered_share(bits["fp32"], bits["rtn"], bits["4 bits"])
    gain = compare(bits["rtn"], bits["4 bits"])
    return {
        "run": found["seed"],
        "smaller": found["smaller"],
        "recovered": list(share),
        "rtn_minus_4_bits": gain._asdict(),
        "bits_per_byte": {name: part.value for name, part in bits.items()},
        "accuracy": {name: float(np.mean(values)) for name, values in found["correct"].items()},
    }


def run(quick: bool) -> dict[str, Any]:
    """All runs apart, then pooled: every document and problem of every run is one observation."""
    sizes = (QUICK_BYTES, QUICK_PROBLEMS) if quick else (TEST_BYTES, PROBLEMS)
    found = [measure(folder, *sizes) for folder in folders(quick)]
    details = [of_run(one) for one in found]
    pooled = {name: pool([one["bits"][name] for one in found]) for name in found[0]["bits"]}
    correct = {
        name: [float(x) for one in found for x in one["correct"][name]] for name in found[0]["correct"]
    }
    share = recovered_share(pooled["fp32"], pooled["rtn"], pooled["4 bits"])
    accuracy = paired_difference(correct["4 bits"], correct["fp32"])
    rounded = paired_difference(correct["rtn"], correct["fp32"])
    passed = (
        all(SMALLER[0] <= one["smaller"] <= SMALLER[1] for one in details)
        and share.lo >= RECOVERED
        and all(one["rtn_minus_4_bits"]["lo"] > 0 for one in details)
        and accuracy.difference >= -LOST_ACCURACY
    )
    return {
        "ours": share.mid,
        "reference": RECOVERED,
        "unit": "share of rounding's loss in bits recovered",
        "difference": share.mid - RECOVERED,
        "interval": [share.lo, share.hi],
        "n": len(pooled["fp32"].document_bytes),
        "seeds": [one["run"] for one in details],
        "details": {
            "runs": details,
            "against_absmax": list(
                recovered_share(pooled["fp32"], pooled["rtn, absmax / 7"], pooled["4 bits"])
            ),
            "accuracy_4_bits_minus_fp32": accuracy._asdict(),
            "accuracy_rtn_minus_fp32": rounded._asdict(),
        },
        "passed": passed,
    }


evidence(
    "spine/four_bits",
    claim="the 4-bit file is 75 to 85% smaller than 32-bit; at least 40% of the bits that rounding to the nearest "
    "loses is recovered (lower end of the paired interval), and some in every seed; accuracy is at most 2 points lower",
    run=run,
)
