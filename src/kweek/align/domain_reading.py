"""Domains from what people have: a task by its name, or files of examples in any known format of chats.

What is examined is never learnt: a test file keeps its questions, else a share of the questions is set apart by the
hash of their words; then every example that holds a question of test or validation is left out and counted.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kweek.align.domain import SPLITS, Domain, Exercise
from kweek.align.environment import Split
from kweek.align.environments.named import environment as named_environment
from kweek.align.environments.single_turn import MAX_NEW_TOKENS
from kweek.align.verifiers.function import as_verifier
from kweek.align.verifiers.named import named
from kweek.align.worked import ANSWER_MARK, Worked, with_the_calculators_results
from kweek.data import stories
from kweek.data.chats import Conversation, Row, Task
from kweek.data.chats_reading import read_chats, require
from kweek.data.chats_report import Report
from kweek.data.contamination import contamination
from kweek.data.packing import keyed_generator
from kweek.errors import DataError

STORIES = "stories"  # word problems of one to four steps in varied wording, worked with the calculator
#: The strictest judge that is fair to a model which was not told how to write its answer: it takes the last number.
NUMBER = {"kind": "number", "reading": "last"}
TEXT = "text"
_CALL = re.compile(r"<<[^<>=]+=[^<>=]*>>")


@dataclass
class Found:
    """A domain, and what became of what was read.

    Attributes:
        domain: the result.
        left_out: rows that were not taken, by reason.
        contaminated: training rows that held a question of another split.
        notes: what was decided, a sentence each.
    """

    domain: Domain
    left_out: Counter[str] = field(default_factory=Counter)
    contaminated: int = 0
    notes: list[str] = field(default_factory=list)


def of_task(task: str, counts: Mapping[Split, int], key: str) -> Found:
    """So many exercises of a task for each split.

    Args:
        task: "stories", which come with worked answers, or an environment by another name, which has results only.
        counts: by split.
        key: what is drawn depends on it, the test on the task alone.
    """
    if task == STORIES:
        drawn = {
            split: [of_story(problem) for problem in stories.problems(_key(key, split), counts[split], split)]
            for split in SPLITS
        }
        return Found(Domain(task, NUMBER, True, stories_tokens(), drawn))
    environment = named_environment(task)
    items = {split: environment.items(_key(key, split), counts[split], split) for split in SPLITS}
    exercises = {
        split: [Exercise(item.messages, None, item.gold, item.level, data=item.data) for item in group]
        for split, group in items.items()
    }
    return Found(Domain(task, TEXT, False, environment.max_new_tokens, exercises, task))


def stories_tokens() -> int:
    """Tokens that an answer to a story may take: a right one in four steps has about 80, and talking costs time."""
    return 128


def _key(key: str, split: Split) -> str:
    return f"{key}/{split}" if split == "train" else f"domain/{split}"


@dataclass(frozen=True)
class Files:
    """Where examples are, and how they are taken.

    Attributes:
        examples: to learn from.
        test: to be examined on; None sets `share` of the questions apart, and half as many for validation. With it
            only as many are set apart for validation as are asked for.
        format: of both, by name; None recognises it.
        verifier: None takes the last number where worked answers end with ####, else the text as a whole.
        calculator: None has one where an answer calls it.
        max_new_tokens: of an answer; None takes 256.
        system: a system message before every question that has none.
        counts: at most so many of each split.
        share: of the questions for the test.
    """

    examples: Path
    test: Path | None
    format: str | None
    verifier: str | Mapping[str, Any] | None
    calculator: bool | None
    max_new_tokens: int | None
    system: str | None
    counts: Mapping[Split, int]
    share: float


def of_files(files: Files, key: str) -> Found:
    """The domain of some files.

    Raises:
        DataError: they cannot be read, hold no questions with answers, or leave a split empty.
    """
    report = Report()
    given = [_exercise(row, files.system) for row in _rows(files.examples, files.format, report)]
    left_out = Counter({f"{files.examples.name}: {reason}": n for reason, n in report.skipped.items()})
    if files.test is not None:
        apart = Report()
        test = [_exercise(row, files.system) for row in _rows(files.test, files.format, apart)]
        left_out.update({f"{files.test.name}: {reason}": n for reason, n in apart.skipped.items()})
        sides: dict[Split, list[Exercise]] = {"test": test}
        share = min(files.share / 2, 1.2 * files.counts["validation"] / len(given))
        sides["validation"], sides["train"] = _divided(given, "validation", share)
    else:
        sides = {}
        sides["test"], rest = _divided(given, "test", files.share)
        sides["validation"], sides["train"] = _divided(rest, "validation", files.share / 2)
    notes: list[str] = []
    verifier, calculator = _judge(files, sides, notes)
    if calculator:
        sides["train"], unread = _respelled(sides["train"])
        left_out.update(unread)
    if verifier == NUMBER:
        sides = {split: [_with_number(one) for one in group] for split, group in sides.items()}
    for split in ("test", "validation"):
        sides[split] = _judgeable(sides[split], verifier, left_out)
    sides = {split: _drawn(group, files.counts[split], f"{key}/{split}") for split, group in sides.items()}
    sides["train"], contaminated = _clean(sides)
    for split in SPLITS:
        if not sides[split]:
            raise DataError(
                f"nothing is left for {split}", where=str(files.examples), fix="give more examples"
            )
    tokens = files.max_new_tokens or MAX_NEW_TOKENS
    domain = Domain(files.examples.stem, verifier, calculator, tokens, sides)
    return Found(domain, left_out, contaminated, notes)


def _rows(path: Path, format: str | None, report: Report) -> list[Row]:
    return list(require(read_chats(path, report, format=format), Conversation, Task))


def _exercise(row: Row, system: str | None) -> Exercise:
    if isinstance(row, Task):
        data = {**row.data, **({"verifier": row.verifier} if row.verifier else {})}
        messages, answer, gold, level = row.prompt, None, row.gold, row.level
    else:
        assert isinstance(row, Conversation)
        data, level = {}, ""
        messages, answer = row.messages[:-1], row.messages[-1]
        gold = str(answer.get("content") or "")
        if ANSWER_MARK in gold:
            gold = gold.rpartition(ANSWER_MARK)[2].strip()
    if system and all(message["role"] != "system" for message in messages):
        messages = ({"role": "system", "content": system}, *messages)
    return Exercise(tuple(messages), answer, gold, level, tuple(row.tools), data)


def of_story(problem: stories.Problem) -> Exercise:
    """A generated problem, worked in one call of the calculator a step: nothing is said twice, which spares a tenth."""
    calls = [f"<<{step.expression}={step.value}>>" for step in problem.steps]
    answer = {"role": "assistant", "content": "\n".join([*calls, f"{ANSWER_MARK} {problem.answer}"])}
    question = {"role": "user", "content": problem.question}
    return Exercise((question,), answer, problem.answer, str(problem.level))


def _divided(exercises: Sequence[Exercise], name: str, share: float) -> tuple[list[Exercise], list[Exercise]]:
    """Those whose question's hash is in the lowest `share`, and the others."""

    def apart(exercise: Exercise) -> bool:
        digest = hashlib.sha256(
            f"{name}\x1f{' '.join(exercise.question.split()).casefold()}".encode()
        ).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < share

    return [one for one in exercises if apart(one)], [one for one in exercises if not apart(one)]


