"""The audit of an environment: its episodes, played by somebody who does not read the question."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kweek.align.audit.attacks import Attack
from kweek.align.audit.audit import audit_items, known_answer
from kweek.align.audit.bench import SECONDS, Answer
from kweek.align.audit.finding import Finding
from kweek.align.environment import Environment, Item
from kweek.align.verifiers.function import FunctionVerifier, Judge, plain
from kweek.protocols import Progress, Score, silent

NUM_ITEMS = 60  # the best of some hundred constants then earns a twentieth by luck where answers are many

#: Messages that a model's text can be parsed into, and worse; nothing may break on them.
ODD_MESSAGES: tuple[Mapping[str, Any], ...] = (
    {"role": "assistant"},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "assistant", "content": None, "tool_calls": [{}]},
    {"role": "assistant", "content": None, "tool_calls": "calculator"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": 7, "function": {"name": None, "arguments": 3}}]},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "x", "arguments": "{"}}]},
    {"role": "assistant", "content": [{"type": "text", "text": "12"}]},
    {"role": "assistant", "content": "<tool_call>{\"name\": \"calculator\"</tool_call>"},
    {"role": "assistant", "content": "<tool_call>{\"name\": \"calculator\", \"arguments\": [1]}</tool_call>"},
    {"role": "assistant", "content": "<tool_call><tool_call></tool_call>"},
    {"role": "assistant", "content": "<tool_call>" * 50},
    {"role": "assistant", "reasoning_content": "12", "content": ""},
)  # fmt: skip


def audit_environment(
    environment: Environment,
    *,
    key: str = "audit",
    count: int = NUM_ITEMS,
    limits: Mapping[str, float] | None = None,
    seconds: float = SECONDS,
    progress: Progress = silent,
) -> list[Finding]:
    """Try to fool an environment on items of its training split, and to break it.

    Every answer of the audit is given at every turn of an episode, until that ends.

    Args:
        environment: what is to train a model.
        key, count: of the items.
        limits: other bounds than the stated ones, by the name of a finding.
        seconds: of one episode; then it hangs.
        progress: told what is tried.

    Raises:
        DataError: fewer than ten items.
        ConfigError: a limit for something that is not tried.
    """
    items = environment.items(key, count, "train")
    extra = [_guesses(items)] if environment.max_turns > 1 else []
    tried = unprotected(environment)
    return audit_items(
        lambda item, answer: _played(tried, item, answer), items, limits=limits, extra=extra,
        odd_messages=ODD_MESSAGES, seconds=seconds, progress=progress,
    )  # fmt: skip


def unprotected(environment: Environment) -> Environment:
    """The same environment with the user's own function as its verifier.

    What protects training from that function would stand between it and the audit, and start a process for every
    judgement that a bad one does not survive.
    """
    bare = copy.copy(environment)
    if isinstance(verifier := getattr(bare, "verifier", None), FunctionVerifier):
        object.__setattr__(bare, "verifier", _Bare(verifier.function))
    inner: Any = getattr(bare, "inner", None)
    if hasattr(inner, "begin"):
        object.__setattr__(bare, "inner", unprotected(inner))
    return bare


class _Bare:
    """A user's function as a verifier, with all its faults."""

    def __init__(self, function: Judge) -> None:
        self._function = function

    def __call__(self, answer: str, gold: str) -> Score:
        result = plain(self._function(answer, gold))
        return Score(result["value"], result["parsed"], result.get("error"), result.get("parts", {}))


def _guesses(items: Sequence[Item]) -> Attack:
    """The most frequent right answers one after another, a new one at every turn."""
    frequent = [gold for gold, _ in Counter(known_answer(item) for item in items).most_common()] or [""]
    return Attack("another guess at every turn", (lambda i: frequent,))


def _played(environment: Environment, item: Item, answer: Answer) -> Score:
    """The judgement of an episode in which the same thing, or the next of several, is said at every turn."""
    episode = environment.begin(item)
    said = answer if isinstance(answer, Sequence) and not isinstance(answer, str) else [answer]
    turns = itertools.islice(itertools.cycle(said), environment.max_turns)
    for text in turns:
        if not episode.step({"role": "assistant", "content": text} if isinstance(text, str) else text):
            break
    return episode.score()
