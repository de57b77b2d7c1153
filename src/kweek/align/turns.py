"""How an episode goes on after a sampled answer: the tokens of what the model is told next, and nothing anew.

A template rendered over a whole chat need not give back the ids that were sampled: it may drop earlier thinking, and
text encodes otherwise than it was sampled. So the sampled tokens stay as they are, and only what follows them is
rendered, after a stand-in for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from kweek.errors import DataError
from kweek.protocols import Message
from kweek.tokenize.chat import END_THINK, THINK, encode_chat, encode_prompt, parse_completion
from kweek.tokenize.tokenizer import Tokenizer

_STAND_IN = {"role": "assistant", "content": "A"}


def continuation(
    tokenizer: Tokenizer, before: Sequence[Message], told: Sequence[Message], last_id: int
) -> list[int]:
    """Ids that follow a sampled answer: the end of its turn where the model did not write it, then `told`.

    Args:
        tokenizer: gives the template.
        before: the chat up to the answer, without it.
        told: what the model is told next.
        last_id: last token of the answer; a stop token ends the turn itself.

    Raises:
        DataError: the template cannot say where an answer ends, or refuses the chat.
    """
    ids, end = _after_stand_in(tokenizer, before, told)
    return ids[end:] if last_id in tokenizer.stop_ids else ids[end - 1 :]


def turn_end(tokenizer: Tokenizer, before: Sequence[Message]) -> int:
    """The token with which the template ends an assistant's turn. Raises DataError as `continuation` does."""
    ids, end = _after_stand_in(tokenizer, before, [{"role": "user", "content": "A"}])
    return ids[end - 1]


def _after_stand_in(
    tokenizer: Tokenizer, before: Sequence[Message], told: Sequence[Message]
) -> tuple[list[int], int]:
    """Ids of a chat with a stand-in for the answer, and where what the stand-in would have written ends."""
    chat = [*before, _STAND_IN, *told]
    written = encode_chat(tokenizer, chat).loss_mask
    end = len(written) - written[::-1].index(True)
    ids = encode_prompt(tokenizer, chat)
    if ids[end - 1] not in tokenizer.stop_ids:
        raise DataError(
            "the chat template does not end an assistant's turn with a token, so no turn can follow a sampled one",
            where=tokenizer.template.name,
            fix="close the assistant's turn with the end-of-turn token inside its {% generation %} block",
        )
    return ids, end


def answer_of(tokenizer: Tokenizer, token_ids: Sequence[int], told_ids: Sequence[int]) -> dict[str, str]:
    """The assistant's message that some sampled tokens are.

    Everything up to the last mark that ends thinking is thinking, wherever it began: judges read what comes after.

    Args:
        tokenizer: that of the model.
        token_ids: the answer.
        told_ids: what came before it since the last answer; a template may have opened the thinking there.
    """
    opening, closing = tokenizer.special.get(THINK), tokenizer.special.get(END_THINK)
    kept = [index for index in token_ids if index not in tokenizer.stop_ids]
    if closing is not None and closing in kept:
        end = len(kept) - kept[::-1].index(closing)
        reasoning = tokenizer.decode(kept[1 if kept[0] == opening else 0 : end - 1])
        content = tokenizer.decode(kept[end:]).strip()
    else:
        last = next((index for index in reversed(told_ids) if index in (opening, closing)), None)
        fields = parse_completion(tokenizer, kept, thinking=last is not None and last == opening)
        reasoning, content = fields["reasoning_content"], fields["content"]
    message = {"role": "assistant", "content": content}
    return message | {"reasoning_content": reasoning} if reasoning else message
