"""Writer and checker: one instance writes, another accepts or objects, the first writes anew with the objection."""

from __future__ import annotations

from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way, filled, with_reply
from kweek.system.scaffolds.marks import Mark
from kweek.system.scaffolds.teamwork import Teamwork
from kweek.system.task import Answer, Task

CHECK = "Question: {question}\n\nAnswer: {answer}\n\nIs this answer right? Begin with the word yes or no, then say why."
OBJECTION = "A reader objects:\n\n{objection}\n\nGive the answer again, corrected where the reader is right."
ENOUGH = 0.5  # of a mark: more likely right than wrong


def writer_checker(
    context: Context,
    task: Task,
    *,
    rounds: int = 2,
    way: Way | None = None,
    checker: str = "core",
    mark: Mark | None = None,
    enough: float = ENOUGH,
) -> Answer:
    """The first answer that the checker accepts; without one, the last.

    Args:
        context, task: as for every scaffold.
        rounds: objections at most.
        way: how to ask the writer.
        checker: role of the checker, who sees the answer without the thoughts that led to it.
        mark: accepts by a number instead of by words; the checker then only says why it objects.
        enough: the least mark that is accepted.
    """
    way, work = way or Way(), Teamwork()
    room = context.branch("checker")
    sample = way.ask(context, task.messages)[0]
    accepted, number = False, 0
    while True:
        answer = way.answer_of(sample) or ""
        work.say(context, "writer", "checker", sample.text, number)
        context.offer(Answer(answer, finished=False))
        accepted = mark is not None and mark(room, task, [sample])[0] >= enough
        if accepted or number == rounds:
            break
        content = filled(CHECK, question=task.question, answer=sample.text)
        remark = room.generate(checker, [{"role": "user", "content": content}])[0].text
        work.say(context, "checker", "writer", remark, number)
        accepted = mark is None and remark.strip().casefold().startswith("yes")
        if accepted:
            break
        number += 1
        chat = with_reply(task.messages, sample.text, filled(OBJECTION, objection=remark))
        before, sample = sample.text, way.ask(context, chat)[0]
        if sample.text == before:
            work.deadlocks.append(f"round {number}: the writer repeats what the checker does not accept")
            break
    return Answer(
        way.answer_of(sample) or "",
        finished=sample.finished,
        data={"accepted": accepted, "team": work.report()},
    )
