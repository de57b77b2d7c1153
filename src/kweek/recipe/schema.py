"""The recipe: stages with names, kinds and inputs by name; the same in YAML and in Python.

    recipe = Recipe(name="mine", stages={"text": Stage(kind="corpus", config=corpus.Config(folder="docs"))})

is what `parse` makes of the YAML text

    name: mine
    stages:
      text: {kind: corpus, folder: docs}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from kweek.errors import ConfigError
from kweek.recipe.budget import Budget
from kweek.recipe.context import StageConfig
from kweek.recipe.registry import load_kind, nearest
from kweek.recipe.text import KeyPath, Source

M = TypeVar("M", bound=BaseModel)

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
#: Keys of a stage that are not its configuration.
_STAGE_KEYS = ("kind", "inputs")


class Prior(BaseModel):
    """What a recipe expects to reach before anything was measured on this machine: bits per byte."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    lo: float = Field(description="lower end of the interval, bits per byte")
    mid: float = Field(description="expected value, bits per byte")
    hi: float = Field(description="upper end of the interval, bits per byte")
    reason: str = Field("", description="where these figures come from")


class Stage(BaseModel):
    """One step: its kind, the stages it takes its inputs from (by role), and its configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    inputs: dict[str, str] = {}
    config: SerializeAsAny[StageConfig]


class Head(BaseModel):
    """The keys of a recipe that are plain values."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str = Field(description="the recipe's name")
    description: str = Field("", description="one line on what it makes")
    seed: int = Field(
        0, ge=0, description="the one seed that everything is derived from, a whole number from 0"
    )
    prior: Prior | None = Field(None, description="bits per byte expected before anything is measured")


