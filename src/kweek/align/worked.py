"""Worked examples: a question and a solution in words, with calls of the calculator written into it.

At generation a result is forced by the calculator, so in training its tokens are encoded apart, exactly as they will
come, and carry no weight: the model learns to ask, not to reckon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from kweek.data.batches import Segment, segment
from kweek.data.chats_files import find_source, read_records
from kweek.data.stories import Problem
from kweek.errors import DataError
from kweek.system.arithmetic import Unreadable, evaluate, written
from kweek.system.inline_calculator import pieces
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

ANSWER_MARK = "####"  # as in GSM8K; what follows it in the last line is the answer


@dataclass(frozen=True)
class Worked:
    """A question and its worked solution, which ends with a line `#### ANSWER`."""

    question: str
    solution: str

    @property
    def answer(self) -> str:
        """What follows the last mark."""
        return self.solution.rpartition(ANSWER_MARK)[2].strip()


def of_problem(item: Problem) -> Worked:
    """A generated problem with one line per step."""
    lines = [
        f"{step.left} {step.sign} {step.right} = <<{step.expression}={step.value}>>{step.value}"
        for step in item.steps
    ]
    return Worked(item.question, "\n".join([*lines, f"{ANSWER_MARK} {item.answer}"]))


def read_worked(path: Path) -> list[Worked]:
    """Records with `question` and `answer`, as GSM8K has them, in JSON lines or any other file of chats.

    Raises:
        DataError: the file cannot be read, or a record is no such example; names it.
    """
    found = []
    for record in (record for file in find_source(path).files for record in read_records(file)):
        if record.fault is not None:
            raise DataError(record.fault, where=record.where, fix="give one example per line")
        row = record.value
        texts = [row.get(key) if isinstance(row, dict) else None for key in ("question", "answer")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(
                "an example needs a question and an answer", where=record.where, fix="give both as text"
            )
        example = Worked(str(texts[0]), str(texts[1]))
        if ANSWER_MARK not in example.solution:
            raise DataError(
                f"the answer has no line {ANSWER_MARK}",
                where=record.where,
                fix=f"end it with {ANSWER_MARK} 42",
            )
        found.append(example)
    if not found:
        raise DataError("there is no example", where=str(path), fix="give one per line")
    return found


def with_the_calculators_results(examples: Sequence[Worked]) -> tuple[list[Worked], Mapping[str, int]]:
    """The examples with results spelled as the calculator spells them, and how many were left out by reason.

    A result that people have rounded (33.33 for 100/3) would teach the model to go on from a number it never sees.
    """
    kept: list[Worked] = []
    left: Counter[str] = Counter()
    for example in examples:
        try:
            kept.append(replace(example, solution=_respelled(example.solution)))
        except Unreadable:
            left["a result that is not the calculator's"] += 1
    return kept, left


def _respelled(solution: str) -> str:
    """Raises:
    Unreadable: a result of another value than its expression.
    """
    text, value = "", Fraction(0)
    for part, own in pieces(solution):
        if own:
            text += part
            if part.endswith("="):
                value = evaluate(part.rpartition("<<")[2].removesuffix("="))
        elif evaluate(part.removesuffix(">>")) == value:
            text += f"{written(value)}>>"
        else:
            raise Unreadable
    return text


def worked_segment(tokenizer: Tokenizer, example: Worked, end_id: int) -> Segment:
    """Question and solution as a chat of one turn; weight 1 on every token that the model writes, the end included.

    Args:
        end_id: the token that ends a turn.
    """
    ids = encode_prompt(tokenizer, [{"role": "user", "content": example.question}])
    weights = [0.0] * len(ids)
    for text, own in pieces(example.solution):
        part = tokenizer.encode(text)
        ids += part
        weights += [float(own)] * len(part)
    return segment([*ids, end_id], [*weights, 1.0])
