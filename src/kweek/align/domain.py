"""What a specialist is to know: questions with answers to learn from, and others of the kind to be examined on.

A domain is a folder: `domain.json` says who judges, and a file of exercises for each split. So one learner after the
other, teacher and pupil, is taught from the same answers and asked the same questions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from kweek.align.chats import TOO_LONG, encode_row
from kweek.align.environment import Environment, Episode, Item, Split
from kweek.align.environments.named import environment as named_environment
from kweek.align.environments.single_turn import OneAnswer
from kweek.align.turns import turn_end
from kweek.align.verifiers.function import as_verifier
from kweek.align.verifiers.named import named
from kweek.data.batches import Segment, segment
from kweek.data.chats import Conversation
from kweek.data.chats_report import BadRow
from kweek.data.packing import keyed_generator
from kweek.errors import DataError
from kweek.protocols import Message, TokenInterceptor
from kweek.store.files import read_json
from kweek.store.target import Target, open_in, write_json_in
from kweek.system.inline_calculator import InlineCalculator, pieces
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

SPLITS: tuple[Split, ...] = get_args(Split)
_FILE = "domain.json"


@dataclass(frozen=True)
class Exercise:
    """A question, how it may be answered, and what is right.

    Attributes:
        messages: ending with the question; answers of earlier turns are learnt too.
        answer: an assistant's message to imitate; None where there is only the right result. Its content may hold calls
            of the calculator, `<<48/2=24>>`.
        gold: what the judge compares with.
        level: how hard, for tables.
        tools: descriptions of the tools that were at hand, in OpenAI's form.
        data: what else the judge needs, as JSON.
    """

    messages: tuple[Message, ...]
    answer: Message | None
    gold: str = ""
    level: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def item(self) -> Item:
        """As an environment gives it."""
        return Item(self.messages, self.gold, self.level, self.data)

    @property
    def question(self) -> str:
        """The words of the last message."""
        return str(self.messages[-1].get("content"))

    @property
    def worked(self) -> str:
        """The words of the answer to imitate, empty where there is none."""
        return "" if self.answer is None else str(self.answer.get("content") or "")


@dataclass(frozen=True)
class Domain:
    """Exercises by split, and who judges answers to them.

    Attributes:
        name: for tables.
        verifier: a name, or a kind with options, as `kweek.align.verifiers.named` takes them.
        calculator: whether calls of the calculator in an answer are answered.
        max_new_tokens: of an answer.
        exercises: by split.
        task: the environment that judges instead of the verifier, by name; empty for none.
    """

    name: str
    verifier: str | Mapping[str, Any]
    calculator: bool
    max_new_tokens: int
    exercises: Mapping[Split, Sequence[Exercise]]
    task: str = ""

    def environment(self) -> Environment:
        """Its questions with their judge."""
        return _Questions(self)

    def items(self, split: Split, most: int | None = None) -> list[Item]:
        """The questions of a split in stored order, at most so many of them."""
        return [exercise.item for exercise in self.exercises[split][:most]]

    def segments(
        self, tokenizer: Tokenizer, split: Split, max_tokens: int, left_out: Counter[str] | None = None
    ) -> list[Segment]:
        """Questions with their answers, weight 1 on every token that the model is to write.

        Args:
            max_tokens: of an example; longer ones are left out.
            left_out: counts what is, by reason.

        Raises:
            DataError: nothing is left to learn from.
        """
        answered = [exercise for exercise in self.exercises[split] if exercise.answer is not None]
        end_id = turn_end(tokenizer, answered[0].messages) if answered and self.calculator else None
        found: list[Segment] = []
        for exercise in answered:
            try:
                found += encode_exercise(tokenizer, exercise, end_id, max_tokens)
            except BadRow as bad:
                if left_out is not None:
                    left_out[bad.reason] += 1
        if not found:
            raise DataError(
                f"the domain has no answer to learn from in {split} that fits into {max_tokens} tokens",
                where=self.name,
                fix="give examples with answers, a teacher, or raise max_tokens",
            )
        return found

    def save(self, out: Target) -> None:
        """Write it into a folder or an artifact."""
        about = {
            key: getattr(self, key) for key in ("name", "verifier", "calculator", "max_new_tokens", "task")
        }
        write_json_in(out, _FILE, about)
        for split in SPLITS:
            with open_in(out, f"{split}.jsonl") as stream:
                for exercise in self.exercises.get(split, ()):
                    stream.write(json.dumps(asdict(exercise), ensure_ascii=False).encode() + b"\n")


def load_domain(folder: Path) -> Domain:
    """What `Domain.save` wrote. Raises StoreError or DataError where it is not there."""
    about = read_json(folder / _FILE)
    exercises: dict[Split, list[Exercise]] = {}
    for split in SPLITS:
        try:
            lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError("this is no domain", where=str(folder), fix="make it anew") from error
        exercises[split] = [_exercise(json.loads(line)) for line in lines]
    return Domain(exercises=exercises, **about)


def _exercise(row: dict[str, Any]) -> Exercise:
    return Exercise(**{**row, "messages": tuple(row["messages"]), "tools": tuple(row["tools"])})


def with_answers(domain: Domain, answered: Sequence[Exercise]) -> Domain:
    """The same domain with other exercises to learn from, such as those that a teacher answered."""
    return replace(domain, exercises={**domain.exercises, "train": list(answered)})


def encode_exercise(
    tokenizer: Tokenizer, exercise: Exercise, end_id: int | None, max_tokens: int
) -> list[Segment]:
    """Question and answer to learn.

    Where there are calls of the calculator their results are encoded apart, as they will come, and carry no weight: the
    model learns to ask, not to reckon.

    Args:
        end_id: the token that ends a turn, where the calculator answers; None without a calculator.

    Raises:
        BadRow: they exceed `max_tokens`, or the template does not take them.
    """
    assert exercise.answer is not None
    if end_id is not None and not exercise.tools and set(exercise.answer) <= {"role", "content"}:
        ids = encode_prompt(tokenizer, exercise.messages)
        weights = [0.0] * len(ids)
        for text, own in pieces(exercise.worked):
            part = tokenizer.encode(text)
            ids += part
            weights += [float(own)] * len(part)
        if len(ids) >= max_tokens:
            raise BadRow(TOO_LONG, f"{len(ids) + 1} of {max_tokens}")
        return [segment([*ids, end_id], [*weights, 1.0])]
    chat = Conversation((*exercise.messages, exercise.answer), exercise.tools)
    return [example.segment() for _, example in encode_row(tokenizer, chat, max_tokens)]


class _Questions:
    """The questions of a domain as an environment."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._verifier = as_verifier(named(domain.verifier))
        self._inner = named_environment(domain.task) if domain.task else None
        self.name, self.max_new_tokens = domain.name, domain.max_new_tokens
        self.max_turns = self._inner.max_turns if self._inner else 1

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Items of a split in keyed order; fewer where there are not so many."""
        found = self._domain.items(split)
        order = keyed_generator("items", key, split).permutation(len(found))[:count]
        return [found[int(number)] for number in order]

    def begin(self, item: Item) -> Episode:
        """A fresh attempt, judged by the task's own rules where the domain is one."""
        return self._inner.begin(item) if self._inner else OneAnswer(item, self._verifier)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """The task's own tool, or the calculator where the domain has one."""
        if self._inner is not None:
            return self._inner.interceptor(tokenizer)
        return InlineCalculator(tokenizer) if self._domain.calculator else None
