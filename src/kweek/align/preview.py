"""What training would see of a file: samples with their loss, lengths, and everything that was left out and why."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kweek.align.chats import AGAIN, NUM_COMPARED, TOO_LONG, answers, encode_row
from kweek.data.chats import Conversation, Preference, Row, Task, row_id
from kweek.data.chats_reading import read_chats
from kweek.data.chats_report import BadRow, Report
from kweek.errors import CheckpointError, DataError, GuardError
from kweek.tokenize.chat import Chat, encode_prompt
from kweek.tokenize.masks import MaskAudit, MaskCheck, check_prompts
from kweek.tokenize.tokenizer import Tokenizer

NUM_MEASURED = 1000  # rows encoded for lengths and masks: enough for percentiles, a few seconds of rendering
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Sample:
    """One sequence as a model would see it.

    Attributes:
        origin: file and line.
        title: what it is ("chat", "chosen", "rejected", "good", "bad", "task").
        tokens: text, weight in the loss, and whether it is a control token, of every token.
        gold: the right answer of a task.
    """

    origin: str
    title: str
    tokens: list[tuple[str, float, bool]]
    gold: str = ""


@dataclass
class Preview:
    """What was found.

    Attributes:
        report: of the reading.
        samples: of the first rows.
        num_measured: rows that were encoded.
        unfit: those of them that the template does not take or that are too long.
        lengths, learnt: tokens of every encoded sequence, and those of them in the loss.
        audit: where the loss lies; None where it is refused or there is nothing to learn.
        faults: what training on this would be refused for.
    """

    report: Report
    samples: list[Sample] = field(default_factory=list)
    num_measured: int = 0
    unfit: Report = field(default_factory=Report)
    lengths: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    audit: MaskAudit | None = None
    faults: list[str] = field(default_factory=list)

    def quantiles(self, of: list[int]) -> dict[str, int]:
        """Percentiles of some counts, by name; empty without any."""
        if not of:
            return {}
        values = np.quantile(of, QUANTILES, method="higher")
        return {f"p{100 * q:g}": int(value) for q, value in zip(QUANTILES, values, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        audit = self.audit
        return {
            "report": self.report.to_dict(),
            "measured": self.num_measured,
            "unfit": self.unfit.to_dict()["skipped"],
            "tokens": self.quantiles(self.lengths),
            "learnt": self.quantiles(self.learnt),
            "share": audit.share if audit else None,
            "first": list(audit.first) if audit else [],
            "last": list(audit.last) if audit else [],
            "faults": self.faults,
            "samples": [vars(sample) for sample in self.samples],
        }


def preview(
    path: Path,
    tokenizer: Tokenizer,
    *,
    format: str | None = None,
    split: str | None = None,
    max_tokens: int = 1 << 30,
    num_samples: int = 3,
    num_measured: int = NUM_MEASURED,
) -> Preview:
    """Read all of a file; encode its first rows to be shown, and some chosen by their hash to be measured.

    Args:
        path, format, split: see `read_chats`.
        tokenizer: with its chat template.
        max_tokens: longest sequence; a longer one is left out, as training would.
        num_samples: rows to show.
        num_measured: rows to encode; the same ones whatever their order.

    Raises:
        DataError: it cannot be read, or nothing of it can be used.
        GuardError: there is no chat template.
    """
    tokenizer.template  # noqa: B018 - a missing one is no fault of a row
    found = Preview(Report())
    first: list[Row] = []
    chosen: list[tuple[int, int, Row]] = []  # a heap: the row with the largest hash on top
    seen: set[str] = set()
    for number, row in enumerate(read_chats(path, found.report, format=format, split=split)):
        name = row_id(row)
        if name in seen:
            found.report.num_rows -= 1
            found.report.skip(row.origin, AGAIN)
            continue
        seen.add(name)
        if len(first) < num_samples:
            first.append(row)
        entry = (-int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"), number, row)
        heapq.heappush(chosen, entry) if len(chosen) < num_measured else heapq.heappushpop(chosen, entry)
    _measure(found, tokenizer, [row for _, _, row in sorted(chosen, key=lambda e: e[1])], max_tokens)
    for row in first:
        try:
            found.samples += _samples(tokenizer, row, max_tokens)
        except BadRow as bad:
            found.samples.append(Sample(row.origin, f"left out: {bad}", []))
    return found


def _measure(found: Preview, tokenizer: Tokenizer, rows: Iterable[Row], max_tokens: int) -> None:
    """Lengths, masks and faults of some rows."""
    check = MaskCheck(tokenizer)
    refused = differs = False
    for number, row in enumerate(rows):
        found.num_measured += 1
        try:
            chats = _chats(tokenizer, row, max_tokens)
        except BadRow as bad:
            found.unfit.skip(row.origin, bad.reason, bad.detail)
            continue
        for _, chat, weights in chats:
            found.lengths.append(len(chat.token_ids))
            found.learnt.append(sum(weight > 0 for weight in weights))
            try:
                if not isinstance(row, Task) and not refused:
                    check.add(chat, row.origin)
            except GuardError as error:
                found.faults.append(str(error))
                refused = True
        if number < NUM_COMPARED and isinstance(row, Conversation) and not differs:
            try:
                check_prompts(tokenizer, row.messages, tools=row.tools)
            except GuardError as error:
                found.faults.append(str(error))
                differs = True
    if not refused and any(found.learnt):
        try:
            found.audit = check.audit()
        except GuardError as error:
            found.faults.append(str(error))


def _chats(tokenizer: Tokenizer, row: Row, max_tokens: int) -> list[tuple[str, Chat, list[float]]]:
    """Title, sequence and weights of everything that a row becomes. Raises BadRow where it becomes nothing."""
    if isinstance(row, Conversation):
        return [
            ("chat", chat, example.weights.tolist())
            for chat, example in encode_row(tokenizer, row, max_tokens)
        ]
    if isinstance(row, Task):
        try:
            ids = encode_prompt(tokenizer, row.prompt, tools=row.tools)
        except (DataError, CheckpointError) as error:
            raise BadRow("not for this chat template", error.what) from None
        return [("task", Chat(ids, [-1] * len(ids)), [0.0] * len(ids))]
    titles = ("chosen", "rejected") if isinstance(row, Preference) else ("good" if row.good else "bad",)
    chats = answers(tokenizer, row)
    if (longest := max(len(chat.token_ids) for chat in chats)) > max_tokens:
        raise BadRow(TOO_LONG, f"{longest} of {max_tokens}")
    return [
        (title, chat, [row.weight * learnt for learnt in chat.loss_mask])
        for title, chat in zip(titles, chats, strict=True)
    ]


def _samples(tokenizer: Tokenizer, row: Row, max_tokens: int) -> list[Sample]:
    """Everything that a row becomes, token by token."""
    special = frozenset(tokenizer.special.values())
    return [
        Sample(
            row.origin,
            title,
            [
                (text, weight, index in special)
                for text, weight, index in zip(
                    _texts(tokenizer, chat.token_ids), weights, chat.token_ids, strict=True
                )
            ],
            row.gold if isinstance(row, Task) else "",
        )
        for title, chat, weights in _chats(tokenizer, row, max_tokens)
    ]


def _texts(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    """The text of every token; a character that takes several comes with the last of them."""
    texts: list[str] = []
    held = b""
    for index in token_ids:
        held += tokenizer.decode_bytes([index])
        try:
            texts.append(held.decode("utf-8"))
            held = b""
        except UnicodeDecodeError as error:
            if len(held) - error.start >= 4:  # no character is so long: these bytes are none
                texts.append(held.decode("utf-8", "replace"))
                held = b""
            else:
                texts.append("")
    if held and texts:
        texts[-1] = held.decode("utf-8", "replace")
    return texts
