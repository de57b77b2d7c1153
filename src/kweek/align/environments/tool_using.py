"""An environment in which tools may be called before the answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kweek.align.environment import Environment, Episode, Item, Split
from kweek.align.environments.tools import MAX_CALLS, BadCall, Tool
from kweek.errors import ConfigError
from kweek.protocols import Message, Score, TokenInterceptor
from kweek.system.tools.calls import CLOSING, OPENING, Call, calls_of
from kweek.tokenize.tokenizer import Tokenizer

MAX_ROUNDS = 4  # of calls before the answer; word problems of school need fewer steps


class ToolUsing:
    """An environment whose items may be answered with the help of tools.

    What tools there are and how to call them is said in the system message of every item, so that it reaches models
    of any chat template.

    Args:
        inner: gives items and judges the answer, the first message without a call.
        tools: with different names.
        max_rounds: messages with calls; a call after them is answered by no tool, and the episode ends.

    Raises:
        ConfigError: no tools, or two of one name.
    """

    def __init__(self, inner: Environment, tools: Sequence[Tool], *, max_rounds: int = MAX_ROUNDS) -> None:
        if not tools or len({tool.name for tool in tools}) < len(tools):
            raise ConfigError("there are no tools, or two of the same name", where="tools")
        self.inner, self.max_rounds = inner, max_rounds
        self.tools = {tool.name: tool for tool in tools}
        self.name, self.max_new_tokens = f"{inner.name}, with tools", inner.max_new_tokens
        self.max_turns = inner.max_turns + max_rounds

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Those of the inner environment, with the tools in the system message."""
        return [self._with_tools(item) for item in self.inner.items(key, count, split)]

    def begin(self, item: Item) -> Episode:
        """A fresh attempt."""
        asked = tuple(item.data["asked"])
        data = {name: value for name, value in item.data.items() if name != "asked"}
        return _Attempt(self, self.inner.begin(replace(item, messages=asked, data=data)))

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """That of the inner environment."""
        return self.inner.interceptor(tokenizer)

    def _with_tools(self, item: Item) -> Item:
        described = "\n".join(json.dumps(tool.described["function"]) for tool in self.tools.values())
        text = (
            f"You may call these tools:\n{described}\nTo call one, write {OPENING}"
            f'{{"name": "…", "arguments": {{…}}}}{CLOSING} and nothing else; you are told the result.'
        )
        messages = list(item.messages)
        if messages[0]["role"] == "system":
            text = f"{messages.pop(0)['content']}\n\n{text}"
        asked = [dict(message) for message in item.messages]
        return replace(
            item,
            messages=({"role": "system", "content": text}, *messages),
            data={**item.data, "asked": asked},
        )

    def answered(self, call: Call) -> str:
        """The result of a call. Raises BadCall with what the model is told."""
        if call.wrong:
            raise BadCall(f"the call cannot be read: {call.wrong}")
        if (tool := self.tools.get(call.name)) is None:
            raise BadCall(f"there is no tool {call.name[:40]!r}, only {', '.join(self.tools)}")
        return tool.call(call.arguments)


class _Attempt:
    def __init__(self, environment: ToolUsing, inner: Episode) -> None:
        self._environment, self._inner = environment, inner
        self._counts: Counter[str] = Counter()
        self._rounds = 0
        self._ended = False

    def step(self, message: Message) -> Sequence[Message]:
        """Answer calls; a message without any goes to the inner episode."""
        if self._ended:
            return ()
        calls = calls_of(message)
        if not calls:
            said = self._inner.step(message)
            self._ended = not said
            return said
        self._rounds += 1
        if self._rounds > self._environment.max_rounds:
            self._ended = True
            return ()
        return [self._answer(call, number) for number, call in enumerate(calls[: MAX_CALLS + 1])]

    def _answer(self, call: Call, number: int) -> Message:
        try:
            if number >= MAX_CALLS:
                raise BadCall(f"only {MAX_CALLS} calls in one message are answered")
            self._counts["unreadable calls" if call.wrong else "calls"] += 1
            content = self._environment.answered(call)
        except BadCall as error:
            self._counts["failed calls"] += not call.wrong
            content = f"Error: {error}"
        return {"role": "tool", "tool_call_id": call.id, "content": content}

    def score(self) -> Score:
        """That of the answer. Parts: calls, those that could not be read, and those that failed."""
        score = self._inner.score()
        counts = {name: float(self._counts[name]) for name in ("calls", "unreadable calls", "failed calls")}
        return replace(score, parts={**score.parts, **counts})
