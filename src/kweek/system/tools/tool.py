"""A tool: something that a model may call, made from an ordinary Python function.

@tool(effects={"read"})
def population(city: str, year: int = 2026) -> str:
    \"\"\"How many people live in a city.

    Args:
        city: its name in English.
        year: of the census.
    \"\"\"
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, overload

from kweek.errors import ConfigError
from kweek.store.files import encode_json
from kweek.system.tools.effects import EFFECTS, Effect
from kweek.system.tools.signature import Signature


@dataclass(frozen=True)
class ToolResult:
    """What a call gave.

    Attributes:
        content: what the model reads.
        trusted: whether no stranger can have written any of it.
        error: what went wrong, for the model too; None when nothing did.
        citations: where it comes from.
        cpu_seconds: of the tool, over all threads and processes.
        images: PNG or JPEG files, for models that see.
    """

    content: str
    trusted: bool
    error: str | None = None
    citations: tuple[Any, ...] = ()
    cpu_seconds: float = 0.0
    images: tuple[bytes, ...] = ()

    @classmethod
    def failed(cls, error: str, *, trusted: bool = True) -> ToolResult:
        """A call that gave nothing but what went wrong with it."""
        return cls("", trusted, error)


class Tool(Protocol):
    """Something that a model may call.

    A call may raise anything; `Toolbox` makes an error of it that the model sees. `parameters` is a JSON Schema of an
    object. `effects` is everything that a call may do, whatever its arguments. A tool whose description is a stranger's
    has the attribute `described_by_stranger`, which is true: its words are in the conversation from the beginning.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    @property
    def effects(self) -> frozenset[Effect]: ...

    def __call__(self, arguments: Mapping[str, Any]) -> ToolResult: ...


@dataclass(frozen=True)
class FunctionTool:
    """A `Tool` made from a Python function; what the function is given has the types of its hints.

    Attributes:
        name, description, parameters, effects: see `Tool`.
        trusted: of the results, unless the function itself returns a `ToolResult`.
        signature: of the function.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    effects: frozenset[Effect]
    trusted: bool
    signature: Signature = field(repr=False)

    def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Call the function.

        Raises:
            ConfigError: arguments that are not those of the function.
        """
        found = self.signature.function(**self.signature.bind(arguments))
        if isinstance(found, ToolResult):
            return found
        return ToolResult(found if isinstance(found, str) else encode_json(found), self.trusted)


Function = Callable[..., Any]


@overload
def tool(function: Function) -> FunctionTool: ...


@overload
def tool(
    *, effects: Collection[Effect] = (), trusted: bool | None = None, name: str | None = None
) -> Callable[[Function], FunctionTool]: ...


def tool(
    function: Function | None = None,
    *,
    effects: Collection[Effect] = (),
    trusted: bool | None = None,
    name: str | None = None,
) -> FunctionTool | Callable[[Function], FunctionTool]:
    """Make a tool of a function: its hints become a JSON Schema, its docstring what the model is told.

    Args:
        function: with a hint for every parameter, and a docstring; what it returns is text, or something that can be
            written as JSON, or a `ToolResult`.
        effects: everything that it may do; without any it only computes.
        trusted: whether no stranger can have written what it returns; by default that is so when it neither reads nor
            fetches nor runs anything.
        name: if not the function's own.

    Raises:
        ConfigError: a function of which no tool can be made; says which parameter or line is at fault.
    """
    if function is None:
        return lambda given: tool_of(given, effects, trusted, name)
    return tool_of(function, effects, trusted, name)


def tool_of(
    function: Function, effects: Collection[Effect], trusted: bool | None, name: str | None
) -> FunctionTool:
    """As `tool`, at once."""
    signature = Signature.of(function)
    for effect in effects:
        if effect not in EFFECTS:
            fix = f"use {', '.join(EFFECTS)}"
            raise ConfigError(f"there is no effect {effect!r}", where=f"{signature.where}()", fix=fix)
    if trusted is None:
        trusted = not {"read", "net", "exec"} & set(effects)
    return FunctionTool(
        name or function.__name__,
        signature.description,
        signature.parameters,
        frozenset(effects),
        trusted,
        signature,
    )


def described(tool: Tool) -> dict[str, Any]:
    """A tool as requests of OpenAI's API describe it, and as chat templates show it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
