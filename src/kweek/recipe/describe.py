"""Every key of a recipe with its value, default, meaning and reason, as plain data."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticUndefined, to_jsonable_python

from kweek.recipe.context import StageConfig
from kweek.recipe.schema import Recipe, Stage


def describe_keys(config: StageConfig) -> list[dict[str, Any]]:
    """Keys of a stage's configuration: {"key", "value", "default", "required", "doc", "reason"}."""
    values = config.model_dump(mode="json")
    rows = []
    for name, field in type(config).model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        rows.append(
            {
                "key": name,
                "value": values[name],
                "default": None if default is PydanticUndefined else to_jsonable_python(default),
                "required": field.is_required(),
                "doc": field.description or "",
                "reason": str(extra.get("reason", "")),
            }
        )
    return rows


def _describe_inputs(stage: Stage) -> list[dict[str, Any]]:
    """Roles a stage takes, with the stage that fills each: {"role", "stage", "required", "doc"}."""
    roles = stage.config.roles or {}
    rows = []
    for role in dict.fromkeys([*roles, *stage.inputs]):
        if role == "*":
            continue
        known = roles.get(role, roles.get("*"))
        rows.append(
            {
                "role": role,
                "stage": stage.inputs.get(role),
                "required": bool(known and known.required and role in roles),
                "doc": known.doc if known else "",
            }
        )
    return rows


def describe(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe: {"name", "description", "keys", "stages": [{"name", "kind", "inputs", "keys"}]}."""
    plain = recipe.to_dict()
    head = [
        {"key": name, "value": plain[name], "doc": field.description or ""}
        for name, field in type(recipe).model_fields.items()
        if name not in ("name", "description", "stages")
    ]
    stages = [
        {
            "name": name,
            "kind": stage.kind,
            "inputs": _describe_inputs(stage),
            "keys": describe_keys(stage.config),
        }
        for name, stage in recipe.stages.items()
    ]
    return {"name": recipe.name, "description": recipe.description.strip(), "keys": head, "stages": stages}
