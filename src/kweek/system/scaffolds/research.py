"""Research: plan, search, read, note, ask for what is missing, draft, check every citation, and answer with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kweek.system.context import Context
from kweek.system.memory.citations import check, numbered
from kweek.system.memory.passage import Passage
from kweek.system.scaffolds.asking import Way, filled, key
from kweek.system.task import Answer, Task

PLAN = (
    "{question}\n\nWhich questions must be looked up to answer this? Write at most {most}, one on each line."
)
NOTE = (
    "{passages}\n\nNote in one or two sentences what these sources say on: {question}\n"
    'Quote them as "words" [number].'
)
MISSING = "{question}\n\nKnown so far:\n{notes}\n\nWhich one question must still be looked up? Write it, or: nothing."
DRAFT = (
    "{passages}\n\nNotes:\n{notes}\n\n{question}\n"
    'Answer from these sources alone. Quote what bears the answer out as "words" [number].'
)
AGAIN = (
    "These citations do not hold:\n{refused}\n\n"
    "Write the answer again with quotations that stand in the sources word for word."
)
UNKNOWN = "The sources do not say."
_NOTHING = re.compile(r"\s*(nothing|none|no)\b", re.IGNORECASE)
_NUMBERING = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")


@dataclass
class Desk:
    """What has been looked up.

    Attributes:
        passages: all that were found, each once, in the order of their numbers.
        asked: questions that were searched for.
        notes: what was noted of each.
    """

    passages: list[Passage] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, found: Sequence[Passage]) -> None:
        """Keep what is new."""
        there = {(one.document, one.start, one.end) for one in self.passages}
        self.passages += [one for one in found if (one.document, one.start, one.end) not in there]


def research(
    context: Context, task: Task, *, parts: int = 3, hops: int = 1, k: int = 4, way: Way | None = None
) -> Answer:
    """An answer from the memory of the system, every citation checked to the letter.

    Args:
        context, task: as for every scaffold.
        parts: questions that the plan may have besides the task itself.
        hops: questions that are asked after the notes, for what only one source leads to.
        k: passages of each search.
        way: how to ask.
    """
    way, desk = way or Way(temperature=0.0), Desk()
    planned = _lines(_said(context, way, filled(PLAN, question=task.question, most=parts)))[:parts]
    for question in [task.question, *planned]:
        _look_up(context, way, desk, question, k)
    for _ in range(hops):
        said = _said(context, way, filled(MISSING, question=task.question, notes=_notes(desk)))
        if _NOTHING.match(said) or not said.strip():
            break
        if not _look_up(context, way, desk, _lines(said)[0], k):
            break
    if not desk.passages:
        return Answer(UNKNOWN, confidence=0.0, data={"asked": desk.asked, "passages": 0})
    return _written(context, way, task, desk)


def _look_up(context: Context, way: Way, desk: Desk, question: str, k: int) -> bool:
    """Search for a question and note what is found; whether it had not been asked before."""
    if key(question) in map(key, desk.asked):
        return False
    desk.asked.append(question)
    before = len(desk.passages)
    desk.add(context.search(question, k))
    fresh = desk.passages[before:]
    if fresh:
        shown = _fitting(context, way, fresh)
        content = filled(NOTE, passages=numbered(shown), question=question)
        desk.notes.append(way.ask(context, [{"role": "user", "content": content}])[0].text.strip())
        context.offer(Answer(desk.notes[0], finished=False))
    return True


def _written(context: Context, way: Way, task: Task, desk: Desk) -> Answer:
    """The draft, written once more where citations do not hold; what still does not is taken out of the text."""
    shown = _fitting(context, way, desk.passages)
    content = filled(DRAFT, passages=numbered(shown), notes=_notes(desk), question=task.question)
    messages = [{"role": "user", "content": content}]
    sample = way.ask(context, messages)[0]
    checked = check(sample.text, shown)
    rewritten = bool(checked.refused)
    context.offer(Answer(check(sample.text, shown, "remove").text, checked.citations, finished=False))
    if rewritten:
        refused = "\n".join(checked.refused)
        messages += [
            {"role": "assistant", "content": sample.text},
            {"role": "user", "content": filled(AGAIN, refused=refused)},
        ]
        again = way.ask(context, messages)[0]
        after = check(again.text, shown)
        if (after.precision or 0.0) >= (checked.precision or 0.0):
            sample, checked = again, after
    final = check(sample.text, shown, "remove")
    data = {
        "asked": desk.asked,
        "passages": len(desk.passages),
        "notes": desk.notes,
        "precision": checked.precision,
        "refused": list(checked.refused),
        "rewritten": rewritten,
    }
    return Answer(
        way.reading(final.text) or final.text, checked.citations, checked.precision, sample.finished, data
    )


def _said(context: Context, way: Way, content: str) -> str:
    return way.ask(context, [{"role": "user", "content": content}])[0].text


def _lines(text: str) -> list[str]:
    """The lines of a list without their marks."""
    return [line for raw in text.splitlines() if (line := _NUMBERING.sub("", raw).strip())]


def _notes(desk: Desk) -> str:
    return "\n".join(f"- {note}" for note in desk.notes) or "- nothing yet"


def _fitting(context: Context, way: Way, passages: Sequence[Passage]) -> list[Passage]:
    """As many passages, the first always among them, as fill half of the model's context."""
    role, kept = context.role(way.role), list(passages)
    while len(kept) > 1 and len(role.tokenizer.encode(numbered(kept))) > role.max_positions // 2:
        kept.pop()
    return kept
