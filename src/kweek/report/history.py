"""The history of a run: what its folder says, read forgivingly.

A recipe that stopped half-way has no summary of some stages and no records of others, and the report is
read most eagerly then. So everything here may be missing; a field of a wrong type counts as missing, and a
file that cannot be read is named in `faults` instead of ending the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kweek.errors import KweekError, StoreError
from kweek.store.files import read_json
from kweek.store.records import Records

LARGEST = 1e100  # no quantity of a run comes near; what is beyond is damage, and sums of it would overflow


@dataclass(frozen=True)
class Fields:
    """A JSON object of unknown make, asked for one field at a time."""

    values: Mapping[str, Any]

    def number(self, key: str) -> float | None:
        """A finite number, else None."""
        return as_number(self.values.get(key))

    def text(self, key: str) -> str | None:
        """A string that is not empty, else None."""
        found = self.values.get(key)
        return found if isinstance(found, str) and found else None

    def name(self, key: str) -> str:
        """A string or number as a name; a question mark where there is none."""
        found = self.values.get(key)
        return found or "?" if isinstance(found, str) else "?" if found is None else str(found)[:80]

    def flag(self, key: str) -> bool | None:
        """True, false, or None."""
        found = self.values.get(key)
        return found if isinstance(found, bool) else None

    def inner(self, key: str) -> Fields:
        """An object within; empty where there is none."""
        found = self.values.get(key)
        return Fields(found if isinstance(found, Mapping) else {})

    def items(self, key: str) -> list[Fields]:
        """A list of objects within; whatever in it is no object is dropped."""
        found = self.values.get(key)
        return (
            [Fields(item) for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
        )

    def numbers(self) -> dict[str, float]:
        """Those fields that are finite numbers."""
        pairs = ((str(key), as_number(value)) for key, value in self.values.items())
        return {key: value for key, value in pairs if value is not None}

    def numbers_of(self, key: str) -> list[float]:
        """A list of finite numbers within; whatever in it is none is dropped."""
        found = self.values.get(key)
        if not isinstance(found, list):
            return []
        return [number for item in found if (number := as_number(item)) is not None]

    def texts(self, key: str) -> list[str]:
        """A list of strings within."""
        found = self.values.get(key)
        return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


@dataclass(frozen=True)
class Record(Fields):
    """One line of a stage's records."""

    stage: str = ""

    @property
    def kind(self) -> str:
        return self.name("kind")


@dataclass(frozen=True)
class Stage:
    """One stage: what the recipe, the summary and the artifact say of it."""

    name: str
    kind: str
    status: str
    inputs: Mapping[str, str]
    settings: Fields
    summary: Fields
    artifact: Fields

    @property
    def finished(self) -> bool:
        """Whether its artifact is there; a manifest is written last, so it is there when the stage is done."""
        return bool(self.artifact.values)

    @property
    def fingerprint(self) -> str:
        return self.artifact.text("fingerprint") or ""

    @property
    def ledger(self) -> Fields:
        return self.artifact.inner("ledger")

    @property
    def flop(self) -> float | None:
        """Operations in 16-bit equivalents; the summary's figure is not converted, so it is no substitute."""
        return self.ledger.number("flop_standardised")

    def cost(self, key: str) -> float | None:
        """A figure of cost: of the ledger, else of the summary."""
        of_ledger = self.ledger.number(key)
        return self.summary.number(key) if of_ledger is None else of_ledger


