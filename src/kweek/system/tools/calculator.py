"""The tool `calculator`: exact arithmetic on an expression."""

from __future__ import annotations

from kweek.errors import DataError
from kweek.system.arithmetic import Unreadable, evaluate, written
from kweek.system.tools.tool import tool


@tool
def calculator(expression: str) -> str:
    """Compute an expression of numbers, + - * / and brackets, exactly.

    Args:
        expression: like 12*(3+0.5).
    """
    try:
        return written(evaluate(expression))
    except Unreadable:
        fix = "use numbers, + - * / and brackets only"
        raise DataError("no expression that has a value", where=repr(expression[:40]), fix=fix) from None
