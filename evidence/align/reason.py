"""A model that thinks, made in two ways, and what of it was elicited and what learnt: the recipe `reason`, three seeds.

Everything after pretraining is done anew for each seed; corpus and base model are those of the recipe `laptop`, whose
pretraining is the same (a finished run folder may be given as KWEEK_RUN). One thread; a killed seed goes on where it
was. The tables are those of the recipe's report: after each stage pass@1, pass@k, tokens of thinking by difficulty,
accuracy by thinking budget, thinking forced, and the verdict by the rule of `kweek.recipe.origin`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from harness import ROOT, evidence, laptop, records

from kweek.recipe.builtin import find_recipe
from kweek.stats.intervals import mean_interval
from kweek.store.files import read_json, write_text

SEEDS = (0, 1, 2)
BORROWED = ("corpus", "base")
SMALL: dict[str, dict[str, Any]] = {
    "alone": {"steps": 2},
    "cold_rl": {"steps": 2},
    "rejected": {"prompts": 96},
    "final": {"steps": 2},
    "evaluation": {"problems": 40, "sampled": 20},
}


def recipe(folder: Path, quick: bool) -> dict[str, Any]:
    """The built-in recipe with what comes before alignment borrowed."""
    plain = find_recipe("reason").data
    made = {
        name: {"kind": "evidence.borrowed", "folder": str(folder / "artifacts" / name)} for name in BORROWED
    }
    made |= {
        name: {**stage, **(SMALL.get(name, {}) if quick else {})}
        for name, stage in plain["stages"].items()
        if name not in (*BORROWED, "tokenizer", "scale")
    }
    return {"name": "reason", "stages": made}


def one(seed: int, quick: bool) -> Path:
    """The run folder of a seed."""
    folder = ROOT / "runs" / f"reason-evidence-{seed}{'-quick' if quick else ''}"
    source = folder.with_suffix(".yaml")
    source.parent.mkdir(exist_ok=True)
    write_text(source, yaml.safe_dump(recipe(laptop(), quick), sort_keys=False))
    words = ["run", str(source), "--out", str(folder), "--seed", str(seed), "--threads", "1"]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    subprocess.run(
        [sys.executable, "-m", "kweek", *words], check=True, stdout=sys.stderr, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    return folder


def tables(folder: Path) -> dict[str, Any]:
    """One seed's tables."""
    models: dict[str, dict[str, Any]] = {}

    def of(record: dict[str, Any]) -> dict[str, Any]:
        return models.setdefault(record["model"], {"pass": {}, "thinking": {}, "budget": {}, "greedy": {}})

    for record in records(folder, "passed"):
        of(record)["pass"][str(record["k"])] = record["value"]
    for record in records(folder, "thinking"):
        of(record)["thinking"][record["level"]] = record["value"]
    for record in records(folder, "budget"):
        of(record)["budget"]["all" if record["tokens"] is None else str(record["tokens"])] = record["value"]
    for record in records(folder, "accuracy"):
        of(record)["greedy"][record["level"]] = record["accuracy"]
    for record in records(folder, "forced"):
        of(record).update(forced=record["value"], thinking_share=record["thinking_share"])
    stages = {stage["name"]: stage for stage in read_json(folder / "summary.json")["stages"]}
    for name, found in models.items():
        metrics = read_json(folder / "artifacts" / name / "artifact.json")["metrics"]
        found.update(
            bits_per_byte=metrics["bits_per_byte"],
            seconds=stages[name]["cpu_seconds"],
            flop=stages[name]["flop"],
        )
    origins = [
        {key: value for key, value in record.items() if key not in ("kind", "time", "stage")}
        for record in records(folder, "origin")
    ]
    arms = [
        {key: record[key] for key in ("name", "a", "b", "difference", "lo", "hi", "p_value")}
        for record in records(folder, "paired")
    ]
    return {"models": models, "origins": origins, "arms": arms}


def over_seeds(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and how often each verdict was given."""
    models = {
        name: {
            "pass": {k: fmean(seed["models"][name]["pass"][k] for seed in found) for k in first["pass"]},
            "forced": fmean(seed["models"][name]["forced"] for seed in found),
            "greedy": fmean(seed["models"][name]["greedy"]["all"] for seed in found),
            "thinking": {
                level: fmean(seed["models"][name]["thinking"][level] for seed in found) for level in first["thinking"]
            },
            "budget": {b: fmean(seed["models"][name]["budget"][b] for seed in found) for b in first["budget"]},
            "bits_per_byte": fmean(seed["models"][name]["bits_per_byte"] for seed in found),
        }
        for name, first in found[0]["models"].items()
    }  # fmt: skip
    words: dict[str, Counter[str]] = {}
    for seed in found:
        for row in seed["origins"]:
            words.setdefault(f"{row['arm']}: {row['before']} to {row['after']}", Counter())[row["word"]] += 1
    return {"models": models, "verdicts": {step: dict(counts) for step, counts in words.items()}}


def run(quick: bool) -> dict[str, Any]:
    """Every seed, one after another."""
    seeds = SEEDS[: 1 if quick else None]
    found = [tables(one(seed, quick)) for seed in seeds]
    ends = [row for seed in found for row in seed["origins"] if row["whole"] or row["arm"] == "alone"]
    once = {
        name: [seed["models"][name]["pass"]["1"] for seed in found] for name in ("format", "alone", "final")
    }
    gains = [end - start for end, start in zip(once["final"], once["format"], strict=True)]
    interval = mean_interval(gains)
    complete = all(
        row["word"] in ("no gain shown", "elicited", "learnt") for seed in found for row in seed["origins"]
    )
    return {
        "ours": fmean(once["final"]),
        "reference": fmean(once["format"]),
        "unit": "share of held-out stories solved at once (pass@1), staged arm at its end against the common start",
        "difference": fmean(gains),
        "interval": [interval.lo, interval.hi] if len(gains) > 1 else None,
        "n": len(seeds),
        "seeds": list(seeds),
        "details": {
            "over_seeds": over_seeds(found),
            "by_seed": dict(zip(map(str, seeds), found, strict=True)),
        },
        "passed": complete and all(row["gain_lo"] > 0 for row in ends),
    }


if __name__ == "__main__":
    evidence(
        "align/reason",
        claim="Reasoning in two arms, reinforcement alone and cold start, reinforcement, own verified answers and "
        "reinforcement: every stage of every seed carries a verdict by the stated rule, and each arm raises pass@1 "
        "over the common start in every seed (paired 95% interval above 0)",
        run=run,
    )
