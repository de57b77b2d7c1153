"""Chats and judgements as token ids to train on: encoded as they will be served, weighted, divided, and audited.

Rows come from `kweek.data.chats_reading`. What cannot be encoded is counted with its reason, nothing is cut silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from kweek.align.environment import Item
from kweek.data.batches import Ids, Segment, Weights, segment
from kweek.data.chats import Conversation, Judgement, Messages, Preference, Row, Task, Tools, question, row_id
from kweek.data.chats_reading import read_chats, require
from kweek.data.chats_report import BadRow, Report
from kweek.data.prompts import VALIDATION_SHARE, divide, find_near
from kweek.errors import CheckpointError, DataError, GuardError
from kweek.tokenize.chat import Chat, encode_turns
from kweek.tokenize.masks import MaskAudit, MaskCheck, check_prompts
from kweek.tokenize.tokenizer import Tokenizer

NUM_COMPARED = 3  # chats whose prompts are compared with served ones: a template does it rightly or never
OverLong = Literal["skip", "cut"]
AGAIN = "the same row as one before"
TOO_LONG = "more tokens than fit"
Read = TypeVar("Read", bound=Row)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Example:
    """One sequence to learn from. `ids` (T,) and `weights` (T,) are parallel; 0 where nothing is learnt.

    Attributes:
        ids: token ids.
        weights: of every token in the loss.
        question: what it is about, for splits.
        origin: file and line of the row.
    """

    ids: Ids
    weights: Weights
    question: str = ""
    origin: str = ""

    def segment(self) -> Segment:
        """The same as inputs and targets."""
        return segment(self.ids, self.weights)


@dataclass(frozen=True)
class Divided(Generic[Made]):
    """What a file gave, ready for training.

    Attributes:
        train, validation: either side, divided by what is asked.
        audit: where the loss lies.
        report: what was read, changed and left out.
        num_near: training rows left out because validation asks nearly the same.
    """

    train: list[Made]
    validation: list[Made]
    audit: MaskAudit
    report: Report
    num_near: int


def encode_row(
    tokenizer: Tokenizer, row: Conversation, max_tokens: int, over_long: OverLong = "skip"
) -> list[tuple[Chat, Example]]:
    """The examples of one chat, in each of which some of its turns are learnt.

    Args:
        tokenizer: with its chat template.
        row: a chat; weights of messages multiply that of the row.
        max_tokens: of one example.
        over_long: what becomes of a longer chat: left out, or cut after the last turn that fits.

    Raises:
        BadRow: it does not fit, the template does not take it, or nothing of it has a weight.
    """
    end = len(row.messages)
    while True:
        chats = encode(tokenizer, row.messages[:end], row.tools)
        longest = max(len(chat.token_ids) for chat in chats)
        if longest <= max_tokens:
            break
        earlier = [i for i in range(end - 1) if row.messages[i]["role"] == "assistant"]
        if over_long == "skip" or not earlier:
            raise BadRow(TOO_LONG, f"{longest} of {max_tokens}")
        end = earlier[-1] + 1
    found = []
    for chat in chats:
        by_turn = {
            turn: row.weight * float(row.messages[turn].get("weight", 1.0)) for turn in {*chat.turns} - {-1}
        }
        weights = np.array([by_turn.get(turn, 0.0) for turn in chat.turns], np.float32)
        if weights.any():
            ids = np.asarray(chat.token_ids, np.int64)
            found.append((chat, Example(ids, weights, question(row), row.origin)))
    if not found:
        raise BadRow("a weight of 0 throughout")
    return found


def encode_answer(tokenizer: Tokenizer, prompt: Messages, answer: Messages, tools: Tools = ()) -> Chat:
    """Prompt and answer as one sequence in which the answer alone is learnt: one side of a pair, or a judged answer.

    Raises:
        BadRow: the template does not take it, or renders the turns of the answer otherwise when they stand together.
    """
    chats = encode(tokenizer, (*prompt, *answer), tools, first=len(prompt))
    if len(chats) > 1:
        raise BadRow("an answer of several turns that the template rewrites")
    return chats[0]


def encode(tokenizer: Tokenizer, messages: Messages, tools: Tools, first: int = 0) -> list[Chat]:
    """`encode_turns`, where what one chat alone is to blame for is a BadRow."""
    try:
        return encode_turns(tokenizer, messages, tools=tools, first=first)
    except (DataError, CheckpointError) as error:
        raise BadRow("not for this chat template", error.what) from None
    except GuardError as error:
        raise BadRow("no turn of it can be marked", error.what) from None


def encode_rows(
    tokenizer: Tokenizer,
    rows: Iterable[Conversation],
    report: Report,
    *,
    max_tokens: int,
    over_long: OverLong = "skip",
    check: MaskCheck | None = None,
) -> Iterator[Example]:
    """The examples of many chats; what is left out is counted in `report`.

    Args:
        tokenizer, max_tokens, over_long: see `encode_row`.
        rows: chats.
        report: of their reading.
        check: looks at every mask; the prompts of the first chats are compared with those that are served.

    Raises:
        GuardError: there is no chat template; a mask or a prompt that must not be trained on.
    """
    tokenizer.template  # noqa: B018 - a missing one is no fault of a row

    def make(row: Conversation) -> list[tuple[Chat, Example]]:
        return encode_row(tokenizer, row, max_tokens, over_long)

    for number, (row, found) in enumerate(usable(rows, make, report)):
        for chat, example in found:
            if check is not None:
                check.add(chat, row.origin)
            yield example
        if check is not None and number < NUM_COMPARED:
            check_prompts(tokenizer, row.messages, tools=row.tools)


def usable(rows: Iterable[Read], make: Callable[[Read], Made], report: Report) -> Iterator[tuple[Read, Made]]:
    """Every row that has not been met before, with what is made of it; where that raises BadRow, it is counted."""
    seen: set[str] = set()
    for row in rows:
        try:
            name = row_id(row)
            if name in seen:
                raise BadRow(AGAIN)
            seen.add(name)
            made = make(row)
        except BadRow as bad:
            report.num_rows -= 1
            report.skip(row.origin, bad.reason, bad.detail)
            continue
        yield row, made


def load_chats(
    path: Path,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    format: str | None = None,
    split: str | None = None,
    validation: Path | None = None,
    share: float = VALIDATION_SHARE,
    over_long: OverLong = "skip",
) -> Divided[Example]:
    """Read, encode, audit and divide the chats of a file or folder.

    Args:
        path, format, split: see `read_chats`.
        tokenizer: of the model that will be trained, with its chat template.
        max_tokens: longest example.
        validation: a file of its own; by default a share of the questions, by the hash of their words.
        share: of the questions kept for validation.
        over_long: see `encode_row`.

    Raises:
        DataError: it cannot be read, nothing of it can be used, or a side is empty.
        GuardError: no chat template, or masks that must not be trained on.
    """
    report, check = Report(), MaskCheck(tokenizer)

    def examples(where: Path, into: Report) -> list[Example]:
        rows = require(read_chats(where, into, format=format, split=split), Conversation)
        return list(
            encode_rows(tokenizer, rows, into, max_tokens=max_tokens, over_long=over_long, check=check)
        )

    everything = examples(path, report)
    if validation is None:
        parts = divide([example.question for example in everything], share)
        train = [everything[i] for i in parts.train]
        kept_out = [everything[i] for i in parts.validation]
        near = len({everything[n.train].origin for n in parts.near})
    else:
        apart = Report()
        kept_out = examples(validation, apart)
        near_rows = {
            n.train for n in find_near([e.question for e in everything], [e.question for e in kept_out])
        }
        train = [example for i, example in enumerate(everything) if i not in near_rows]
        near = len({everything[i].origin for i in near_rows})
        report.note(f"validation from {apart.source}: {apart.num_rows} rows, {apart.num_skipped} left out")
        if not train:
            raise DataError(
                "every row asks nearly what validation asks",
                where=report.source,
                fix="name another validation file",
            )
    return Divided(train, kept_out, check.audit(), report, near)


def answers(tokenizer: Tokenizer, row: Preference | Judgement) -> list[Chat]:
    """The sequences of a judged row: chosen and rejected, or the one answer. Raises BadRow as `encode_answer`."""
    sides = (row.chosen, row.rejected) if isinstance(row, Preference) else (row.answer,)
    return [encode_answer(tokenizer, row.prompt, side, row.tools) for side in sides]


def as_item(task: Task) -> Item:
    """A task as an environment gives it."""
    data = {**task.data, **({"verifier": task.verifier} if task.verifier else {})}
    return Item(task.prompt, task.gold, task.level, data)
