"""A team: members with duties who write to one another and hand the work over, under one budget.

Who holds the work writes a message and says to whom it goes ("To: NAME"), or ends it ("Final: ANSWER"). The team comes
to a standstill where two members keep handing each other the same messages; the next who has not yet spoken is then
asked, and where there is none the vote of the answers so far decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kweek.protocols import Message
from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way, filled, fits
from kweek.system.scaffolds.teamwork import Teamwork
from kweek.system.scaffolds.votes import Poll
from kweek.system.task import Answer, Task

_TO = re.compile(r"^\s*To:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_FINAL = re.compile(r"^\s*Final:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(r"^\s*(?:Answer|Final):\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
TURN = (
    "{question}\n\nYou are {name} in a team: {duty}\nThe others: {others}\n\n{talk}"
    'Do your part. Give an answer that you propose on a line "Answer: ...". End with a line "To: NAME" to hand the '
    'work over, or "Final: ..." with the answer of the team when it is done.'
)


@dataclass(frozen=True)
class Member:
    """One of a team.

    Attributes:
        name: what the others call it.
        duty: what it is there for.
        role: its model.
    """

    name: str
    duty: str
    role: str = "core"


SOLVERS = (
    Member("Planner", "say in which steps the question is best answered, and hand over."),
    Member("Solver", "carry the steps out and propose an answer."),
    Member("Checker", "check the proposed answer; end the work when it is right, else hand it back."),
)


def team(
    context: Context,
    task: Task,
    *,
    members: Sequence[Member] = SOLVERS,
    turns: int = 6,
    way: Way | None = None,
) -> Answer:
    """What a team agrees on; the vote of its proposals where it does not come to an end.

    Args:
        context, task: as for every scaffold.
        members: the first begins.
        turns: messages at most: each of three members twice.
        way: how to ask; the answer is read from "Final:" and "Answer:" where they are, else as it says.
    """
    way, work = way or Way(), Teamwork()
    by_name = {member.name.casefold(): member for member in members}
    rooms = {member.name: context.branch(member.name) for member in members}
    holder, given = members[0], dict[str, str]()
    for turn in range(turns):
        prompt = _asked(context, way, task, members, holder, work)
        sample = way.ask(rooms[holder.name], prompt, role=holder.role)[0]
        done, proposed = _FINAL.findall(sample.text), _ANSWER.findall(sample.text)
        named = [by_name.get(name.casefold()) for name in _TO.findall(sample.text)]
        answer = proposed[-1] if proposed else (way.reading(sample.text) if not named else None)
        if answer:
            given = {**given, holder.name: answer}
        work.positions.append(given)
        target = named[-1] if named else None
        after = target or _next(members, holder)
        work.say(context, holder.name, "all" if done else after.name, sample.text, turn)
        context.offer(_vote(work, finished=False))
        if done:
            return _ended(work, done[-1])
        if named and target is None:
            work.deadlocks.append(f"turn {turn}: {holder.name} hands over to nobody of the team")
        if _repeats(work):
            work.deadlocks.append(f"turn {turn}: {holder.name} and {after.name} repeat themselves")
            spoken = {one.sender for one in work.messages}
            fresh = next((member for member in members if member.name not in spoken), None)
            if fresh is None:
                break
            after = fresh
        holder = after
    return _vote(work, finished=True)


def _asked(
    context: Context, way: Way, task: Task, members: Sequence[Member], holder: Member, work: Teamwork
) -> list[Message]:
    """What the holder of the work is asked: all that was said, without its beginning where that does not fit."""
    others = "; ".join(f"{one.name} ({one.duty})" for one in members if one is not holder) or "none"
    said = [f"{one.sender} to {one.to}:\n{one.text}" for one in work.messages]
    while True:
        talk = "So far:\n\n" + "\n\n".join(said) + "\n\n" if said else ""
        content = filled(
            TURN, question=task.question, name=holder.name, duty=holder.duty, others=others, talk=talk
        )
        messages: list[Message] = [*task.messages[:-1], {"role": "user", "content": content}]
        if not said or fits(context, way, messages):
            return messages
        said = said[1:]


def _next(members: Sequence[Member], holder: Member) -> Member:
    """Whose turn it is where nobody is named."""
    return members[(list(members).index(holder) + 1) % len(members)]


def _repeats(work: Teamwork) -> bool:
    """Whether the last message has been sent before, by the same member to the same."""
    last = work.messages[-1]
    return any(
        (one.sender, one.to, one.text) == (last.sender, last.to, last.text) for one in work.messages[:-1]
    )


def _vote(work: Teamwork, *, finished: bool) -> Answer:
    """The vote of what members propose at last."""
    poll = Poll()
    for proposal in work.positions[-1].values():
        poll.add(proposal)
    answer = poll.answer(finished)
    return Answer(
        answer.text, (), answer.confidence, finished, {**answer.data, "team": work.report(), "final": False}
    )


def _ended(work: Teamwork, final: str) -> Answer:
    return Answer(final, data={"team": work.report(), "final": True})
