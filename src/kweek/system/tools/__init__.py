"""Tools: functions that a model may call, what they may do, and the door that every call passes through."""

from kweek.system.tools.calls import Call, calls_of
from kweek.system.tools.effects import Approve, Effect, Grant, Question, Verdict
from kweek.system.tools.tool import FunctionTool, Tool, ToolResult, described, tool
from kweek.system.tools.toolbox import CallLimits, Toolbox

__all__ = [
    "Approve",
    "Call",
    "CallLimits",
    "Effect",
    "FunctionTool",
    "Grant",
    "Question",
    "Tool",
    "ToolResult",
    "Toolbox",
    "Verdict",
    "calls_of",
    "described",
    "tool",
]
