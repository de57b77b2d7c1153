"""From the ids of a prompt back to the chat that it renders, so that a system can be asked as a language model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kweek.errors import DataError
from kweek.protocols import Message
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

_OPEN, _CLOSE = "<|im_start|>", "<|im_end|>"  # ChatML, which our own models, Qwen's and SmolLM's speak


def messages_of(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> list[Message]:
    """The messages of a prompt; rendering them gives the very same ids, or this raises.

    Raises:
        DataError: no chat in the form of ChatML, or one that the template renders otherwise.
    """
    ids, special = list(prompt_ids), tokenizer.special
    if not {_OPEN, _CLOSE} <= special.keys() or special[_OPEN] not in ids:
        raise _no_chat()
    messages: list[dict[str, Any]] = []
    starts = [place for place, index in enumerate(ids) if index == special[_OPEN]]
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        turn = ids[start + 1 : end]
        if special[_CLOSE] not in turn:
            break  # the answer that is to be written
        role, _, content = tokenizer.decode(turn[: turn.index(special[_CLOSE])]).partition("\n")
        messages.append({"role": role, "content": content})
    rendered = (encode_prompt(tokenizer, messages, think=think) for think in (None, True, False))
    if not messages or ids not in rendered:
        raise _no_chat()
    return list(messages)


def _no_chat() -> DataError:
    return DataError(
        "a system answers chats, and this prompt is none that its template renders",
        fix="encode the messages with the tokenizer of its role core",
    )
