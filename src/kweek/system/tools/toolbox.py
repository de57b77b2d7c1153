"""The tools of a system behind one door: what may be called, with what, for how long, and what comes back of it.

Whatever goes wrong with a call is an error that the model sees: it may try again or do without.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from kweek.engine.constraints import Grammar, Vocabulary
from kweek.errors import ConfigError
from kweek.system.tools.calling import TextWithCalls, call_grammar
from kweek.system.tools.calls import Call
from kweek.system.tools.effects import (
    Approve,
    Effect,
    Grant,
    Question,
    Seen,
    checked_grants,
    denied,
    reason_to_ask,
)
from kweek.system.tools.running import Runner
from kweek.system.tools.schema import faults
from kweek.system.tools.tool import Tool, ToolResult, described

_MAX_NAME = 60  # characters of an unknown name that an error repeats


@dataclass(frozen=True)
class CallLimits:
    """What one call may take.

    Attributes:
        seconds: from its start to its end; waiting for a person does not count.
        argument_bytes: of its arguments as JSON.
        result_chars: of what the model reads; the rest is left out, and how much that is is said.
        num_calls: of one message; those after them are errors.
        num_parallel: at once.
    """

    seconds: float = 60.0  # a slow page, or a program that computes
    argument_bytes: int = 1 << 20  # a long document
    result_chars: int = 20_000  # some 5,000 tokens: a part of any context
    num_calls: int = 16  # more than a person would hand out at once
    num_parallel: int = 4  # they mostly wait

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"the limit {name} is {value}", fix="give a positive number")


class Toolbox:
    """The tools that a system has, what it grants, and what its conversation has read.

    Safe to use from several threads.

    Args:
        tools: with different names.
        grants: of each effect; one that is not named is denied.
        approve: asks a person; without it whatever would be asked is refused.
        limits: of each call.
        private: whether the conversation itself holds what must not leave, like instructions that are a secret.

    Raises:
        ConfigError: two tools of one name; parameters that are no schema of an object; a grant that there is not.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        grants: Mapping[Effect, Grant] | None = None,
        approve: Approve | None = None,
        limits: CallLimits | None = None,
        *,
        private: bool = False,
    ) -> None:
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self.tools:
                raise ConfigError("two tools have this name", where=tool.name)
            if tool.parameters.get("type") != "object":
                raise ConfigError("the parameters are no schema of an object", where=tool.name)
            self.tools[tool.name] = tool
        self.grants = checked_grants(grants or {})
        self.limits = limits or CallLimits()
        self.seen = Seen(private, any(getattr(tool, "described_by_stranger", False) for tool in tools))
        self._private = private
        self._approve = approve
        self._settled: set[tuple[str, str]] = set()  # what a person said "always" to
        self._asking = threading.Lock()
        self._runner = Runner(self.limits.result_chars)

    def fresh(self) -> Toolbox:
        """The same tools for a conversation in which nothing has been read yet."""
        tools = list(self.tools.values())
        box = Toolbox(tools, self.grants, self._approve, self.limits, private=self._private)
        box._runner = self._runner
        return box

    def described(self) -> list[dict[str, Any]]:
        """The tools that may be called at all, as OpenAI's API and chat templates describe them."""
        return [described(tool) for tool in self.tools.values() if not denied(tool.effects, self.grants)]

    def grammar(self, vocabulary: Vocabulary, *, required: bool = False) -> Grammar:
        """What a model may write: text in which every call is valid; or one call, where one is required.

        Raises:
            GrammarError: nothing may be called, or a schema is beyond grammars.
        """
        tools = self.described()
        return call_grammar(tools, vocabulary) if required else TextWithCalls(tools, vocabulary)

    def call(self, name: str, arguments: Mapping[str, Any] | str, seconds: float | None = None) -> ToolResult:
        """Make one call.

        Args:
            name: of the tool.
            arguments: as an object, or as the JSON text that a model wrote.
            seconds: that are left for it, where they are fewer than the limit.
        """
        read = self._arguments(arguments)
        call = Call("", name, wrong=read) if isinstance(read, str) else Call("", name, read)
        return self.call_all([call], seconds)[0]

    def call_all(self, calls: Sequence[Call], seconds: float | None = None) -> list[ToolResult]:
        """Make the calls of one message; results in their order.

        They are made at once, unless one of them writes: then one after the other, as they were written.

        Args:
            calls: as `calls_of` reads them.
            seconds: that are left for each, where they are fewer than the limit.
        """
        most = self.limits.seconds if seconds is None else min(seconds, self.limits.seconds)
        allowed, surplus = list(calls[: self.limits.num_calls]), len(calls) - self.limits.num_calls
        writes = any(
            "write" in tool.effects for call in allowed if (tool := self.tools.get(call.name)) is not None
        )
        if writes or len(allowed) < 2:
            results = [self._made(self.admitted(call), most) for call in allowed]
        else:
            # Whoever wrote them had read none of their results, so all are judged by what was there before.
            ready = [self.admitted(call) for call in allowed]
            with ThreadPoolExecutor(min(self.limits.num_parallel, len(ready))) as pool:
                results = list(pool.map(lambda one: self._made(one, most), ready))
        refusal = ToolResult.failed(f"not made: more than {self.limits.num_calls} calls in one message")
        return [_whole(result) for result in results] + [refusal] * max(0, surplus)

    def inherit(self, other: Toolbox) -> None:
        """This conversation goes on where another is, so what that one has read may be in it."""
        self.seen.add(private=other.seen.private, untrusted=other.seen.untrusted)

    def remember(self, name: str, result: ToolResult) -> None:
        """Take a result of an earlier run into the conversation, as if it had been called now."""
        if (tool := self.tools.get(name)) is not None:
            self.seen.add(private="read" in tool.effects, untrusted=not result.trusted)

    def admitted(self, call: Call) -> ToolResult | tuple[Tool, Mapping[str, Any]]:
        """The tool and the arguments of a call that may be made, or why it may not: for whoever makes it otherwise.

        A person is asked where one has to be. What comes of the call is to be given to `remember`.
        """
        if call.wrong:
            return ToolResult.failed(f"the call cannot be read: {call.wrong}")
        tool = self.tools.get(call.name)
        if tool is None or denied(tool.effects, self.grants):
            known = ", ".join(entry["function"]["name"] for entry in self.described()) or "none"
            what = "there is no tool" if tool is None else "this system does not grant the tool"
            return ToolResult.failed(f"{what} {call.name[:_MAX_NAME]!r}; there are: {known}")
        read = self._arguments(call.arguments)
        if isinstance(read, str):
            return ToolResult.failed(read)
        if wrong := faults(read, tool.parameters):
            return ToolResult.failed(f"the arguments are not those of {tool.name}: {'; '.join(wrong)}")
        refusal = self._refusal(tool, read)
        return (tool, read) if refusal is None else ToolResult.failed(refusal)

    def _arguments(self, given: Mapping[str, Any] | str) -> Mapping[str, Any] | str:
        """Arguments as an object, or what is wrong with them."""
        try:
            text = given if isinstance(given, str) else json.dumps(given, allow_nan=False)
            size = len(text.encode())
            if size > self.limits.argument_bytes:
                return f"the arguments have {size:,} bytes, more than {self.limits.argument_bytes:,}"
            found = json.loads(text, parse_constant=_no_number)
        except RecursionError:
            return "the arguments nest too deep"
        except (ValueError, TypeError) as error:
            return f"the arguments are not JSON ({str(error)[:100]})"
        return found if isinstance(found, dict) else "the arguments are not an object"

    def _refusal(self, tool: Tool, arguments: Mapping[str, Any]) -> str | None:
        """Why a person does not want the call, or could not be asked; None where it may be made."""
        with self._asking:
            why = reason_to_ask(tool.effects, self.grants, self.seen)
            if why is None or (tool.name, why) in self._settled:
                return None
            if self._approve is None:
                return f"{why}, and there is nobody to ask"
            verdict = self._approve(Question(tool.name, arguments, tool.effects, why))
            if verdict == "always":
                self._settled.add((tool.name, why))
            return None if verdict in ("once", "always") else "the user refused this call"

    def _made(self, ready: ToolResult | tuple[Tool, Mapping[str, Any]], seconds: float) -> ToolResult:
        if isinstance(ready, ToolResult):
            return ready
        tool, arguments = ready
        result = self._runner.run(tool, arguments, seconds)
        self.remember(tool.name, result)
        return result


def _whole(result: ToolResult) -> ToolResult:
    """A result whose texts can be written: halves of surrogate pairs are replaced."""
    error = None if result.error is None else result.error.encode("utf-8", "replace").decode()
    return replace(result, content=result.content.encode("utf-8", "replace").decode(), error=error)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")