class Recipe(Head):
    """A whole run.

    Raises:
        ConfigError: at construction, for a bad stage name, an input that is no stage, a role that the kind
            does not take or lacks, or a cycle.
    """

    budget: Budget | None = Field(None, description="10min, 2h, 1e15FLOP: stages derive their sizes from it")
    stages: dict[str, Stage] = Field(description="the stages by name")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_graph(self.stages, Source({}, "recipe"))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the form of the YAML file, every key of every stage with its value."""
        plain: dict[str, Any] = {"name": self.name, "description": self.description, "seed": self.seed}
        plain["budget"] = None if self.budget is None else str(self.budget)
        plain["prior"] = None if self.prior is None else self.prior.model_dump()
        plain["stages"] = {
            name: {"kind": stage.kind, "inputs": dict(stage.inputs), **stage.config.model_dump(mode="json")}
            for name, stage in self.stages.items()
        }
        return plain

    def order(self) -> list[str]:
        """Stage names, every stage after its inputs, otherwise as written."""
        return topological(self.stages)


def topological(stages: Mapping[str, Stage], source: Source | None = None) -> list[str]:
    """Stage names with inputs first.

    Raises:
        ConfigError: a cycle; names its stages.
    """
    done: list[str] = []
    open_path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in open_path:
            circle = " -> ".join([*open_path[open_path.index(name) :], name])
            where = source.where(("stages", name)) if source else f"stages.{name}"
            raise ConfigError(
                f"stages need each other in a circle: {circle}", where=where, fix="cut one input"
            )
        open_path.append(name)
        for upstream in stages[name].inputs.values():
            visit(upstream)
        open_path.pop()
        done.append(name)

    for name in stages:
        visit(name)
    return done


def check_graph(stages: Mapping[str, Stage], source: Source) -> None:
    """Check names, inputs, roles and order of a recipe's stages.

    Raises:
        ConfigError: names the key, its line where `source` knows it, and the nearest valid name.
    """
    if not stages:
        raise ConfigError("no stages", where=source.where(("stages",)), fix="add at least one")
    for name, stage in stages.items():
        if not _NAME.match(name):
            raise ConfigError(
                f"{name!r} is not a stage name",
                where=source.where(("stages", name)),
                fix="use lower-case letters, digits and _, a letter first",
            )
        roles = stage.config.roles
        for role, upstream in stage.inputs.items():
            where = source.where(("stages", name, "inputs", role))
            if upstream not in stages:
                fix = nearest(upstream, [other for other in stages if other != name])
                raise ConfigError(f"input {upstream!r} is not a stage", where=where, fix=fix)
            if role == "budget" or (roles is not None and role not in roles and "*" not in roles):
                valid = [known for known in roles or () if known != "*"]
                raise ConfigError(
                    f"kind {stage.kind!r} takes no input {role!r}", where=where, fix=nearest(role, valid)
                )
        for role, needed in (roles or {}).items():
            if role != "*" and needed.required and role not in stage.inputs:
                raise ConfigError(
                    f"kind {stage.kind!r} needs the input {role!r} ({needed.doc})",
                    where=source.where(("stages", name, "inputs")),
                    fix=f"add {role}: NAME_OF_A_STAGE",
                )
    topological(stages, source)


def explain(error: ValidationError, model: type[BaseModel], source: Source, path: KeyPath) -> ConfigError:
    """Turn pydantic's findings into one line: the first, its key and place, the remedy, how many more."""
    findings = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = findings[0]
    place = tuple(str(part) for part in first["loc"])
    where = source.where((*path, *place))
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    if first["type"] == "extra_forbidden":
        valid = _fields_at(model, place[:-1])
        return ConfigError(f"unknown key {place[-1]!r}{more}", where=where, fix=nearest(place[-1], valid))
    if first["type"] == "missing":
        return ConfigError(f"missing{more}", where=where, fix="give it a value")
    expected = first["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    found = json.dumps(first["input"], default=str)
    found = found if len(found) <= 60 else found[:57] + "..."
    field = model.model_fields.get(place[0]) if place else None
    doc = f"it means: {field.description}" if field is not None and field.description else "correct it"
    return ConfigError(f"{expected}, found {found}{more}", where=where, fix=doc)


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Valid keys of `model` below `path`, as far as they are models; empty where unknown."""
    for part in path:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        inner = [
            t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _plain_numbers(value: Any) -> Any:
    """Whole floats as integers, so that `tokens: 2e6` is a count; validation takes them as floats too."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_numbers(inner) for inner in value]
    return value


def _validate(model: type[M], data: Any, source: Source, path: KeyPath) -> M:
    """Strict validation by way of JSON: no text for numbers, no numbers for text, lists for tuples."""
    try:
        return model.model_validate_json(json.dumps(_plain_numbers(data)), strict=True)
    except ValidationError as error:
        raise explain(error, model, source, path) from error


class _Inputs(BaseModel):
    inputs: dict[str, str] = Field({}, description="the name of a stage for every role")


def parse_stage(name: str, data: Any, source: Source) -> Stage:
    """Make one stage of its plain data; imports the module of its kind and no other.

    Raises:
        ConfigError: an unknown kind or key, or a wrong type.
    """
    path = ("stages", name)
    if not isinstance(data, Mapping):
        raise ConfigError("expected the keys of a stage", where=source.where(path), fix="write kind: KIND")
    kind = data.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(
            "a stage needs its kind", where=source.where((*path, "kind")), fix="write kind: KIND"
        )
    loaded = load_kind(kind, source.where((*path, "kind")))
    inputs = _validate(_Inputs, {"inputs": data.get("inputs") or {}}, source, path).inputs
    keys = {key: value for key, value in data.items() if key not in _STAGE_KEYS}
    return Stage(kind=kind, inputs=inputs, config=_validate(loaded.config, keys, source, path))


def parse(source: Source) -> Recipe:
    """Make a recipe of plain data in the form of the YAML file.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad graph; names the key, its line and the remedy.
    """
    data = source.data
    for key in data:
        if key not in Recipe.model_fields:
            fix = nearest(str(key), list(Recipe.model_fields))
            raise ConfigError(f"unknown key {key!r}", where=source.where((str(key),)), fix=fix)
    if not isinstance(data.get("stages"), Mapping):
        raise ConfigError("expected stages by name", where=source.where(("stages",)), fix="write stages:")
    stages = {str(name): parse_stage(str(name), stage, source) for name, stage in data["stages"].items()}
    check_graph(stages, source)
    budget = data.get("budget")
    head = _validate(Head, {k: v for k, v in data.items() if k not in ("stages", "budget")}, source, ())
    spend = None if budget is None else Budget.parse(budget, source.where(("budget",)))
    return Recipe(**dict(head), budget=spend, stages=stages)
