"""Best of N: many answers, of which a check, a reward model or the likelihood picks one (Cobbe et al. 2021,
arXiv 2110.14168; Stiennon et al. 2020, arXiv 2009.01325)."""

from __future__ import annotations

from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.marks import Mark, by_likelihood
from kweek.system.scaffolds.votes import NUM_VOTES, polled
from kweek.system.task import Answer, Task


def best_of_n(
    context: Context,
    task: Task,
    *,
    mark: Mark | None = None,
    n: int = NUM_VOTES,
    way: Way | None = None,
    enough: float | None = None,
) -> Answer:
    """The sample with the highest mark; of equals the first.

    Args:
        context, task: as for every scaffold.
        mark: how good a sample is; None takes its likelihood, which needs no other model.
        n: samples.
        way: how to ask.
        enough: with a mark of at least this no further sample is asked for: 1.0 for a check that cannot be wrong.
    """
    way, mark = way or Way(), mark or by_likelihood()
    batch = n if enough is None else 1
    best, text, marks = -float("inf"), "", list[float]()
    while len(marks) < n and (enough is None or best < enough):
        samples = way.ask(context, task.messages, min(batch, n - len(marks)))
        if not marks:
            context.offer(polled(way, samples).answer(finished=False))
        for sample, value in zip(samples, mark(context, task, samples), strict=True):
            marks.append(value)
            if value > best:
                best, text = value, way.answer_of(sample) or sample.text
        context.offer(Answer(text, finished=False, data={"marks": list(marks)}))
        if len(samples) < min(batch, n):
            break  # the budget gave no more
    return Answer(text, data={"marks": marks})
