"""Tools of an environment: called through messages, their results messages of the role "tool".

A call that cannot be read is told to the model, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kweek.compute.isolation import Failure, Isolated
from kweek.system.arithmetic import Unreadable, evaluate, written

MAX_RESULT_CHARS = 2_000  # a longer result would fill the context of a small model
MAX_CALLS = 8  # in one message


class BadCall(Exception):
    """A call that cannot be read or made; its text is for the model."""


@dataclass(frozen=True)
class Tool:
    """Something that a model may call.

    Attributes:
        name, description, parameters: as in OpenAI's API; parameters are a JSON Schema of an object.
        run: takes the arguments by name, gives a text.
        seconds: of one call, in a process of its own; None runs it here, for tools that are known to be quick.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[..., str] = field(repr=False)
    seconds: float | None = None

    def __post_init__(self) -> None:
        apart = None if self.seconds is None else Isolated(self.run, adaptor=by_name, seconds=self.seconds)
        object.__setattr__(self, "_apart", apart)

    def call(self, arguments: Mapping[str, Any]) -> str:
        """The result, shortened where it is long. Raises BadCall."""
        apart: Isolated | None = getattr(self, "_apart", None)
        try:
            result = str(self.run(**arguments) if apart is None else apart(dict(arguments)))
        except Failure as error:
            raise BadCall(str(error)) from None
        except Exception as error:
            raise BadCall(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from None
        return result if len(result) <= MAX_RESULT_CHARS else result[:MAX_RESULT_CHARS] + " … (cut)"

    @property
    def described(self) -> dict[str, Any]:
        """As a request of OpenAI's API describes it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def by_name(run: Callable[..., str]) -> Callable[[Any], Any]:
    """A tool's function as its process runs it."""
    return lambda arguments: str(run(**arguments))


def calculate(expression: str) -> str:
    """The value of a sum, difference, product or quotient, with brackets.

    Raises:
        ValueError: it is no such expression.
    """
    try:
        return written(evaluate(expression))
    except Unreadable:
        raise ValueError(f"{expression[:40]!r} is no expression of numbers, + - * / and brackets") from None


CALCULATOR = Tool(
    "calculator",
    "Compute an expression of numbers, + - * / and brackets.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    calculate,
)
