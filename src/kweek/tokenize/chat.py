"""Chats to token ids with a loss mask: one list of ids for training, evaluation and serving.

Content is ordinary text whatever it spells; only the template's own literals become control tokens, see
`shield`. The mask marks what the model itself writes: the `{% generation %}` blocks of a template that has
them, else the difference between the text before a turn and the text with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.errors import DataError, GuardError
from kweek.protocols import Message
from kweek.tokenize.shield import CLOSE, OPEN
from kweek.tokenize.tokenizer import Tokenizer

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
THINK, END_THINK = "<think>", "</think>"
CALL, RESULT, END_RESULT = "<tool>", "<result>", "</result>"


@dataclass(frozen=True)
class Chat:
    """A chat as token ids; `loss_mask` is parallel and true where the model itself wrote the token."""

    token_ids: list[int]
    loss_mask: list[bool]


def encode_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> Chat:
    """Ids of a whole chat and the mask of what the model wrote.

    An assistant message may carry `reasoning_content`, and `trusted=True` where our own generator or engine
    wrote it: then the calculator's tokens in its reasoning become control tokens. Results that the calculator
    returned, up to and including `</result>`, are not in the loss. A turn whose reasoning the template drops
    because a later question follows is not in the loss either (see `encode_turns`).

    Raises:
        DataError: messages that no chat has, or that the template refuses.
        GuardError: no template, or a mask without a single true entry.
    """
    safe = _safe_messages(tokenizer, messages)
    if not any(message["role"] == "assistant" for message in safe):
        raise DataError(
            "the chat has no assistant message to learn from", fix="add one or leave the chat out"
        )
    chat = _encode_marked(tokenizer, _render_marked(tokenizer, safe))
    if not any(chat.loss_mask):
        raise GuardError(
            "the loss mask is all zeros: the template renders no assistant turn as the model writes it",
            where=tokenizer.template.name,
            fix="give the template a {% generation %} block around the assistant's part",
        )
    return chat


def encode_turns(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Chat]:
    """Training examples of a chat in which every reasoning is learnt in the turn that produced it.

    One example where nothing is dropped; else one for each assistant turn, with the loss on that turn alone.
    """
    asked = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not any(messages[i].get("reasoning_content") for i in turns if i < asked):
        return [encode_chat(tokenizer, messages)]
    chats = []
    for turn in turns:
        chat = encode_chat(tokenizer, messages[: turn + 1])
        num_prompt = len(encode_prompt(tokenizer, messages[:turn]))
        mask = [masked and i >= num_prompt for i, masked in enumerate(chat.loss_mask)]
        chats.append(Chat(chat.token_ids, mask))
    return chats


def encode_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    think: bool | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
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
    variables: dict[str, Any] = {"add_generation_prompt": True}
    if tools:
        variables["tools"] = tokenizer.shield.protect_all(list(tools))
    if think is not None:
        variables["enable_thinking"] = think
    safe = _safe_messages(tokenizer, messages)
    token_ids = _encode_marked(tokenizer, _render_marked(tokenizer, safe, **variables)).token_ids
    opening, closing = tokenizer.special.get(THINK), tokenizer.special.get(END_THINK)
    last = next((index for index in reversed(token_ids) if index in (opening, closing)), closing)
    if think and opening is not None and last != opening:
        token_ids.append(
            opening
        )  # not by the template: llama.cpp sets `enable_thinking` whether asked or not
    return token_ids


def encode_trusted(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of text that our own generator wrote: control tokens spelled in it become control ids."""
    return _encode_marked(tokenizer, tokenizer.shield.protect_except(text, tokenizer.special)).token_ids


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


def _safe_messages(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Checked copies of messages with all content in disguise."""
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
        copy: dict[str, Any] = tokenizer.shield.protect_all(rest)
        reasoning = message.get("reasoning_content")
        if role == "assistant" and message.get("trusted") is True and isinstance(reasoning, str):
            allowed = (CALL, RESULT, END_RESULT)
            copy["reasoning_content"] = tokenizer.shield.protect_except(reasoning, allowed)
        safe.append({**copy, "role": role})
    return safe


def _render_marked(tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any) -> str:
    """The rendered chat with marks around what the model writes.

    The marks also bound the tokens, in a prompt's history too: the model goes on after the tokens of a prompt,
    so no token of a whole chat may reach across that place.
    """
    if tokenizer.template.has_generation:
        return tokenizer.template.render_marked(messages, **variables)
    return _mark_by_prefix(tokenizer, messages, variables)


def _mark_by_prefix(tokenizer: Tokenizer, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
    """The same for a template without `{% generation %}`, by rendering what comes before each turn.

    A turn counts where the chat up to it and the chat through it are both prefixes of the whole; a template
    that rewrites a turn once another follows (dropping its thinking) has rendered what the model never wrote.
    """

    def render(until: int, prompt: bool) -> str:
        values = {**variables, "add_generation_prompt": prompt}
        return tokenizer.template.render_marked(messages[:until], **values) if until else ""

    whole = tokenizer.template.render_marked(messages, **variables)
    controls = tokenizer.shield.spans(whole)
    marked, at = "", 0
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, through = render(turn, prompt=False), render(turn + 1, prompt=False)
        if not whole.startswith(before) or not whole.startswith(through):
            continue
        start = max(len(before), _common_length(render(turn, prompt=True), whole))
        start = next((s for s, e in controls if s < start < e), start)  # never inside a control token
        ends = [e for _, e in controls if start < e <= len(through)]
        end = ends[-1] if ends and not whole[ends[-1] : len(through)].strip() else len(through)
        marked += whole[at:start] + OPEN + whole[start:end] + CLOSE
        at = end
    return marked + whole[at:]


def _common_length(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _encode_marked(tokenizer: Tokenizer, rendered: str) -> Chat:
    """Ids of a rendered chat; the mask is true between marks, except on forced results."""
    token_ids: list[int] = []
    mask: list[bool] = []
    inside = False
    for segment in tokenizer.shield.split(rendered):
        if segment in (OPEN, CLOSE):
            inside = segment == OPEN
            continue
        found = [segment] if isinstance(segment, int) else tokenizer.encode(segment)
        token_ids += found
        mask += [inside] * len(found)
    return Chat(token_ids, [m and not f for m, f in zip(mask, _forced(tokenizer, token_ids), strict=True)])


def _forced(tokenizer: Tokenizer, token_ids: Sequence[int]) -> Iterable[bool]:
    """Whether each id was written by the calculator: after `<result>`, up to and including `</result>`."""
    opening, closing = tokenizer.special.get(RESULT), tokenizer.special.get(END_RESULT)
    forced = False
    for index in token_ids:
        yield forced
        forced = index == opening or (forced and index != closing)
