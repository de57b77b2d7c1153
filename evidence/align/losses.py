"""Every algorithm: loss and gradient against independent references, its known optimum, its row on a common task."""

from __future__ import annotations

import json
from typing import Any

import common_policies
import common_task
import loss_batch
import tabular
import tabular_policies
import torch
from harness import evidence, kept
from loss_cases import Case, cases, difference, ours, peers, theirs

TOLERANCE = 1e-6


def compared(case: Case) -> dict[str, Any]:
    """Distances of loss and gradient from the paper's formula and, where it has the algorithm, from TRL."""
    exact = ours(case, torch.float64)
    reference = theirs(case)
    against = {"the paper's formula": difference(exact, reference)}
    if case.trl is not None:
        against["TRL"] = difference(exact, peers(case))
    single = difference(ours(case, torch.float32), reference)
    return {
        "algorithm": case.name,
        **{name: {"loss": pair[0], "gradient": pair[1]} for name, pair in against.items()},
        "in fp32": {"loss": single[0], "gradient": single[1]},
        "passed": all(value <= TOLERANCE for pair in against.values() for value in pair),
    }


def solved(seed: int) -> list[dict[str, Any]]:
    """The tabular problems of one seed."""
    found = [problem(seed) for problem in (*tabular.PROBLEMS, *tabular_policies.PROBLEMS)]
    return [
        {"algorithm": one.algorithm, "optimum": one.optimum, "distance": one.distance, "seed": seed,
         "passed": one.passed}
        for one in found
    ]  # fmt: skip


def run(quick: bool) -> dict[str, Any]:
    """All algorithms; the tables under one seed, the common task under three, or one when quick."""
    torch.set_num_threads(1)
    seeds = [0] if quick else [0, 1, 2]
    losses = [compared(case) for case in cases(loss_batch.load())]
    optima = kept("align/losses", "tables-0", solved, 0)
    updates = common_task.UPDATES // (4 if quick else 1)
    rows = common_task.ROWS | common_policies.rows()
    tables = [
        kept("align/losses", f"task-{seed}-{updates}", common_task.table, rows, seed, updates)
        for seed in seeds
    ]
    versions = json.loads((loss_batch.FOLDER / "trl.json").read_text())["versions"]
    worst = max(
        value
        for row in losses
        for name in ("the paper's formula", "TRL")
        if name in row
        for value in row[name].values()
    )
    return {
        "ours": worst,
        "reference": TOLERANCE,
        "unit": "largest difference of a loss or (relative to the largest, where above 1) of a gradient",
        "difference": max(row["distance"] for row in optima),
        "interval": None,
        "n": len(losses),
        "seeds": seeds,
        "details": {
            "losses and gradients": losses,
            "TRL": versions,
            "tabular optima": optima,
            "common task": common_task.means(tables),
        },
        "passed": all(row["passed"] for row in [*losses, *optima]),
    }


if __name__ == "__main__":
    evidence(
        "align/losses",
        claim="every algorithm's loss and gradient equal an independent reference to 1e-6 on a stored batch, and each "
        "reaches the known optimum of a tabular problem",
        run=run,
    )
