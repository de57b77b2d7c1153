"""Judgements from a file, ready for training: preferred pairs, and answers found good or bad.

Rows come from `kweek.data.chats_reading`, in any of its formats. What cannot be learnt from is counted with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kweek.align.chats import TOO_LONG, Divided, Made, answers, usable
from kweek.align.kto import Judged
from kweek.align.pairs import Pair
from kweek.data.chats import Judgement, Preference, question
from kweek.data.chats_reading import read_chats, require
from kweek.data.chats_report import BadRow, Report
from kweek.data.prompts import VALIDATION_SHARE, divide
from kweek.tokenize.chat import Chat
from kweek.tokenize.masks import MaskCheck
from kweek.tokenize.tokenizer import Tokenizer


def load_pairs(
    path: Path,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    format: str | None = None,
    split: str | None = None,
    share: float = VALIDATION_SHARE,
) -> Divided[Pair]:
    """Preferred pairs of a file or folder.

    Args:
        path, format, split: see `read_chats`.
        tokenizer: of the model that will be trained, with its chat template.
        max_tokens: of either sequence of a pair.
        share: of the questions kept for validation.

    Raises:
        DataError: it cannot be read, nothing of it can be used, a row is no pair, or a side is empty.
        GuardError: no chat template, or masks that must not be trained on.
    """
    report = Report()
    rows = require(read_chats(path, report, format=format, split=split), Preference)

    def make(row: Preference, sides: list[Chat]) -> list[Pair]:
        return [Pair(sides[0], sides[1], row.margin or 0.0, row.weight)]

    return _divided(rows, tokenizer, max_tokens, make, report, share)


def load_judged(
    path: Path,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    format: str | None = None,
    split: str | None = None,
    share: float = VALIDATION_SHARE,
) -> Divided[Judged]:
    """Answers found good or bad, of a file or folder; of a pair the chosen one is good and the other one bad.

    They count alike: weights of rows are for pairs. Arguments and errors as for `load_pairs`.
    """
    report = Report()
    rows = require(read_chats(path, report, format=format, split=split), Preference, Judgement)

    def make(row: Preference | Judgement, sides: list[Chat]) -> list[Judged]:
        verdicts = [True, False] if isinstance(row, Preference) else [row.good]
        return [Judged(side, good) for side, good in zip(sides, verdicts, strict=True)]

    return _divided(rows, tokenizer, max_tokens, make, report, share)


def _sides(tokenizer: Tokenizer, row: Preference | Judgement, max_tokens: int) -> list[Chat]:
    """The sequences of a row. Raises BadRow."""
    if not row.weight:
        raise BadRow("a weight of 0 throughout")
    sides = answers(tokenizer, row)
    if (longest := max(len(side.token_ids) for side in sides)) > max_tokens:
        raise BadRow(TOO_LONG, f"{longest} of {max_tokens}")
    if len(sides) == 2 and sides[0].token_ids == sides[1].token_ids:
        raise BadRow("chosen and rejected are the same", "once they are rendered")
    return sides


def _divided(
    rows: Iterator[Any],
    tokenizer: Tokenizer,
    max_tokens: int,
    make: Callable[[Any, list[Chat]], list[Made]],
    report: Report,
    share: float,
) -> Divided[Made]:
    """Both sides of what rows become; the check looks at every sequence. Raises as `load_pairs`."""
    tokenizer.template  # noqa: B018 - a missing one is no fault of a row
    check = MaskCheck(tokenizer)
    made: list[tuple[str, str, Made]] = []
    for row, sides in usable(rows, lambda row: _sides(tokenizer, row, max_tokens), report):
        for side in sides:
            check.add(side, row.origin)
        made += [(question(row), row.origin, one) for one in make(row, sides)]
    parts = divide([asked for asked, _, _ in made], share)
    return Divided(
        [made[i][2] for i in parts.train],
        [made[i][2] for i in parts.validation],
        check.audit(),
        report,
        len({made[near.train][1] for near in parts.near}),
    )
