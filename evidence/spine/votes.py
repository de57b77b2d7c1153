"""A majority of 16 samples beats one sample on the main line's SFT model, paired, in three seeds."""

from __future__ import annotations

from typing import Any

from harness import evidence, records, run_folder


def run(quick: bool) -> dict[str, Any]:
    """Read three seeds of the default recipe, one when quick."""
    seeds = [0] if quick else [0, 1, 2]
    found = {}
    for seed in seeds:
        paired = {record["name"]: record for record in records(run_folder(seed), "paired")}
        found[seed] = {
            model: [paired[f"{model}: majority of 16"][key] for key in ("difference", "lo", "hi", "n")]
            for model in ("sft", "rl", "few_sft", "few_rl")
        }
    main = [found[seed]["sft"] for seed in seeds]
    return {
        "ours": sum(row[0] for row in main) / len(main),
        "reference": 0.0,
        "unit": "share of held-out problems gained by voting",
        "difference": min(row[0] for row in main),
        "interval": [min(row[1] for row in main), max(row[2] for row in main)],
        "n": main[0][3],
        "seeds": seeds,
        "details": found,
        "passed": all(row[1] > 0 for row in main),
    }


evidence(
    "spine/votes",
    claim="a majority of 16 beats one sample on the SFT model: paired 95% interval above 0 in every seed",
    run=run,
)
