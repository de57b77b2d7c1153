"""A made-up run for tests of the report: the shape of the built-in recipe, invented numbers, no model behind it.

Nothing here was measured. The figures resemble those of a real run so that a page made of them can be looked at.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fabricated_records import MODELS, RECORDS, share

from kweek.store.artifact import ArtifactWriter, fingerprint
from kweek.store.files import write_json
from kweek.store.records import Records

INPUTS: dict[str, tuple[str, dict[str, str]]] = {
    "corpus": ("corpus", {}),
    "tokenizer": ("tokenizer", {"corpus": "corpus"}),
    "scale": ("scale", {"corpus": "corpus", "tokenizer": "tokenizer"}),
    "base": ("pretrain", {"corpus": "corpus", "tokenizer": "tokenizer", "scale": "scale"}),
    "sft": ("sft", {"model": "base", "corpus": "corpus"}),
    "rl": ("reinforce", {"model": "sft", "corpus": "corpus"}),
    "few_sft": ("sft", {"model": "base", "corpus": "corpus"}),
    "few_rl": ("reinforce", {"model": "few_sft", "corpus": "corpus"}),
    "many_sft": ("sft", {"model": "base", "corpus": "corpus"}),
    "quantized": ("quantize", {"model": "rl", "corpus": "corpus"}),
    "behaviour": ("behaviour", {
        "base": "base", "sft": "sft", "rl": "rl", "quantized": "quantized", "corpus": "corpus",
    }),
    "evaluation": ("evaluate", {
        "corpus": "corpus", "base": "base", "sft": "sft", "rl": "rl", "quantized": "quantized",
        "few_sft": "few_sft", "few_rl": "few_rl", "many_sft": "many_sft",
    }),
}  # fmt: skip
COSTS = {  # stage: FLOP by kind in fp32, tokens, seconds, CPU-seconds
    "corpus": ({}, 0, 9.2, 9.1),
    "tokenizer": ({}, 0, 3.4, 3.3),
    "scale": ({"ladder": 5.1e12}, 812_000, 52.0, 101.0),
    "base": ({"pretrain": 1.42e13}, 2_211_840, 204.0, 388.0),
    "sft": ({"sft": 2.9e12}, 913_000, 61.0, 60.4),
    "rl": ({"reinforce": 8.4e12}, 1_004_000, 96.0, 95.1),
    "few_sft": ({"sft": 2.2e12}, 610_000, 44.0, 43.6),
    "few_rl": ({"reinforce": 8.1e12}, 988_000, 93.0, 92.4),
    "many_sft": ({"sft": 1.3e12}, 450_560, 27.0, 26.8),
    "quantized": ({"quantize": 3.1e11}, 131_072, 7.5, 7.3),
    "behaviour": ({"behaviour": 1.1e12}, 0, 24.0, 46.0),
    "evaluation": ({"evaluate": 3.9e12}, 0, 88.0, 171.0),
}

MACHINE = {
    "machine": {
        "num_cores": 2,
        "memory_bytes": 4_294_967_296,
        "features": ["avx2", "fma"],
        "accelerator": None,
    },
    "peaks": {
        "1": {
            "fp32_flop_per_second": 1.04e11,
            "bf16_flop_per_second": None,
            "memory_bytes_per_second": 1.12e10,
        },
        "2": {
            "fp32_flop_per_second": 1.96e11,
            "bf16_flop_per_second": None,
            "memory_bytes_per_second": 1.71e10,
        },
    },
}


def fabricate(run: Path, *, upto: str = "evaluation", seed: int = 0) -> Path:
    """Make a run folder with every stage up to and including `upto` finished; returns it."""
    rng = random.Random(seed)
    names = list(INPUTS)
    done = names[: names.index(upto) + 1]
    prints: dict[str, str] = {}
    for name, (kind, inputs) in INPUTS.items():
        prints[name] = fingerprint(
            kind, {"name": name, "seed": seed}, {role: prints[source] for role, source in inputs.items()}, "1"
        )
    (run / "records").mkdir(parents=True)
    for name in done:
        kind, inputs = INPUTS[name]
        _artifact(run, name, prints)
        RECORDS[kind](Records(run / "records" / f"{name}.jsonl"), rng, name)
    stages = {name: {"kind": kind, "inputs": inputs} for name, (kind, inputs) in INPUTS.items()}
    stages["evaluation"]["lines"] = {"main": ["sft", "rl"], "few": ["few_sft", "few_rl"]}
    recipe = {"name": "laptop", "description": "made up", "seed": seed, "budget": "10min", "stages": stages}
    command = f"kweek run laptop --seed {seed} --budget 10min --out runs/laptop"
    write_json(run / "run.json", {"recipe": recipe, "fingerprints": prints, "threads": 2, "command": command})
    write_json(run / "summary.json", _summary(done, seed))
    write_json(run / "machine.json", MACHINE)
    return run


def _summary(done: list[str], seed: int) -> dict[str, Any]:
    stages = [
        {
            "name": name,
            "kind": kind,
            "status": "done" if name in done else "waiting",
            "seconds": COSTS[name][2] if name in done else None,
            "cpu_seconds": COSTS[name][3] if name in done else None,
            "flop": sum(COSTS[name][0].values()) if name in done else None,
            "artifact": f"artifacts/{name}" if name in done else None,
        }
        for name, (kind, _) in INPUTS.items()
    ]
    complete = len(done) == len(INPUTS)
    models = [name for name in done if INPUTS[name][0] in ("pretrain", "sft", "reinforce", "quantize")]
    return {
        "recipe": "laptop",
        "seed": seed,
        "status": "done" if complete else "interrupted",
        "stages": stages,
        "forecast": {"bits_per_byte": {"lo": 1.921, "mid": 1.962, "hi": 2.004}} if "scale" in done else None,
        "outcome": {"bits_per_byte": 1.9573} if "base" in done else {},
        "tasks": {model: share(right, 400) for model, (right, _, _) in MODELS.items()} if complete else {},
        "sizes": {name: 823_296 if name == "quantized" else 4_223_104 for name in models},
        "next": ["kweek chat runs/laptop", "kweek run laptop --corpus FOLDER --out runs/mine"]
        if complete
        else ["kweek run laptop --out runs/laptop"],
    }


def _artifact(run: Path, name: str, prints: dict[str, str]) -> None:
    kind, inputs = INPUTS[name]
    flop, tokens, seconds, cpu_seconds = COSTS[name]
    lineage = {role: prints[source] for role, source in inputs.items()}
    with ArtifactWriter(
        run / "artifacts" / name, kind=kind, fingerprint=prints[name], lineage=lineage
    ) as out:
        total = sum(flop.values())
        out.ledger = {
            "flop": {what: {"fp32": value} for what, value in flop.items()},
            "flop_total": total,
            "flop_standardised": 2 * total,
            "tokens": tokens,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "joules": 8.0 * cpu_seconds,
            "joules_source": "estimated",
            "peak_memory_bytes": 657_592_320,
        }
        if kind == "pretrain":
            out.metrics.update(num_parameters=1_054_336, num_tokens=2_211_840)
        if kind == "corpus":
            out.write_text("rejected.jsonl", '{"path": "docs/old.gz", "reason": "truncated gzip"}\n')
