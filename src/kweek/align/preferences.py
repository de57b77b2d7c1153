"""Files of preferences as pairs of token ids to train on; what cannot be used is counted with its reason."""

from __future__ import annotations

from pathlib import Path

from kweek.align.chats import AGAIN, TOO_LONG, answers
from kweek.align.pairs import Pair
from kweek.data.chats import Preference, row_id
from kweek.data.chats_reading import read_chats, require
from kweek.data.chats_report import BadRow, Report
from kweek.errors import DataError
from kweek.tokenize.tokenizer import Tokenizer


def load_preferences(
    path: Path,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    format: str | None = None,
    split: str | None = None,
) -> tuple[list[Pair], Report]:
    """The pairs of a file or folder, with the margins and weights of their rows, and what was left out.

    Args:
        path, format, split: see `read_chats`.
        tokenizer: of the model that will be trained, with its chat template.
        max_tokens: of the longer of the two sequences.

    Raises:
        DataError: it cannot be read, or no pair is left.
        GuardError: there is no chat template.
    """
    tokenizer.template  # noqa: B018 - a missing one is no fault of a row
    report, seen = Report(), set[str]()
    pairs: list[Pair] = []
    for row in require(read_chats(path, report, format=format, split=split), Preference):
        try:
            if (name := row_id(row)) in seen:
                raise BadRow(AGAIN)
            seen.add(name)
            chosen, rejected = answers(tokenizer, row)
            longest = max(len(chosen.token_ids), len(rejected.token_ids))
            if longest > max_tokens:
                raise BadRow(TOO_LONG, f"{longest} of {max_tokens}")
            if chosen.token_ids == rejected.token_ids:
                raise BadRow("two equal answers")
        except BadRow as bad:
            report.num_rows -= 1
            report.skip(row.origin, bad.reason, bad.detail)
            continue
        pairs.append(Pair(chosen, rejected, row.margin or 0.0, row.weight))
    if not pairs:
        raise DataError(
            f"no pair is left ({report.commonest()})",
            where=report.source,
            fix="look at it with kweek data show",
        )
    return pairs, report
