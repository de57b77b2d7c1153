"""Generate, check, synthesise: drafts, an independent check of each, and one answer made of both.

Each of the three is a separate instance: the checker sees a draft without the thoughts behind it, the one who
synthesises sees drafts and remarks. They may be models of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from kweek.system.context import Context
from kweek.system.samples import Sample
from kweek.system.scaffolds.asking import Way, filled, key
from kweek.system.scaffolds.marks import Mark
from kweek.system.scaffolds.votes import polled
from kweek.system.task import Answer, Task

NUM_DRAFTS = 3  # the fewest among which there is a majority
CHECK = (
    "Question: {question}\n\nProposed answer: {answer}\n\n"
    "Check it step by step. Say whether it is right, and if not, why."
)
SYNTHESISE = (
    "{question}\n\nSeveral answers have been proposed and checked:\n\n{drafts}\n\nWrite the one right answer."
)


def generate_check_synthesise(
    context: Context,
    task: Task,
    *,
    n: int = NUM_DRAFTS,
    way: Way | None = None,
    checker: str = "core",
    synthesiser: str = "core",
    mark: Mark | None = None,
) -> Answer:
    """Drafts by one instance, a check of each by another, an answer from all of it by a third.

    Args:
        context, task: as for every scaffold.
        n: drafts; equal ones are checked once.
        way: how to ask for drafts and for the answer.
        checker, synthesiser: roles.
        mark: checks by numbers instead of remarks; the one who synthesises is then told them.
    """
    way = way or Way()
    samples = way.ask(context, task.messages, n)
    poll = polled(way, samples)
    context.offer(poll.answer(finished=False))
    drafts = _different(way, samples)
    remarks = _remarks(context, task, way, drafts, checker, mark)
    shown = "\n\n".join(
        f"Answer {number}: {way.answer_of(one)}\nCheck: {remark}"
        for number, (one, remark) in enumerate(zip(drafts, remarks, strict=True), start=1)
    )
    content = filled(SYNTHESISE, question=task.question, drafts=shown)
    messages = [*task.messages[:-1], {"role": "user", "content": content}]
    last = way.ask(context.branch("synthesise"), messages, role=synthesiser)[0]
    written = way.answer_of(last)
    data = {**poll.answer().data, "remarks": remarks, "synthesised": written is not None}
    return Answer(written or poll.winner or "", confidence=poll.share, finished=last.finished, data=data)


def _different(way: Way, samples: Sequence[Sample]) -> list[Sample]:
    """One sample for each answer; those without an answer only where there is no other."""
    by_answer = {key(answer): one for one in reversed(samples) if (answer := way.answer_of(one)) is not None}
    return list(by_answer.values())[::-1] or [samples[0]]


def _remarks(
    context: Context, task: Task, way: Way, drafts: Sequence[Sample], checker: str, mark: Mark | None
) -> list[str]:
    checking = context.branch("check")
    if mark is not None:
        return [f"{value:.2f} of 1" for value in mark(checking, task, drafts)]
    remarks = []
    for draft in drafts:
        content = filled(CHECK, question=task.question, answer=draft.text)
        remarks.append(checking.generate(checker, [{"role": "user", "content": content}])[0].text)
    return remarks
