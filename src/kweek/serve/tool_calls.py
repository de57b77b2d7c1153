"""Tool calls in what a model writes: found as they come, shown apart from the text.

The form is that of the Hermes, Qwen and SmolLM families: `<tool_call>`, a JSON object with "name" and "arguments",
`</tool_call>`. A call that is not such an object stays text, so that nothing the model wrote is lost.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from kweek.serve.refusal import Refusal
from kweek.system.tools.calls import CLOSING, OPENING


class ToolCalls:
    """Takes the text of an answer apart.

    Attributes:
        found: the calls so far, as the API shows them.
    """

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._held = ""

    def take(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """The next piece of an answer; returns the text that may be shown and the calls that are complete."""
        self._held += text
        shown, before = "", len(self.found)
        while True:
            start = self._held.find(OPENING)
            if start < 0:
                cut = len(self._held) - _num_begun(self._held)
                shown += self._held[:cut]
                self._held = self._held[cut:]
                break
            shown, self._held = shown + self._held[:start], self._held[start:]
            end = self._held.find(CLOSING)
            if end < 0:
                break
            call = _read(self._held[len(OPENING) : end])
            end += len(CLOSING)
            if call is None:
                shown += self._held[:end]
            else:
                self.found.append(call)
            self._held = self._held[end:]
        return self._trim(shown), self.found[before:]

    def finish(self) -> str:
        """What was held back turned out to be no call."""
        shown, self._held = self._held, ""
        return self._trim(shown)

    def _trim(self, text: str) -> str:
        """Blanks between calls are no text."""
        return "" if self.found and not text.strip() else text


def _num_begun(text: str) -> int:
    """Length of the longest end of `text` that begins a call."""
    longest = min(len(text), len(OPENING) - 1)
    return next((n for n in range(longest, 0, -1) if OPENING.startswith(text[-n:])), 0)


def _read(text: str) -> dict[str, Any] | None:
    """A call as the API shows it, None when it is not one."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not (
        isinstance(call, Mapping)
        and isinstance(call.get("name"), str)
        and isinstance(call.get("arguments"), Mapping)
    ):
        return None
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call["name"], "arguments": arguments},
    }


def chosen(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any]
) -> list[Mapping[str, Any]] | None:
    """The tools of which one must be called; None where the model decides.

    Raises:
        Refusal: a choice that is none of OpenAI's, or names no tool.
    """
    if choice in ("auto", "none"):
        return None
    if choice == "required":
        return list(tools)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    found = [tool for tool in tools if tool.get("function", {}).get("name") == name]
    if not found:
        raise Refusal("There is no such tool or choice.", param="tool_choice", code="invalid_value")
    return found