@dataclass(frozen=True)
class History:
    """Everything the report is made from."""

    path: Path
    run: Fields
    summary: Fields
    stages: list[Stage]
    records: list[Record]
    machine: Fields = field(default_factory=lambda: Fields({}))
    faults: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Fields:
        """The recipe with every key resolved, nested in run.json or spread over it."""
        nested = self.run.inner("recipe")
        return nested if nested.values else self.run

    @property
    def recipe_name(self) -> str:
        return self.summary.text("recipe") or self.recipe.text("name") or self.run.text("recipe") or "unnamed"

    @property
    def seed(self) -> float | None:
        found = self.summary.number("seed")
        return self.recipe.number("seed") if found is None else found

    def of(self, kind: str, stage: str | None = None) -> list[Record]:
        """Records of a kind in the order written, stages in the order of the recipe."""
        return [r for r in self.records if r.kind == kind and stage in (None, r.stage)]

    def last(self, kind: str, stage: str | None = None) -> Record | None:
        """The newest record of a kind."""
        found = self.of(kind, stage)
        return found[-1] if found else None

    def stages_with(self, kind: str) -> list[str]:
        """Names of the stages that wrote records of a kind."""
        return list(dict.fromkeys(record.stage for record in self.of(kind)))

    def stage(self, name: str) -> Stage | None:
        """The stage of a name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def ended(self) -> datetime | None:
        """When the newest record was written, in UTC."""
        times = [moment for record in self.records if (moment := _moment(record.values.get("time")))]
        return max(times, default=None)


def read_history(run: Path) -> History:
    """Read a run folder.

    Raises:
        StoreError: there is no such folder.
    """
    if not run.is_dir():
        raise StoreError("no such run folder", where=str(run), fix="name the folder of a run")
    faults: list[str] = []
    head, summary, machine = (
        _object(run / name, faults) for name in ("run.json", "summary.json", "machine.json")
    )
    plan = _plan(head)
    written = {item.name("name"): item for item in summary.items("stages")}
    manifests = {path.parent.name: path for path in sorted(run.glob("artifacts/[!.]*/artifact.json"))}
    files = {path.stem: path for path in sorted(run.glob("records/[!.]*.jsonl"))}
    stages: list[Stage] = []
    records: list[Record] = []
    for name in dict.fromkeys([*plan, *written, *manifests, *files]):
        wanted = head.inner("fingerprints").text(name)
        manifest = _object(manifests[name], faults) if name in manifests else Fields({})
        if wanted and manifest.text("fingerprint") not in (None, wanted):
            manifest = Fields({})  # of an earlier recipe in the same folder
        started = _object(run / "state" / name / "stage.json", faults).text("fingerprint")
        stages.append(_stage(name, plan.get(name, Fields({})), written.get(name, Fields({})), manifest))
        if name in files and not (wanted and started and started != wanted):
            records += _lines(files[name], name, faults)
    return History(run, head, summary, stages, records, machine, faults)


def _stage(name: str, planned: Fields, written: Fields, manifest: Fields) -> Stage:
    kind = written.text("kind") or planned.text("kind") or manifest.text("kind") or ""
    inputs = planned.inner("inputs")
    named = {str(role): source for role in inputs.values if (source := inputs.text(str(role)))}
    status = written.text("status") or ("done" if manifest.values else "not finished")
    return Stage(name, kind, status, named, planned, written, manifest)


def as_number(found: object) -> float | None:
    """A finite number of a size that can be meant, else None; true and false are no numbers."""
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    try:
        number = float(found)
    except OverflowError:
        return None
    if not math.isfinite(number) or abs(number) > LARGEST:
        return None
    return number if abs(number) > 1 / LARGEST else 0.0


def _plan(head: Fields) -> dict[str, Fields]:
    """Stages of the recipe by name, whether it lists them or maps them."""
    recipe = head.inner("recipe") if head.inner("recipe").values else head
    listed = recipe.items("stages")
    if listed:
        return {item.name("name"): item for item in listed}
    mapped = recipe.inner("stages")
    return {str(name): mapped.inner(name) for name in mapped.values}


def _read(path: Path, reader: Callable[[Path], Any], faults: list[str]) -> Any:
    try:
        return reader(path)
    except FileNotFoundError:
        return None
    except (KweekError, OSError, ValueError, RecursionError) as error:
        faults.append(f"{path.parent.name}/{path.name}: {error}")
        return None


def _object(path: Path, faults: list[str]) -> Fields:
    if not path.exists():
        return Fields({})
    found = _read(path, read_json, faults)
    if found is not None and not isinstance(found, dict):
        faults.append(f"{path.parent.name}/{path.name}: expected an object")
    return Fields(found if isinstance(found, dict) else {})


def _lines(path: Path, stage: str, faults: list[str]) -> list[Record]:
    found = _read(path, Records.read, faults) or []
    return [Record(line, stage) for line in found if isinstance(line, dict)]


def _moment(found: object) -> datetime | None:
    """A time in seconds since 1970 or in ISO 8601."""
    number = as_number(found)
    try:
        if number is not None:
            return datetime.fromtimestamp(number, UTC)
        if isinstance(found, str):
            moment = datetime.fromisoformat(found)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
