"""Calls of tools in a run: what a trace keeps of them, and what is said of one whose outcome nobody knows."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kweek.system.cost import Cost
from kweek.system.tools.tool import ToolResult

if TYPE_CHECKING:
    from kweek.system.context import Context

#: Processor time that must be left for a call to be made: what it really takes is known afterwards.
LEAST = Cost(tool_cpu_seconds=0.001)
#: Effects that a call may have twice without harm.
HARMLESS = frozenset({"read"})


@runtime_checkable
class Nested(Protocol):
    """A tool that is a whole system: it runs in a branch of the run that calls it, within its budget and trace."""

    def answer_in(self, context: Context, arguments: Mapping[str, Any]) -> ToolResult:
        """What it answers."""
        ...


def unknown(name: str) -> ToolResult:
    """The result of a call that had begun when the run was cut off."""
    return ToolResult.failed(
        f"the run was cut off while {name} was being called: whether it did anything is not known, and it was not "
        "called again"
    )


def as_data(result: ToolResult) -> dict[str, Any]:
    """A result as JSON data."""
    return {
        "gen_ai.tool.call.result": result.content,
        "trusted": result.trusted,
        "error": result.error,
        "citations": [
            dataclasses.asdict(one) if dataclasses.is_dataclass(one) and not isinstance(one, type) else one
            for one in result.citations
        ],
        "cpu_seconds": result.cpu_seconds,
        "images": [base64.b64encode(image).decode() for image in result.images],
    }


def from_data(data: Mapping[str, Any]) -> ToolResult:
    """The result that `as_data` described; citations stay JSON data."""
    return ToolResult(
        data["gen_ai.tool.call.result"], data["trusted"], data["error"], tuple(data["citations"]),
        data["cpu_seconds"], tuple(base64.b64decode(image) for image in data["images"]),
    )  # fmt: skip
