"""One call of a tool in a thread of its own: bounded in time, failures made errors, results made short enough."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kweek.errors import KweekError
from kweek.system.tools.tool import Tool, ToolResult

_MAX_HANGING = 4  # calls of one tool that never came back, before it is not called any more
_MAX_ERROR = 500  # characters of an error; longer ones are dumps


@dataclass
class _Outcome:
    result: ToolResult | None = None
    left_behind: bool = False


class Runner:
    """Runs calls. A thread cannot be ended from outside, so a call that hangs is left behind, and counted.

    Args:
        result_chars: of the content of one result.
    """

    def __init__(self, result_chars: int) -> None:
        self._result_chars = result_chars
        self._hanging: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, tool: Tool, arguments: Mapping[str, Any], seconds: float) -> ToolResult:
        """The result of a call, within some seconds; never raises."""
        with self._lock:
            if self._hanging[tool.name] >= _MAX_HANGING:
                return ToolResult.failed(f"{tool.name} hangs: {_MAX_HANGING} earlier calls have not ended")
        outcome = _Outcome()
        thread = threading.Thread(
            target=self._work, args=(tool, arguments, outcome), name=f"tool {tool.name}", daemon=True
        )
        thread.start()
        thread.join(seconds)
        with self._lock:
            if outcome.result is not None:
                return outcome.result
            outcome.left_behind = True
            self._hanging[tool.name] += 1
        may = "; what it does may still happen" if {"write", "net", "exec"} & tool.effects else ""
        return ToolResult.failed(f"{tool.name} gave no answer within {seconds:g} s{may}")

    def _work(self, tool: Tool, arguments: Mapping[str, Any], outcome: _Outcome) -> None:
        started, trusted = time.thread_time(), not tool.effects
        try:
            result = self._shortened(tool(arguments))
        except KweekError as error:
            result = ToolResult.failed(str(error)[:_MAX_ERROR], trusted=trusted)
        except BaseException as error:  # whatever a tool raises, SystemExit too, is its own failure
            said = " ".join(f"{type(error).__name__}: {error}".split())
            result = ToolResult.failed(said[:_MAX_ERROR], trusted=trusted)
        result = replace(result, cpu_seconds=result.cpu_seconds + time.thread_time() - started)
        with self._lock:
            outcome.result = result
            if outcome.left_behind:
                self._hanging[tool.name] -= 1

    def _shortened(self, result: ToolResult) -> ToolResult:
        left_out = len(result.content) - self._result_chars
        if left_out > 0:
            content = result.content[: self._result_chars] + f"\n[{left_out:,} more characters left out]"
            result = replace(result, content=content)
        if result.error is not None and len(result.error) > _MAX_ERROR:
            result = replace(result, error=result.error[:_MAX_ERROR] + "…")
        return result
