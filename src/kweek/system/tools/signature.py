"""The signature of a function as a JSON Schema, and arguments from JSON as the types that it names."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import pydantic
from pydantic_core import PydanticSerializationError, to_jsonable_python

from kweek.errors import ConfigError

_ENTRY = re.compile(r"(\*{0,2}\w+)(?: \([^)]*\))?:\s*(.*)")
_HEADS = ("Args:", "Returns:", "Raises:", "Yields:", "Example:", "Examples:", "Note:")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Signature:
    """What a function takes.

    Attributes:
        function: itself.
        description: its docstring up to the section "Args:".
        parameters: a JSON Schema of an object: what is required is what has no default, and nothing else may be given.
    """

    function: Callable[..., Any]
    description: str
    parameters: Mapping[str, Any]
    _adapters: Mapping[str, pydantic.TypeAdapter[Any]]

    @property
    def where(self) -> str:
        """The function's name, for errors."""
        return str(getattr(self.function, "__qualname__", self.function))

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Read hints and docstring.

        Raises:
            ConfigError: a parameter without a hint, or with one that has no JSON Schema; no docstring, or one that
                describes a parameter that there is not; a coroutine.
        """
        where = f"{getattr(function, '__qualname__', function)}()"
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError("a coroutine", where=where, fix="make it an ordinary function")
        description, entries = _described(inspect.getdoc(function) or "")
        if not description:
            raise ConfigError(
                "no docstring", where=where, fix="say what it does: that is all a model knows of it"
            )
        given = inspect.signature(function).parameters
        if unknown := [name for name in entries if name not in given]:
            raise ConfigError(f"the docstring describes {unknown[0]!r}, no parameter", where=where)
        hints = _hints(function, where)
        adapters: dict[str, pydantic.TypeAdapter[Any]] = {}
        for name, parameter in given.items():
            if parameter.kind not in _NAMED:
                raise ConfigError(f"{parameter} has no name", where=where, fix="take arguments by name")
            if name not in hints:
                raise ConfigError(f"{name!r} has no type hint", where=where)
            try:
                adapters[name] = pydantic.TypeAdapter(hints[name])
                adapters[name].json_schema()
            except pydantic.errors.PydanticUserError as error:
                first = str(error).splitlines()[0]
                raise ConfigError(f"the type of {name!r} has no JSON Schema ({first})", where=where) from None
        return cls(function, description, _schema(adapters, given, entries), adapters)

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments as JSON values, as what the hints say; nothing is converted that only looks like it ("3" for 3).

        Raises:
            ConfigError: naming the argument.
        """
        for name in arguments:
            if name not in self._adapters:
                known = ", ".join(self._adapters)
                raise ConfigError("there is no such argument", where=str(name)[:60], fix=f"use {known}")
        bound = {}
        for name, adapter in self._adapters.items():
            if name in arguments:
                try:
                    bound[name] = adapter.validate_json(json.dumps(arguments[name]), strict=True)
                except pydantic.ValidationError as error:
                    first = error.errors(include_url=False, include_input=False)[0]
                    where = ".".join([name, *map(str, first["loc"])])
                    raise ConfigError(first["msg"], where=where) from None
            elif name in self.parameters["required"]:
                raise ConfigError("this argument is missing", where=name)
        return bound


def _hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(f"a type hint cannot be read ({error})", where=where) from None


def _schema(
    adapters: Mapping[str, pydantic.TypeAdapter[Any]],
    given: Mapping[str, inspect.Parameter],
    entries: Mapping[str, str],
) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    inputs = [(name, "validation", adapter) for name, adapter in adapters.items()]
    schemas, shared = pydantic.TypeAdapter.json_schemas(inputs)  # type: ignore[arg-type]
    for name in adapters:
        schema = _untitled(schemas[(name, "validation")])
        if name in entries:
            schema = {"description": entries[name], **schema}
        default = given[name].default
        if default is not inspect.Parameter.empty and default is not None:
            with contextlib.suppress(PydanticSerializationError):  # then only the function knows it
                schema["default"] = to_jsonable_python(default)
        properties[name] = schema
    required = [name for name in adapters if given[name].default is inspect.Parameter.empty]
    whole: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    whole["additionalProperties"] = False
    if definitions := shared.get("$defs"):
        whole["$defs"] = {name: _untitled(schema) for name, schema in definitions.items()}
    return whole


def _untitled(schema: Any, *, names: bool = False) -> Any:
    """Without the titles that pydantic makes of names; under "properties" a title is a name like any other."""
    if isinstance(schema, list):
        return [_untitled(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if not names and key in ("default", "const", "enum"):
            kept[key] = value
        elif names or key != "title":
            kept[key] = _untitled(value, names=key == "properties" and not names)
    return kept


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """What a docstring in Google's style says of the function, and of each parameter."""
    told: list[str] = []
    entries: dict[str, str] = {}
    section, name = "", ""
    for line in docstring.splitlines():
        if line.strip() in _HEADS and not line.startswith(" "):
            section, name = line.strip(), ""
        elif not section:
            told.append(line)
        elif section == "Args:" and line.strip():
            depth = len(line) - len(line.lstrip())
            entry = _ENTRY.fullmatch(line.strip()) if depth <= 4 else None
            if entry:
                name = entry[1]
                entries[name] = entry[2]
            elif name:
                entries[name] += " " + line.strip()
    return "\n".join(told).strip(), entries
