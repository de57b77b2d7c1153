"""A function with hints and a docstring becomes a tool, and one without does not."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import Field

from kweek.engine.constraints import Vocabulary, compile_tools
from kweek.errors import ConfigError
from kweek.system.tools import ToolResult, described, tool


@dataclass
class Place:
    name: str
    title: str = "city"


@tool(effects={"read"})
def population(
    place: Place, year: Annotated[int, Field(ge=0)] = 2026, kind: Literal["all", "adults"] = "all"
) -> str:
    """How many people live in a place.

    Counted, not estimated.

    Args:
        place: where,
            in one country.
        year: of the census.
    """
    return f"{place.name}/{year}/{kind}"


def test_schema_and_description():
    assert population.name == "population"
    assert population.description == "How many people live in a place.\n\nCounted, not estimated."
    assert population.effects == {"read"} and not population.trusted
    jsonschema.Draft202012Validator.check_schema(population.parameters)
    properties = population.parameters["properties"]
    assert properties["place"]["description"] == "where, in one country."
    assert properties["year"] == {
        "description": "of the census.",
        "default": 2026,
        "minimum": 0,
        "type": "integer",
    }
    assert population.parameters["required"] == ["place"]
    assert population.parameters["additionalProperties"] is False
    # a property called "title" is no title
    assert population.parameters["$defs"]["Place"]["properties"]["title"]["type"] == "string"
    assert described(population)["function"]["name"] == "population"


def test_the_schema_can_be_a_grammar():
    tokens = [bytes([byte]) for byte in range(256)] + [b""]
    compile_tools([described(population)], Vocabulary(tokens, [256]))


def test_arguments_get_the_types_of_the_hints():
    assert population({"place": {"name": "Oslo"}}).content == "Oslo/2026/all"

    @tool
    def day(when: date) -> int:
        """Day of the month."""
        return when.day

    assert day({"when": "2026-11-22"}) == ToolResult("22", trusted=True)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"place": {"name": "Oslo"}, "year": "1"}, "year"),
        ({"place": {"name": "Oslo"}, "year": -1}, "year"),
        ({"place": {}}, "place.name"),
        ({}, "place"),
        ({"place": {"name": "Oslo"}, "other": 1}, "other"),
    ],
)
def test_wrong_arguments_are_named(arguments, where):
    with pytest.raises(ConfigError) as caught:
        population(arguments)
    assert caught.value.where == where


def test_what_is_returned():
    @tool
    def table() -> dict[str, int]:
        """A table."""
        return {"a": 1}

    @tool
    def own() -> ToolResult:
        """Its own result."""
        return ToolResult("x", trusted=False, citations=("c",))

    assert table({}).content == '{"a": 1}'
    assert own({}).citations == ("c",)


def no_docstring(x: int) -> int:
    return x


def no_hint(x) -> int:
    """A."""
    return x


def starred(*x: int) -> int:
    """A."""
    return len(x)


def misdescribed(x: int) -> int:
    """A.

    Args:
        y: gone.
    """
    return x


async def waits(x: int) -> int:
    """A."""
    return x


@pytest.mark.parametrize(
    "function", [no_docstring, no_hint, starred, misdescribed, waits], ids=lambda f: f.__name__
)
def test_no_tool_can_be_made_of(function):
    with pytest.raises(ConfigError, match=function.__name__):
        tool(function)


def test_effects_must_be_known():
    with pytest.raises(ConfigError, match="fly"):
        tool(effects={"fly"})(population.signature.function)
