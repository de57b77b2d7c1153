"""Prompts with verifiers from a file: one JSON object a line, or a table in any format that chats are read from.

    {"prompt": "What is 12+7?", "gold": "19", "verifier": "number"}
    {"messages": [{"role": "user", "content": "…"}], "gold": "B", "verifier": {"kind": "choice", "num_options": 4}}

Further keys: "level" for tables, "reference" for a right answer where the gold is not one itself (a schema, tests).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kweek.align.environment import Episode, Item
from kweek.align.environments.single_turn import MAX_NEW_TOKENS, OneAnswer, SingleTurn
from kweek.align.verifier import whole_number
from kweek.align.verifiers.function import Judge
from kweek.align.verifiers.named import KINDS, named
from kweek.data.chats import Task
from kweek.data.chats_reading import read_chats, require
from kweek.data.chats_report import Report
from kweek.errors import DataError, KweekError
from kweek.protocols import Verifier

MAX_LINE_BYTES = 8 << 20  # of one prompt; a longer line is no prompt
_KEYS = frozenset({"prompt", "messages", "gold", "answer", "verifier", "level", "reference"})
_ROLES = ("system", "user", "assistant", "tool")
#: A right answer as a reading wants it, for the audit.
_REFERENCES = {"boxed": "\\boxed{{{}}}", "marked": "The answer is {}."}


class Prompts(SingleTurn):
    """Items that bring their verifiers.

    Args:
        name: for records.
        items: with `data["verifier"]`, as `read_items` makes them.
        max_new_tokens: of an answer.
        judge: of items without a verifier.

    Raises:
        DataError: no items, or one question with two golds.
        ConfigError: a verifier that is not there.
    """

    def __init__(
        self,
        name: str,
        items: list[Item],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        judge: Judge = whole_number,
    ) -> None:
        super().__init__(name, items, judge, max_new_tokens=max_new_tokens)

        @functools.cache
        def verifier(spec: str) -> Verifier:
            return named(json.loads(spec))

        self._verifiers = verifier
        for item in items:
            self._verifier(item)

    def _verifier(self, item: Item) -> Verifier:
        if "verifier" not in item.data:
            return self.verifier
        return self._verifiers(json.dumps(item.data["verifier"], sort_keys=True))

    def begin(self, item: Item) -> Episode:
        """A fresh attempt, judged by the item's own verifier."""
        return OneAnswer(item, self._verifier(item))


def read_prompts(
    path: Path, *, verifier: str | Judge | None = None, max_new_tokens: int = MAX_NEW_TOKENS
) -> Prompts:
    """The environment of a file or folder: JSONL as above, or what `kweek.data.chats_reading` reads tasks from.

    Args:
        path: a file (.jsonl, .json, .parquet, .arrow), a folder of them, or one that `datasets` saved.
        verifier: for prompts that name none, or only a data set that they are from; a name or a function.
        max_new_tokens: of an answer.

    Raises:
        DataError: a record that is no prompt; names file and line.
    """
    records = _lines(path) if path.suffix == ".jsonl" else _tasks(path, verifier)
    judge = verifier if callable(verifier) else whole_number
    items = read_items(records, verifier=verifier)
    return Prompts(path.stem, items, max_new_tokens=max_new_tokens, judge=judge)


def _tasks(path: Path, verifier: str | Judge | None) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Tasks of a file in another format, as the records of a line."""
    for task in require(read_chats(path, Report(), on_bad="stop"), Task):
        named_there = task.data.get("verifier") or task.verifier
        if verifier is not None and task.verifier and task.verifier not in KINDS:
            named_there = None  # the name of a data set
        record = {
            "messages": [dict(message) for message in task.prompt], "gold": task.gold, "level": task.level,
            "verifier": named_there, "reference": task.data.get("reference"),
        }  # fmt: skip
        yield task.origin, {key: value for key, value in record.items() if value is not None}


def read_items(
    records: Iterable[tuple[str, Mapping[str, Any]]], *, verifier: str | Judge | None = None
) -> list[Item]:
    """Items of records, each with where it stands; whoever reads another format gives its records here.

    Where `verifier` is a function, items of records that name none carry none.

    Raises:
        DataError: a record that is no prompt; names where.
    """
    items, checked = [], set()
    for where, record in records:
        if unknown := set(record) - _KEYS:
            raise DataError(
                f"the key {sorted(unknown)[0]!r} is not known",
                where=where,
                fix=f"use {', '.join(sorted(_KEYS))}",
            )
        spec = record.get("verifier", verifier)
        if callable(spec):
            items.append(_item(record, None, where))
            continue
        if not isinstance(spec, str | dict):
            raise DataError("no verifier is named", where=where, fix='add "verifier": "number" or another')
        written = json.dumps(spec, sort_keys=True)
        if written not in checked:
            try:
                named(spec)
            except KweekError as error:
                raise DataError(error.what, where=where, fix=error.fix) from None
            checked.add(written)
        items.append(_item(record, spec, where))
    return items


def _item(record: Mapping[str, Any], spec: str | dict[str, Any] | None, where: str) -> Item:
    gold = record.get("gold", record.get("answer"))
    if gold is None or gold == "":
        raise DataError("there is no gold answer", where=where, fix='add "gold"')
    text = gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)
    data: dict[str, Any] = {} if spec is None else {"verifier": spec}
    reading = spec.get("reading", "") if isinstance(spec, dict) else ""
    if "reference" in record:
        data["reference"] = str(record["reference"])
    elif reading in _REFERENCES:
        data["reference"] = _REFERENCES[reading].format(text)
    return Item(tuple(_messages(record, where)), text, str(record.get("level", "")), data)


def _messages(record: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    messages = record.get("messages")
    if messages is None:
        messages = [{"role": "user", "content": record.get("prompt")}]
    if not isinstance(messages, list) or not messages:
        raise DataError("there is neither a prompt nor messages", where=where, fix='add "prompt"')
    for number, message in enumerate(messages):
        here = f"{where} messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise DataError("this is no message with a role", where=here, fix=f"use {', '.join(_ROLES)}")
        content = message.get("content")
        if not (isinstance(content, str) and content.strip()) and not message.get("tool_calls"):
            raise DataError("the message is empty", where=here, fix="give it text as its content")
        if any("\ud800" <= letter <= "\udfff" for letter in str(content)):
            raise DataError("the message holds half of a surrogate pair, which is not text", where=here)
    if messages[-1]["role"] not in ("user", "tool"):
        raise DataError("the last message asks nothing", where=where, fix="end with the user's")
    return messages


def _lines(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(
            f"it cannot be read ({error.strerror})", where=str(path), fix="check the path"
        ) from None
    with file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            where = f"{path}:{number}"
            if len(line) == MAX_LINE_BYTES:
                raise DataError(
                    f"a line of over {MAX_LINE_BYTES >> 20} MiB", where=where, fix="give one prompt a line"
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"not valid JSON ({str(error)[:80]})", where=where) from None
            if not isinstance(record, dict):
                raise DataError("not a JSON object", where=where)
            yield where, record
