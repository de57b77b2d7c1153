"""What a stage is given and what it must provide.

A stage is one module (`kweek.recipe.stages.<kind>`, or any importable module named by its dotted path) with

    class Config(StageConfig)                       every key declared with `setting(default, doc=, reason=)`
    def run(ctx: StageContext) -> None              writes its artifact through `ctx.out`
    def estimate(config, machine_peak, inputs) -> Estimate
    def external(config) -> str                     optional: fingerprint of what it reads outside the run

`run` is called in a process of its own. It asks `ctx.should_stop()` between steps; when that is true, it
saves what it needs below `ctx.state` and raises `kweek.errors.Interrupted`. After a kill it is called again
with the same `ctx.state`, and must then reach the same artifact to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from kweek.compute.hardware import Peak
    from kweek.compute.ledger import Ledger
    from kweek.protocols import Progress, ShouldStop
    from kweek.store.artifact import Artifact, ArtifactWriter
    from kweek.store.records import Records


def setting(default: Any = ..., *, doc: str, reason: str, **constraints: Any) -> Any:
    """Declare one key of a stage's configuration.

    Args:
        default: the default value; leave out when the user must give one.
        doc: what the key means, with its unit.
        reason: why the default is what it is, one line.
        constraints: what `pydantic.Field` takes (`gt=0`, `le=1`, ...).
    """
    return Field(default, description=doc, json_schema_extra={"reason": reason}, **constraints)


class Role(NamedTuple):
    """One input a stage kind takes: what it is for, and whether it may be left out."""

    doc: str
    required: bool = True


class StageConfig(BaseModel):
    """Root of all stage configurations: immutable, unknown keys refused, part of the stage's fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    #: True when `run` or `estimate` reads the budget; only then is it given, and part of the fingerprint.
    uses_budget: ClassVar[bool] = False
    #: The inputs by role; the role "*" stands for any further ones; None means unchecked.
    roles: ClassVar[Mapping[str, Role] | None] = None

    threads: Literal[1, "all"] = setting(
        "all",
        doc="CPU threads the stage occupies: 1, or all that the run may use",
        reason="a stage that cannot share the machine is the safe assumption",
    )


@dataclass(frozen=True)
class Estimate:
    """What a stage is expected to cost.

    `values` are figures that later stages need for their own estimates (`num_parameters`, `num_tokens`, ...);
    they reach them as `inputs[role][name]`.
    """

    flop: float
    seconds: float
    memory_bytes: float
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """Everything a running stage may touch.

    Attributes:
        name: the stage's name in the recipe.
        config: the stage's own `Config`.
        inputs: finished artifacts by role.
        out: the artifact being written; it appears whole after `run` returns, or not at all.
        records: append-only records of this stage; after a kill they still hold what was written, so a stage
            that goes on from a checkpoint first rewinds them to it.
        state: folder that survives a kill and is emptied when the fingerprint changes or the stage is done.
            The file names `stage.json`, `ledger.json` and `stderr.txt` in it are taken.
        progress: receives how far the stage is.
        should_stop: true when the user wants to stop.
        ledger: cost so far, earlier attempts included; time is added by the worker, FLOP by the stage.
        seed: the recipe's one seed.
        threads: CPU threads the stage may use; torch is already set to it.
        budget_seconds, budget_flop: the recipe's budget, at most one of them set, and only for a
            `Config` with `uses_budget`.
        machine_peak: measured peak of this machine with `threads` threads, frozen at the stage's first start.
    """

    name: str
    config: Any
    inputs: Mapping[str, Artifact]
    out: ArtifactWriter
    records: Records
    state: Path
    progress: Progress
    should_stop: ShouldStop
    ledger: Ledger
    seed: int
    threads: int
    budget_seconds: float | None
    budget_flop: float | None
    machine_peak: Peak
