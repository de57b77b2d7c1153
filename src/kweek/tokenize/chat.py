"""Chats to token ids with a loss mask: one list of ids for training, evaluation and serving.

Content is ordinary text whatever it spells; only the template's own literals become control tokens, see
`shield`. The mask marks what the model itself writes, see `marking`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.errors import DataError, GuardError
from kweek.protocols import Message
from kweek.tokenize.marking import Marked, mark, mark_last, shows_reasoning
from kweek.tokenize.shield import CLOSE, OPEN
from kweek.tokenize.tokenizer import Tokenizer

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
THINK, END_THINK = "<think>", "</think>"
CALL, RESULT, END_RESULT = "<tool>", "<result>", "</result>"

Tools = Sequence[Mapping[str, Any]]
"""Descriptions of tools in OpenAI's form."""


@dataclass(frozen=True)
class Chat:
    """A chat as token ids; `turns` is parallel: the message in which the model itself wrote the token, else -1."""

    token_ids: list[int]
    turns: list[int]

    @property
    def loss_mask(self) -> list[bool]:
        """Parallel to the ids: true where the model itself wrote the token."""
        return [turn >= 0 for turn in self.turns]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message], *, tools: Tools = ()) -> Chat:
    """Ids of a whole chat and the mask of what the model wrote.

    An assistant message may carry `reasoning_content`, and `trusted=True` where our own generator or engine
    wrote it: then the calculator's tokens in its reasoning become control tokens. Results that the calculator
    returned, up to and including `</result>`, are not in the loss. A turn whose reasoning the template drops
    because a later question follows is not in the loss either (see `encode_turns`).

    Raises:
        DataError: messages that no chat has, or that the template refuses.
        GuardError: no template, or a mask without a single true entry.
    """
    safe = _safe_chat(tokenizer, messages, tools)
    chat = _encode_marked(tokenizer, mark(tokenizer, safe, _variables(tokenizer, tools)))
    if not any(chat.loss_mask):
        raise _no_mask(tokenizer)
    return chat


def encode_turns(
    tokenizer: Tokenizer, messages: Sequence[Message], *, tools: Tools = (), first: int = 0
) -> list[Chat]:
    """Training examples of a chat in which every turn is learnt once, as the model will have to write it.

    One example where the template renders all turns together as they are served one by one. Else, for the turns that
    it rewrites once more follows (most drop their reasoning, some move the system message or the tools), further
    examples that end earlier. Of turns before message `first` none is learnt.

    Raises:
        DataError, GuardError: as `encode_chat`; and where even a turn that ends the chat cannot be marked.
    """
    safe = _safe_chat(tokenizer, messages, tools)
    variables = _variables(tokenizer, tools)
    missing = [i for i, message in enumerate(safe) if message["role"] == "assistant" and i >= first]
    chats: list[Chat] = []
    while missing:
        last = missing[-1]
        part = safe[: last + 1]
        chat = _encode_marked(tokenizer, mark(tokenizer, part, variables))
        if last not in chat.turns:
            marked = mark_last(tokenizer, part, variables)
            if marked is None:
                raise _no_mask(tokenizer)
            chat = _encode_marked(tokenizer, marked)
        learnt = {
            turn
            for turn in missing
            if turn in chat.turns and (turn == last or _whole(tokenizer, part, variables, turn))
        }
        chats.append(Chat(chat.token_ids, [turn if turn in learnt else -1 for turn in chat.turns]))
        missing = [turn for turn in missing if turn not in learnt]
    return chats[::-1]


def encode_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    think: bool | None = None,
    tools: Tools = (),
) -> list[int]:
    """Ids of a chat up to where the assistant begins to write.

    Args:
        tokenizer: gives the template.
        messages: the chat so far.
        think: true opens the thinking, false closes it at once, None leaves it to the model. A template that
            knows no `enable_thinking` ignores false, a vocabulary without `<think>` ignores true.
        tools: descriptions in OpenAI's form, for templates that show them; content like any other.

    Raises:
        DataError: messages that no chat has, or that the template refuses.
        GuardError: no template.
    """
    variables = _variables(tokenizer, tools) | {"add_generation_prompt": True}
    if think is not None:
        variables["enable_thinking"] = think
    safe = _safe_messages(tokenizer, messages)
    token_ids = _encode_marked(tokenizer, mark(tokenizer, safe, variables)).token_ids
    opening, closing = tokenizer.special.get(THINK), tokenizer.special.get(END_THINK)
    last = next((index for index in reversed(token_ids) if index in (opening, closing)), closing)
    if think and opening is not None and last != opening:
        token_ids.append(
            opening
        )  # not by the template: llama.cpp sets `enable_thinking` whether asked or not
    return token_ids


