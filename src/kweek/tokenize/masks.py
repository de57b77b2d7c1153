"""The audit of loss masks before anything is learnt from them: where the loss lies, where it ends, and on what prompt.

A mask of zeros trains on nothing and a mask of ones on the questions; a turn whose end is not learnt never stops; a
prompt that is served otherwise than it was learnt answers worse. None of these shows in the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.errors import GuardError
from kweek.protocols import Message
from kweek.tokenize.chat import Chat, encode_prompt, encode_turns
from kweek.tokenize.tokenizer import Tokenizer

MOST = 0.99  # the largest share of all tokens that may be learnt: beyond, the questions are hardly masked out
NUM_SHOWN = 5  # different tokens named at either end of turns


@dataclass(frozen=True)
class MaskAudit:
    """Where the loss of some chats lies.

    Attributes:
        num_chats, num_turns: chats, and turns of them that are learnt.
        num_tokens, num_learnt: all tokens, and those in the loss.
        first, last: the commonest tokens, as text, that learnt turns begin and end with, and how often.
    """

    num_chats: int
    num_turns: int
    num_tokens: int
    num_learnt: int
    first: tuple[tuple[str, int], ...]
    last: tuple[tuple[str, int], ...]

    @property
    def share(self) -> float:
        """Of the tokens that are in the loss."""
        return self.num_learnt / self.num_tokens


def check_masks(tokenizer: Tokenizer, chats: Sequence[Chat]) -> MaskAudit:
    """Where the loss lies, refused where training would go wrong without a word.

    Raises:
        GuardError: a chat without any loss, one with loss on every token, a share above `MOST` over all, or a turn
            that does not end with a token that ends an answer.
    """
    first, last = Counter[str](), Counter[str]()
    num_tokens = num_learnt = 0
    for number, chat in enumerate(chats):
        learnt = sum(chat.loss_mask)
        if not learnt:
            raise _refused("no token is in the loss", number, "give the template a {% generation %} block")
        if learnt == len(chat.token_ids):
            raise _refused("every token is in the loss, the question too", number, "mend the template")
        num_tokens += len(chat.token_ids)
        num_learnt += learnt
        for turn in dict.fromkeys(turn for turn in chat.turns if turn >= 0):
            places = [i for i, owner in enumerate(chat.turns) if owner == turn]
            first[tokenizer.decode([chat.token_ids[places[0]]])] += 1
            end = chat.token_ids[places[-1]]
            last[tokenizer.decode([end])] += 1
            if end not in tokenizer.stop_ids:
                raise _refused(
                    f"the last token learnt of message {turn} is {tokenizer.decode([end])!r}, which ends no answer "
                    f"(those that do: {', '.join(sorted(tokenizer.stop_texts))}), so answers would never stop",
                    number,
                    "let the template end an assistant's turn with such a token, or name it as eos_token",
                )
    if not chats:
        raise GuardError("there are no chats to learn from", fix="look at what was left out and why")
    if num_learnt > MOST * num_tokens:
        raise GuardError(
            f"{num_learnt / num_tokens:.1%} of all tokens are in the loss, over {MOST:.0%}",
            fix="check that questions are masked out; chats almost without a question are documents",
        )
    return MaskAudit(
        len(chats),
        sum(first.values()),
        num_tokens,
        num_learnt,
        tuple(first.most_common(NUM_SHOWN)),
        tuple(last.most_common(NUM_SHOWN)),
    )


def check_prompts(
    tokenizer: Tokenizer, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
) -> int:
    """Make sure that every turn is learnt behind the very tokens that a server would ask with.

    Returns:
        The number of turns compared.

    Raises:
        GuardError: a prompt, with its thinking left open, opened or closed, is not what the turn was learnt behind.
        DataError: messages that no chat has, or that the template refuses.
    """
    compared = 0
    for chat in encode_turns(tokenizer, messages, tools=tools):
        for turn in dict.fromkeys(turn for turn in chat.turns if turn >= 0):
            learnt_behind = chat.token_ids[: chat.turns.index(turn)]
            served = [
                encode_prompt(tokenizer, messages[:turn], think=think, tools=tools)
                for think in (None, True, False)
            ]
            if learnt_behind not in served:
                ends = [repr(tokenizer.decode(ids[-12:])) for ids in (learnt_behind, served[0])]
                raise GuardError(
                    f"message {turn} would be learnt behind {ends[0]} and asked for behind {ends[1]}",
                    where=tokenizer.template.name,
                    fix="use a template whose generation prompt is the beginning of an assistant's turn",
                )
            compared += 1
    return compared


def _refused(what: str, number: int, fix: str) -> GuardError:
    return GuardError(what, where=f"chat {number + 1}", fix=fix)
