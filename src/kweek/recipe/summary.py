"""RUN/summary.json: what came of a run, collected from its artifacts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from kweek.recipe.folder import RunFolder
from kweek.recipe.plan import frozen_forecast
from kweek.recipe.schema import Recipe
from kweek.store.artifact import Artifact
from kweek.store.files import write_json


def _stage_line(
    folder: RunFolder, name: str, kind: str, status: str, artifact: Artifact | None
) -> dict[str, Any]:
    ledger = artifact.ledger if artifact else {}
    return {
        "name": name,
        "kind": kind,
        "status": status,
        "seconds": ledger.get("seconds"),
        "cpu_seconds": ledger.get("cpu_seconds"),
        "flop": ledger.get("flop_total"),
        "artifact": f"artifacts/{name}" if artifact else None,
        "planned_seconds": folder.started(name).get("planned_seconds"),
    }


def next_commands(recipe: Recipe, folder: RunFolder, status: str, has_model: bool, command: str) -> list[str]:
    """What to type next: go on where a run stopped, else talk to the model and train on one's own text."""
    if status != "done":
        return [command]
    chat = [shlex.join(["kweek", "chat", str(folder.path)])] if has_model else []
    own = any("folder" in type(stage.config).model_fields for stage in recipe.stages.values())
    words = shlex.split(command)
    source = shlex.quote(words[2]) if len(words) > 2 else recipe.name  # a path stays a path
    return chat + ([f"kweek run {source} --corpus FOLDER --out runs/mine"] if own else [])


def write_summary(
    folder: RunFolder,
    recipe: Recipe,
    fingerprints: Mapping[str, str],
    statuses: Mapping[str, str],
    status: str,
    command: str,
) -> dict[str, Any]:
    """Write and return the summary of a run as it stands.

    Args:
        folder: the run.
        recipe: what is run.
        fingerprints: of every stage; artifacts with others do not belong to this run.
        statuses: of every stage: done, cached, running, waiting, stopped, failed.
        status: of the run: running, done, interrupted, failed.
        command: what continues the run.
    """
    artifacts = {name: folder.finished(name, fingerprints[name]) for name in recipe.order()}
    summary: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "status": status,
        "stages": [
            _stage_line(folder, name, recipe.stages[name].kind, statuses[name], artifact)
            for name, artifact in artifacts.items()
        ],
        "forecast": None,
        "outcome": {},
        "tasks": {},
        "sizes": {},
    }
    for name, artifact in artifacts.items():
        if artifact is None:
            continue
        kind, metrics = recipe.stages[name].kind, artifact.metrics
        if kind == "scale" and (forecast := frozen_forecast(metrics)):
            summary["forecast"] = {"bits_per_byte": forecast}
        if kind == "pretrain" and "bits_per_byte" in metrics:
            summary["outcome"]["bits_per_byte"] = metrics["bits_per_byte"]
        if kind in ("evaluate", "behaviour", "appraise"):
            summary["tasks"].update(metrics.get("tasks", {}))
        if "num_bytes" in metrics:
            summary["sizes"][name] = metrics["num_bytes"]
    summary["next"] = next_commands(recipe, folder, status, bool(summary["sizes"]), command)
    write_json(folder.summary_json, summary)
    return summary
