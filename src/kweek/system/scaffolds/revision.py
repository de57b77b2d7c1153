"""Revision: an answer, and the request to look at it once more (Madaan et al. 2023, arXiv 2303.17651).

Known bias: a model that is asked to check a right answer often spoils it (Huang et al. 2023, arXiv 2310.01798), so the
answer says how often it changed, and `against_votes` says whether it was worth its FLOP.
"""

from __future__ import annotations

from itertools import pairwise

from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way, key, with_reply
from kweek.system.task import Answer, Task

REVISE = "Look for a mistake in this answer. Then give the final answer again, corrected where it was wrong."


def revision(
    context: Context, task: Task, *, rounds: int = 2, way: Way | None = None, request: str = REVISE
) -> Answer:
    """An answer that its own author has looked over, until it stays the same.

    Args:
        context, task: as for every scaffold.
        rounds: requests to revise at most; two, since later ones hardly change anything.
        way: how to ask.
        request: what is said after an answer.
    """
    way = way or Way(temperature=0.0)
    sample = way.ask(context, task.messages)[0]
    history = [way.answer_of(sample) or ""]
    for _ in range(rounds):
        context.offer(Answer(history[-1], finished=False, data={"answers": list(history)}))
        sample = way.ask(context, with_reply(task.messages, sample.text, request))[0]
        history.append(way.answer_of(sample) or history[-1])
        if key(history[-1]) == key(history[-2]):
            break
    changed = sum(key(one) != key(other) for one, other in pairwise(history))
    return Answer(history[-1], finished=sample.finished, data={"answers": history, "changes": changed})