def encode_trusted(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of text that our own generator wrote: control tokens spelled in it become control ids."""
    safe = tokenizer.shield.protect_except(text, tokenizer.special)
    return _encode_marked(tokenizer, Marked(safe, ())).token_ids


def parse_completion(
    tokenizer: Tokenizer, token_ids: Sequence[int], *, thinking: bool = False
) -> dict[str, str]:
    """What the model wrote, as the fields of a message.

    Args:
        tokenizer: that of the model.
        token_ids: the completion, with or without its stop token.
        thinking: whether the prompt had already opened the thinking.

    Returns:
        `reasoning_content` (empty when it did not think; all of it when the thinking never ended) and
        `content`.
    """
    kept = [index for index in token_ids if index not in tokenizer.stop_ids]
    opening, closing = tokenizer.special.get(THINK), tokenizer.special.get(END_THINK)
    if opening is None or closing is None:
        return _parse_text(tokenizer.decode(kept), thinking)
    opened = thinking or (bool(kept) and kept[0] == opening)
    if not opened:
        return {"reasoning_content": "", "content": tokenizer.decode(kept)}
    start = 1 if kept and kept[0] == opening else 0
    end = kept.index(closing) if closing in kept else len(kept)
    return {
        "reasoning_content": tokenizer.decode(kept[start:end]),
        "content": tokenizer.decode(kept[end + 1 :]).strip(),
    }


def _parse_text(text: str, thinking: bool) -> dict[str, str]:
    """The same for a vocabulary in which the thinking tags are ordinary text."""
    if not thinking and not text.lstrip().startswith(THINK):
        return {"reasoning_content": "", "content": text}
    reasoning, _, content = text.lstrip().removeprefix(THINK).partition(END_THINK)
    return {"reasoning_content": reasoning.strip(), "content": content.strip()}


def _variables(tokenizer: Tokenizer, tools: Tools) -> dict[str, Any]:
    """What a template is given besides the messages."""
    return {"tools": tokenizer.shield.protect_all(list(tools))} if tools else {}


def _no_mask(tokenizer: Tokenizer) -> GuardError:
    return GuardError(
        "the loss mask is all zeros: the template renders no assistant turn as the model writes it",
        where=tokenizer.template.name,
        fix="give the template a {% generation %} block around the assistant's part",
    )


def _whole(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], turn: int
) -> bool:
    """Whether a turn that others follow is shown with all of its reasoning."""
    return not messages[turn].get("reasoning_content") or shows_reasoning(
        tokenizer, messages, variables, turn
    )


def _safe_chat(tokenizer: Tokenizer, messages: Sequence[Message], tools: Tools) -> list[dict[str, Any]]:
    """The same as `_safe_messages` for a chat to learn from, of which nothing may vanish."""
    safe = _safe_messages(tokenizer, messages)
    if not any(message["role"] == "assistant" for message in safe):
        raise DataError(
            "the chat has no assistant message to learn from", fix="add one or leave the chat out"
        )
    plain = all(
        set(message) <= {"role", "content"} and message["role"] in ("user", "assistant") for message in safe
    )
    if (tools or not plain) and (hidden := tokenizer.template.abilities.hidden(safe, bool(tools))):
        raise DataError(
            f"the chat template shows no {hidden}, so nothing of it would be learnt",
            where=tokenizer.template.name,
            fix="use a template that does, or leave it out of the chats",
        )
    return safe


def _safe_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Checked copies of messages with all content in disguise, arguments of calls in the form the template wants."""
    safe = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise DataError(
                f"role {role!r} is not known",
                where=f"messages[{number}]",
                fix=f"use {', '.join(sorted(ROLES))}",
            )
        content = message.get("content")
        if not (content is None or isinstance(content, (str, list))):
            raise DataError("content is neither text nor a list of parts", where=f"messages[{number}]")
        rest = {key: value for key, value in message.items() if key not in ("role", "trusted")}
        if message.get("tool_calls") and (wanted := tokenizer.template.abilities.calls):
            rest["content"] = content or wanted.without_content
            if wanted.as_text:
                rest["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
        copy: dict[str, Any] = tokenizer.shield.protect_all(rest)
        reasoning = message.get("reasoning_content")
        if role == "assistant" and message.get("trusted") is True and isinstance(reasoning, str):
            allowed = (CALL, RESULT, END_RESULT)
            copy["reasoning_content"] = tokenizer.shield.protect_except(reasoning, allowed)
        safe.append({**copy, "role": role})
    return safe


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are JSON text."""
    function = call["function"]
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _encode_marked(tokenizer: Tokenizer, marked: Marked) -> Chat:
    """Ids of a rendered chat; those between marks belong to a turn, except forced results."""
    token_ids: list[int] = []
    turns: list[int] = []
    inside, number = -1, 0
    for segment in tokenizer.shield.split(marked.text):
        if segment == OPEN:
            inside = marked.turns[number]
            number += 1
            continue
        if segment == CLOSE:
            inside = -1
            continue
        found = [segment] if isinstance(segment, int) else tokenizer.encode(segment)
        token_ids += found
        turns += [inside] * len(found)
    forced = _forced(tokenizer, token_ids)
    return Chat(token_ids, [-1 if f else turn for turn, f in zip(turns, forced, strict=True)])


def _forced(tokenizer: Tokenizer, token_ids: Sequence[int]) -> Iterable[bool]:
    """Whether each id was written by the calculator: after `<result>`, up to and including `</result>`."""
    opening, closing = tokenizer.special.get(RESULT), tokenizer.special.get(END_RESULT)
    forced = False
    for index in token_ids:
        yield forced
        forced = index == opening or (forced and index != closing)
