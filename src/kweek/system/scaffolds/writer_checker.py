"""Writer and checker: one instance writes, another accepts or objects, the first writes anew with the objection."""

from __future__ import annotations

from kweek.errors import ConfigError
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
    objection: str | None = OBJECTION,
) -> Answer:
    """The first answer that the checker accepts; without one, the last.

    Args:
        context, task: as for every scaffold.
        rounds: objections at most.
        way: how to ask the writer.
        checker: role of the checker, who sees the answer without the thoughts that led to it.
        mark: accepts by a number instead of by words; the checker then only says why it objects.
        enough: the least mark that is accepted.
        objection: what the writer is told, with {objection}; None has it write anew without being told anything, for
            models that were never taught to take advice; it needs a mark.

    Raises:
        ConfigError: neither an objection nor a mark.
    """
    if objection is None and mark is None:
        raise ConfigError("without words a checker needs a mark", where="writer_checker", fix="give one")
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
        remark = "" if objection is None else _remark(room, checker, task, sample.text)
        work.say(context, "checker", "writer", remark, number)
        accepted = mark is None and remark.strip().casefold().startswith("yes")
        if accepted:
            break
        number += 1
        before, chat = sample.text, list(task.messages)
        if objection is not None:
            chat = with_reply(task.messages, before, filled(objection, objection=remark))
        sample = way.ask(context, chat)[0]
        if objection is not None and sample.text == before:
            work.deadlocks.append(f"round {number}: the writer repeats what the checker does not accept")
            break
    return Answer(
        way.answer_of(sample) or "",
        finished=sample.finished,
        data={"accepted": accepted, "team": work.report()},
    )


def _remark(room: Context, checker: str, task: Task, answer: str) -> str:
    """What the checker says of an answer."""
    content = filled(CHECK, question=task.question, answer=answer)
    return room.generate(checker, [{"role": "user", "content": content}])[0].text
