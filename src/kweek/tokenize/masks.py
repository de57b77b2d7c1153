"""The audit of loss masks before anything is learnt from them: where the loss lies, where it ends, and on what prompt.

A mask of zeros trains on nothing and a mask of ones on the questions; a turn whose end is not learnt never stops; a
prompt that is served otherwise than it was learnt answers worse. None of these shows in the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


class MaskCheck:
    """Looks at chats one by one, so that none need be kept. Raises GuardError as `check_masks`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._first, self._last = Counter[int](), Counter[int]()
        self._num_chats = self._num_tokens = self._num_learnt = 0

    def add(self, chat: Chat, name: str = "") -> None:
        """Look at a chat; `name` is what an error calls it, else its number."""
        self._num_chats += 1
        name = name or f"chat {self._num_chats}"
        learnt = sum(chat.loss_mask)
        if not learnt:
            fix = "give the template a {% generation %} block around the assistant's part"
            raise GuardError("no token is in the loss", where=name, fix=fix)
        if learnt == len(chat.token_ids):
            raise GuardError(
                "every token is in the loss, the question too", where=name, fix="mend the template"
            )
        self._num_tokens += len(chat.token_ids)
        self._num_learnt += learnt
        ends: dict[int, int] = {}
        for index, turn in zip(chat.token_ids, chat.turns, strict=True):
            if turn >= 0:
                if turn not in ends:
                    self._first[index] += 1
                ends[turn] = index
        for turn, index in ends.items():
            self._last[index] += 1
            if index not in self._tokenizer.stop_ids:
                raise GuardError(
                    f"the last token learnt of message {turn} is {self._tokenizer.decode([index])!r}, which ends no "
                    f"answer (those that do: {', '.join(sorted(self._tokenizer.stop_texts))}), so answers would "
                    "never stop",
                    where=name,
                    fix="let the template end an assistant's turn with such a token, or name it as eos_token",
                )

    def audit(self) -> MaskAudit:
        """What was found in all of them."""
        if not self._num_chats:
            raise GuardError("there are no chats to learn from", fix="look at what was left out and why")
        if self._num_learnt > MOST * self._num_tokens:
            raise GuardError(
                f"{self._num_learnt / self._num_tokens:.1%} of all tokens are in the loss, over {MOST:.0%}",
                fix="check that questions are masked out; chats almost without a question are documents",
            )
        return MaskAudit(
            self._num_chats,
            self._first.total(),
            self._num_tokens,
            self._num_learnt,
            self._named(self._first),
            self._named(self._last),
        )

    def _named(self, counts: Counter[int]) -> tuple[tuple[str, int], ...]:
        return tuple((self._tokenizer.decode([index]), n) for index, n in counts.most_common(NUM_SHOWN))


def check_masks(tokenizer: Tokenizer, chats: Iterable[Chat]) -> MaskAudit:
    """Where the loss lies, refused where training would go wrong without a word.

    Raises:
        GuardError: a chat without any loss, one with loss on every token, a share above `MOST` over all, or a turn
            that does not end with a token that ends an answer.
    """
    check = MaskCheck(tokenizer)
    for chat in chats:
        check.add(chat)
    return check.audit()


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