def _judge(
    files: Files, sides: Mapping[Split, Sequence[Exercise]], notes: list[str]
) -> tuple[str | Mapping[str, Any], bool]:
    """Verifier and calculator as asked for, or as the examples suggest."""
    everything = [one for group in sides.values() for one in group]
    calculator = files.calculator
    if calculator is None:
        calculator = any(_CALL.search(one.worked) for one in everything)
        notes.append(f"answers {'call' if calculator else 'do not call'} the calculator")
    verifier = files.verifier
    named = {str(one.data["verifier"]) for one in everything if "verifier" in one.data}
    if verifier is None and len(named) == 1:
        verifier = named.pop()
    if verifier is None:
        marked = all(ANSWER_MARK in one.worked for one in everything)
        verifier = NUMBER if marked else TEXT
        notes.append(f"judged by {'the last number' if marked else 'the text of the answer'}")
    return verifier, calculator


def _with_number(exercise: Exercise) -> Exercise:
    """Thousands separators are for people."""
    return replace(exercise, gold=exercise.gold.replace(",", ""))


def _judgeable(
    exercises: Sequence[Exercise], verifier: str | Mapping[str, Any], left_out: Counter[str]
) -> list[Exercise]:
    """Those whose right answer the judge can compare with; of "a" the judge of texts has nothing left."""
    judge = as_verifier(named(verifier))
    kept = [one for one in exercises if judge(one.gold, one.gold).error is None]
    if len(kept) < len(exercises):
        left_out["a right answer that the judge cannot read"] += len(exercises) - len(kept)
    return kept


def _respelled(exercises: Sequence[Exercise]) -> tuple[list[Exercise], Mapping[str, int]]:
    """Worked answers with the calculator's own results."""
    kept, left = [], Counter[str]()
    for one in exercises:
        found, reasons = with_the_calculators_results([Worked(one.question, one.worked)])
        left.update(reasons)
        if found and one.answer is not None:
            kept.append(replace(one, answer={**one.answer, "content": found[0].solution}))
        elif one.answer is None:
            kept.append(one)
    return kept, left


def _drawn(exercises: Sequence[Exercise], count: int, key: str) -> list[Exercise]:
    order = keyed_generator("exercises", key).permutation(len(exercises))[:count]
    return [exercises[int(number)] for number in order]


def _clean(sides: Mapping[Split, Sequence[Exercise]]) -> tuple[list[Exercise], int]:
    """Training without what holds a held-out question, and how many that were."""
    asked = [one.question for split in ("validation", "test") for one in sides[split]]
    texts = [" ".join((one.question, one.worked)) for one in sides["train"]]
    known = set(contamination(texts, asked).texts)
    return [one for number, one in enumerate(sides["train"]) if number not in known], len(known)
