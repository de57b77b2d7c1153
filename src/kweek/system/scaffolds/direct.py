"""One answer: at once, or after thinking."""

from __future__ import annotations

from dataclasses import replace

from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way
from kweek.system.task import Answer, Task
from kweek.tokenize.chat import THINK

STEP_BY_STEP = 'Think step by step. Then write the final answer on a line of its own, after "Answer:".'
_GREEDY = Way(temperature=0.0)  # one answer: the likeliest


def direct(context: Context, task: Task, *, way: Way = _GREEDY) -> Answer:
    """One answer, without thinking unless `way` says otherwise."""
    return _one(context, task, replace(way, think=False if way.think is None else way.think))


def chain_of_thought(context: Context, task: Task, *, way: Way = _GREEDY) -> Answer:
    """One answer after thinking: in the model's own thoughts where it has them, else in words before the answer.

    Wei et al. 2022, arXiv 2201.11903; Kojima et al. 2022, arXiv 2205.11916.
    """
    has_thoughts = THINK in context.role(way.role).tokenizer.special
    return _one(
        context,
        task,
        replace(way, think=True, instruction=way.instruction or ("" if has_thoughts else STEP_BY_STEP)),
    )


def _one(context: Context, task: Task, way: Way) -> Answer:
    sample = way.ask(context, task.messages)[0]
    return Answer(way.answer_of(sample) or sample.text, finished=sample.finished)
