"""Constraints: generations that follow a regular expression, a choice, a JSON Schema, a tool call or a grammar."""

from kweek.engine.constraints.compile import (
    Grammar,
    Provider,
    compile_choice,
    compile_json_schema,
    compile_lark,
    compile_regex,
    compile_tools,
)
from kweek.engine.constraints.limits import GrammarError, Limits
from kweek.engine.constraints.tools import JSON_FORM, ToolForm
from kweek.engine.constraints.vocabulary import Vocabulary

__all__ = [
    "JSON_FORM",
    "Grammar",
    "GrammarError",
    "Limits",
    "Provider",
    "ToolForm",
    "Vocabulary",
    "compile_choice",
    "compile_json_schema",
    "compile_lark",
    "compile_regex",
    "compile_tools",
]
