"""Debate: several instances answer, read one another's answers, and answer again (Du et al. 2023, arXiv 2305.14325).

Whether it beats a vote of as much FLOP is disputed (arXiv 2605.00914 says no, 2605.01566 yes): `against_votes` measures
it. The report tells how often a debater gave in to the majority.
"""

from __future__ import annotations

from collections.abc import Sequence

from kweek.protocols import Message
from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way, filled, key, with_reply
from kweek.system.scaffolds.teamwork import Teamwork
from kweek.system.scaffolds.votes import Poll
from kweek.system.task import Answer, Task

OTHERS = "Others have answered:\n\n{others}\n\nTake this into account, and give your own answer again."


def debate(
    context: Context,
    task: Task,
    *,
    debaters: int = 3,
    rounds: int = 1,
    way: Way | None = None,
    roles: Sequence[str] = (),
    request: str = OTHERS,
) -> Answer:
    """The vote of debaters after some rounds of reading each other; it ends early where all agree.

    Args:
        context, task: as for every scaffold.
        debaters: instances; three is the fewest with a majority.
        rounds: of reading; most of what changes changes in the first.
        way: how to ask.
        roles: one for each debater, in rotation; models that differ bring more than instances of one.
        request: what is said of the others' answers, with {others}.
    """
    way, work = way or Way(), Teamwork()
    names = [f"debater {number}" for number in range(1, debaters + 1)]
    by = {name: roles[place % len(roles)] if roles else way.role for place, name in enumerate(names)}
    rooms = {name: context.branch(name) for name in names}
    texts = {name: _say(way, rooms[name], by[name], task.messages) for name in names}
    poll = _take(context, work, way, texts, 0)
    for number in range(1, rounds + 1):
        if len({key(answer) for answer in work.positions[-1].values()}) <= 1 and not poll.num_empty:
            break
        before = dict(texts)
        for name in names:
            others = "\n\n".join(f"- {text}" for other, text in before.items() if other != name)
            chat = with_reply(task.messages, before[name], filled(request, others=others))
            texts[name] = _say(way, rooms[name], by[name], chat)
        poll = _take(context, work, way, texts, number)
    answer = poll.answer()
    return Answer(answer.text, confidence=answer.confidence, data={**answer.data, "team": work.report()})


def _say(way: Way, room: Context, role: str, messages: Sequence[Message]) -> str:
    return way.ask(room, messages, role=role)[0].text


def _take(context: Context, work: Teamwork, way: Way, texts: dict[str, str], number: int) -> Poll:
    """Take a round into the record; the vote after it."""
    poll, given = Poll(), {}
    for name, text in texts.items():
        work.say(context, name, "all", text, number)
        answer = way.reading(text)
        poll.add(answer)
        if answer is not None:
            given[name] = answer
    work.positions.append(given)
    context.offer(poll.answer(finished=False))
    return poll
