"""What a chat template shows of a chat. A template is free to leave out what it does not know, and says nothing.

Found by asking: chats that hold a word of their own in one place are rendered, and the word is looked for. So a chat
whose tool calls, tools or reasoning would vanish is noticed before anything is learnt from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.protocols import Message

#: Renders messages with variables; None where the template refuses or fails.
TryRender = Callable[[Sequence[Message], Mapping[str, Any]], str | None]

_WORD = "qzprobe"
_USER = {"role": "user", "content": "Hello"}
_CALL_ID = "abcdefgh1"  # nine characters of letters and digits, which one family demands


@dataclass(frozen=True)
class Calls:
    """How a template wants tool calls.

    Attributes:
        as_text: arguments as JSON text instead of as objects.
        without_content: the content of a message that only calls; some know a call by its absence (None).
        beside_content: whether a message may say something and call as well.
        results: whether messages of the role "tool" come out.
    """

    as_text: bool
    without_content: str | None
    beside_content: bool
    results: bool


@dataclass(frozen=True)
class Abilities:
    """What comes out of a template.

    Attributes:
        system, developer: a message of that role at the beginning.
        reasoning: `reasoning_content` of the last answer.
        tools: the descriptions of tools.
        calls: calls of tools; None where they vanish.
        results: messages of the role "tool" after an answer that spells its call as text.
    """

    system: bool
    developer: bool
    reasoning: bool
    tools: bool
    calls: Calls | None
    results: bool

    def hidden(self, messages: Sequence[Message], tools: bool) -> str | None:
        """What of a chat would not come out, in words; None where everything does. `tools`: whether there are any."""
        if tools and not self.tools:
            return "descriptions of tools"
        for message in messages:
            role = message["role"]
            if (role == "system" and not self.system) or (role == "developer" and not self.developer):
                return f"{role} message"
            if message.get("reasoning_content") and not self.reasoning:
                return "reasoning"
            if message.get("tool_calls") and self.calls is None:
                return "calls of tools"
            if (
                message.get("tool_calls")
                and message.get("content")
                and not (self.calls and self.calls.beside_content)
            ):
                return "call of a tool beside content"
            if role == "tool" and not (self.results or (self.calls and self.calls.results)):
                return "results of tools"
        return None


def probe(render: TryRender) -> Abilities:
    """Ask a template for everything there may be in a chat."""

    def shows(messages: Sequence[Message], **variables: Any) -> bool:
        return _WORD in (render(messages, variables) or "")

    about = {"name": _WORD, "description": "d", "parameters": {"type": "object", "properties": {}}}
    return Abilities(
        system=shows([{"role": "system", "content": _WORD}, _USER]),
        developer=shows([{"role": "developer", "content": _WORD}, _USER]),
        reasoning=shows([_USER, {"role": "assistant", "content": "a", "reasoning_content": _WORD}]),
        tools=shows([_USER], tools=[{"type": "function", "function": about}], add_generation_prompt=True),
        calls=_calls(render),
        results=shows([_USER, {"role": "assistant", "content": "a"}, {"role": "tool", "content": _WORD}]),
    )


def _calls(render: TryRender) -> Calls | None:
    """The first form in which the name of an argument comes out as JSON, or at least not as a Python object."""
    for without_content in ("", None):
        for as_text in (False, True):
            arguments: Any = f'{{"{_WORD}": "v"}}' if as_text else {_WORD: "v"}
            shown = render([_USER, _call(arguments, without_content)], {}) or ""
            # Text that was escaped once more is a string in a string; single quotes are Python's own spelling.
            if f'"{_WORD}":' in shown if as_text else _WORD in shown and f"'{_WORD}'" not in shown:
                result = {"role": "tool", "content": _WORD + "r", "tool_call_id": _CALL_ID, "name": "look"}
                answered = render([_USER, _call(arguments, without_content), result], {}) or ""
                both = render([_USER, _call(arguments, _WORD + "c")], {}) or ""
                beside = _WORD + "c" in both and f"{_WORD}" in both.replace(_WORD + "c", "")
                return Calls(as_text, without_content, beside, _WORD + "r" in answered)
    return None


def _call(arguments: Any, content: str | None) -> dict[str, Any]:
    """An assistant's message that calls a tool."""
    function = {"name": "look", "arguments": arguments}
    calls = [{"id": _CALL_ID, "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls}
