"""Which part of a rendered chat the model itself writes, and in which turn: marks in the text around every such part.

A template with `{% generation %}` blocks says it. Of any other one a turn is what follows the prompt in the chat that
ends with this turn, and counts where the whole chat begins like that. A template that fails this even for a turn that
ends the chat (it shows the system message or the tools in another place once an answer follows) gets its examples put
together from the prompt as it is served and the answer as it is rendered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.tokenize.shield import CLOSE, OPEN
from kweek.tokenize.tokenizer import Tokenizer

_PROBE = "qz"  # appended to see where a turn's text comes out; letters alone are in nobody's disguise


@dataclass(frozen=True)
class Marked:
    """A rendered chat. Entry k of `turns` is the number of the message that wrote the k-th marked part."""

    text: str
    turns: tuple[int, ...]


def mark(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> Marked:
    """The rendered chat with marks around what the model writes.

    The marks also bound the tokens, in a prompt's history too: the model goes on after the tokens of a prompt, so no
    token of a whole chat may reach across that place.

    Args:
        tokenizer: gives the template and the control tokens.
        messages: disguised, see `shield`.
        variables: for the template, `add_generation_prompt` among them.

    Raises:
        DataError: the template refuses these messages.
        CheckpointError: the template fails.
    """
    template = tokenizer.template
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not template.has_generation:
        return _mark_by_prefix(tokenizer, messages, variables, turns)
    text = template.render_marked(messages, **variables)
    if text.count(OPEN) == len(turns):
        return Marked(text, tuple(turns))
    return Marked(text, _owners(tokenizer, messages, variables, turns, _inside(text)))


def mark_last(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> Marked | None:
    """The prompt before the last message as it is served, followed by that message, marked.

    None where the end of the prompt is not found in the rendered chat, so that nobody knows where the turn begins.
    Arguments and errors as for `mark`.
    """
    last = len(messages) - 1
    prompt, whole, altered = tokenizer.template.render_many(
        [
            (messages[:last], {**variables, "add_generation_prompt": True}),
            (messages, variables),
            ([*messages[:last], _altered(messages[last])], variables),
        ]
    )
    before = whole[: _common_length(whole, altered)]
    known = tokenizer.shield.spans(prompt)
    low, high = 0, min(len(prompt), len(before))
    while low < high:  # the longest end of the prompt that the chat has too
        middle = (low + high + 1) // 2
        low, high = (middle, high) if prompt[-middle:] in before else (low, middle - 1)
    if not known or low < len(prompt) - known[-1][0]:
        return None
    start = before.rindex(prompt[-low:]) + low
    end = _end(tokenizer, whole, start)
    return Marked(prompt + OPEN + whole[start:end] + CLOSE + whole[end:], (last,))


def shows_reasoning(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], turn: int
) -> bool:
    """Whether the rendered chat holds the reasoning of a turn. Arguments and errors as for `mark`."""
    message = messages[turn]
    changed = {**message, "reasoning_content": str(message.get("reasoning_content") or "") + _PROBE}
    others = [*messages[:turn], changed, *messages[turn + 1 :]]
    one, other = tokenizer.template.render_many([(messages, variables), (others, variables)])
    return one != other


def _mark_by_prefix(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    turns: Sequence[int],
) -> Marked:
    """Marks by rendering what comes before each turn.

    A turn counts where the chat goes on after it as the chat that ends with it began; a template that rewrites a turn
    once another follows (dropping its thinking) has rendered what the model never wrote.
    """

    closed = {**variables, "add_generation_prompt": False}
    opened = {**variables, "add_generation_prompt": True}
    whole, *rest = tokenizer.template.render_many(
        [
            (messages, variables),
            *((messages[: turn + 1], closed) for turn in turns),
            *((messages[:turn], opened) for turn in turns if turn),
        ]
    )
    throughs, prompts = rest[: len(turns)], rest[len(turns) :]
    marked, at = "", 0
    counted: list[int] = []
    for turn, through in zip(turns, throughs, strict=True):
        prompt = prompts.pop(0) if turn else ""
        start = _start(tokenizer, messages[:turn], variables, prompt, through)
        if start is None:
            continue
        end = _end(tokenizer, through, start)
        if not whole.startswith(through[:end]):
            continue
        marked += whole[at:start] + OPEN + whole[start:end] + CLOSE
        at = end
        counted.append(turn)
    return Marked(marked + whole[at:], tuple(counted))


def _start(
    tokenizer: Tokenizer,
    asked: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    prompt: str,
    through: str,
) -> int | None:
    """Where the last turn of a chat starts: behind the prompt, if need be with its thinking opened or closed.

    Where the template shows a prompt that the chat does not go on from: where the two part, but never inside a
    control token, nor before what was asked; None where not even that is how the chat begins.
    """
    if through.startswith(prompt):
        start = len(prompt)
    else:
        opened = {**variables, "add_generation_prompt": True}
        closed = {**variables, "add_generation_prompt": False}
        *thinking, before = tokenizer.template.render_many(
            [*((asked, {**opened, "enable_thinking": think}) for think in (True, False)), (asked, closed)]
        )
        if fitting := [text for text in thinking if through.startswith(text)]:
            start = len(fitting[0])
        elif through.startswith(before):
            start = max(len(before), _common_length(prompt, through))
        else:
            return None
    return next((s for s, e in tokenizer.shield.spans(through) if s < start < e), start)


def _end(tokenizer: Tokenizer, text: str, start: int) -> int:
    """Where the last turn of a chat ends: with the first token that ends an answer; nothing after it is generated.

    Some templates write the opening of the next turn behind it. Where there is no such token the turn ends with its
    last control token, when only blanks follow that.
    """
    controls = [(s, e) for s, e in tokenizer.shield.spans(text) if s >= start]
    ends = [e for s, e in controls if text[s:e].strip() in tokenizer.stop_texts]
    if ends:
        return ends[0]
    last = controls[-1][1] if controls else len(text)
    return last if not text[last:].strip() else len(text)


def _owners(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    turns: Sequence[int],
    parts: Sequence[str],
) -> tuple[int, ...]:
    """The turn of every marked part: the one whose text comes out there; a part without text belongs to the last."""
    owners = [-1] * len(parts)
    others = [
        ([*messages[:turn], _altered(messages[turn]), *messages[turn + 1 :]], variables) for turn in turns
    ]
    for turn, changed in zip(turns, tokenizer.template.render_many(others), strict=True):
        for k, (old, new) in enumerate(zip(parts, _inside(changed), strict=False)):
            if old != new:
                owners[k] = turn
    for k, owner in enumerate(owners):
        if owner < 0 and k:
            owners[k] = owners[k - 1]
    return tuple(owners)


def _altered(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with something more in its content, its reasoning and its calls."""
    content = message.get("content")
    more: Any = (
        [*content, {"type": "text", "text": _PROBE}]
        if isinstance(content, list)
        else (content or "") + _PROBE
    )
    altered: dict[str, Any] = {**message, "content": more}
    if message.get("reasoning_content"):
        altered["reasoning_content"] = message["reasoning_content"] + _PROBE
    if message.get("tool_calls"):
        calls = [
            {**c, "function": {**c["function"], "name": c["function"]["name"] + _PROBE}}
            for c in message["tool_calls"]
        ]
        altered["tool_calls"] = calls
    return altered


def _inside(text: str) -> list[str]:
    """The marked parts of a rendered chat."""
    return [part.partition(CLOSE)[0] for part in text.split(OPEN)[1:]]


def _common_length(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
