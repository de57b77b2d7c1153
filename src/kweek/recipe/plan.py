"""What a run will cost and reach, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kweek.compute.hardware import Peak
from kweek.recipe.context import Estimate
from kweek.recipe.folder import RunFolder
from kweek.recipe.identity import fingerprints
from kweek.recipe.machine import machine_peaks
from kweek.recipe.registry import load_kind
from kweek.recipe.schedule import simulate, threads_needed
from kweek.recipe.schema import Recipe
from kweek.store.artifact import Artifact


@dataclass(frozen=True)
class PlannedStage:
    """One line of the plan. Costs are those of running the whole stage, also when it is cached and will not
    run, or `resumes` where an earlier start was stopped.
    """

    name: str
    kind: str
    threads: int
    fingerprint: str
    cached: bool
    resumes: bool
    flop: float
    seconds: float
    memory_bytes: float
    values: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The plan of a run: its stages, and what is still to be spent.

    `seconds` is wall time with stages side by side; `forecast` is in bits per byte, `forecast_source` is
    "scale" when it was fitted on this machine, "recipe" when it is the recipe's stated prior.
    """

    recipe: str
    threads: int
    stages: tuple[PlannedStage, ...]
    flop: float
    seconds: float
    memory_bytes: float
    forecast: dict[str, float] | None
    forecast_source: str | None
    peak: Peak

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; nothing is ever downloaded by a run, so `download_bytes` is 0."""
        return {**asdict(self), "download_bytes": 0}


def frozen_forecast(metrics: Mapping[str, Any]) -> dict[str, float] | None:
    """The forecast that a `scale` artifact froze: lo, mid, hi in bits per byte."""
    found = metrics.get("forecast")
    return {end: float(found[end]) for end in ("lo", "mid", "hi")} if isinstance(found, Mapping) else None


def _forecast(
    recipe: Recipe, artifacts: Mapping[str, Artifact]
) -> tuple[dict[str, float] | None, str | None]:
    for name, artifact in artifacts.items():
        if recipe.stages[name].kind == "scale" and (found := frozen_forecast(artifact.metrics)):
            return found, "scale"
    if recipe.prior is not None:
        return {"lo": recipe.prior.lo, "mid": recipe.prior.mid, "hi": recipe.prior.hi}, "recipe"
    return None, None


def make_plan(
    recipe: Recipe, folder: RunFolder, threads: int, *, verify: Literal["size", "hash"] = "size"
) -> Plan:
    """Plan a run: measure the machine where that is due, ask every stage, see what is cached.

    Before a run, cached artifacts are verified down to their hashes (`verify="hash"`).

    A stage's estimate sees, for every input role, the values of that input's own estimate, and over them the
    metrics of its artifact where that is finished; under the role "budget" {"seconds", "flop"} of the budget.

    Raises:
        ConfigError: a kind that cannot be loaded.
    """
    peaks = machine_peaks(folder, threads)
    prints = fingerprints(recipe)
    known: dict[str, dict[str, Any]] = {}
    artifacts: dict[str, Artifact] = {}
    planned: list[PlannedStage] = []
    for name in recipe.order():
        stage = recipe.stages[name]
        kind = load_kind(stage.kind)
        needed = threads_needed(recipe, name, threads)
        inputs: dict[str, Any] = {role: known[upstream] for role, upstream in stage.inputs.items()}
        budget = recipe.budget if kind.config.uses_budget else None
        inputs["budget"] = {"seconds": budget and budget.seconds, "flop": budget and budget.flop}
        estimate: Estimate = kind.estimate(stage.config, peaks[needed], inputs)
        known[name] = dict(estimate.values)
        artifact = folder.finished(name, prints[name], verify=verify)
        if artifact is not None:
            artifacts[name] = artifact
            known[name].update(artifact.metrics)
        resumes = artifact is None and folder.started(name).get("fingerprint") == prints[name]
        planned.append(
            PlannedStage(
                name=name,
                kind=stage.kind,
                threads=needed,
                fingerprint=prints[name],
                cached=artifact is not None,
                resumes=resumes,
                flop=estimate.flop,
                seconds=estimate.seconds,
                memory_bytes=estimate.memory_bytes,
                values=estimate.values,
            )
        )
    todo = [stage for stage in planned if not stage.cached]
    seconds, memory = simulate(
        recipe,
        [stage.name for stage in todo],
        {stage.name: stage.seconds for stage in todo},
        {stage.name: stage.memory_bytes for stage in todo},
        threads,
    )
    forecast, source = _forecast(recipe, artifacts)
    return Plan(
        recipe=recipe.name,
        threads=threads,
        stages=tuple(planned),
        flop=sum(stage.flop for stage in todo),
        seconds=seconds,
        memory_bytes=memory,
        forecast=forecast,
        forecast_source=source,
        peak=peaks[threads],
    )
