"""Marks: how good samples are, by a check, a reward model, their likelihood, or another model's opinion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kweek.system.context import Context
from kweek.system.samples import Sample
from kweek.system.scaffolds.asking import filled
from kweek.system.task import Task

#: One number per sample of a task, larger is better.
Mark = Callable[[Context, Task, Sequence[Sample]], list[float]]

IS_IT_RIGHT = (
    "Question: {question}\n\nProposed answer: {answer}\n\nIs the proposed answer right? Say yes or no."
)


def by_check(name: str) -> Mark:
    """What a check of the system says, such as tests of a program: 0 to 1."""
    return lambda context, task, samples: [context.verify(name, task, one.text).value for one in samples]


def by_likelihood() -> Mark:
    """How likely the model found its own words, per token: e to the mean log-probability, 0 to 1. Costs nothing."""
    return lambda context, task, samples: [math.exp(min(0.0, one.mean_logprob)) for one in samples]


def by_judge(role: str = "reward") -> Mark:
    """What a reward model says of question and answer, in its own units.

    Its tokens must be those of the model that answered; what it reads is then what was sampled.
    """
    return lambda context, task, samples: context.judge(
        role, [[*one.prompt_ids, *one.token_ids] for one in samples]
    )


def by_opinion(role: str = "verifier", question: str = IS_IT_RIGHT) -> Mark:
    """How sure another model is that an answer is right: p(yes) / (p(yes) + p(no)), 0 to 1.

    A separate instance sees question and answer, and none of the thoughts that led to it. Probabilities of two words
    are read rather than a sentence, so that nothing has to be parsed (Kadavath et al. 2022, arXiv 2207.05221).

    Args:
        role: of the model that is asked.
        question: with {question} and {answer}.
    """

    def mark(context: Context, task: Task, samples: Sequence[Sample]) -> list[float]:
        return [_opinion(context, role, question, task.question, one.text) for one in samples]

    return mark


def _opinion(context: Context, role: str, question: str, asked: str, answer: str) -> float:
    content = filled(question, question=asked, answer=answer)
    tokenizer = context.role(role).tokenizer
    words = [tokenizer.encode(word) for word in ("yes", "no")]
    yes, no = (sum(one) for one in context.score(role, [{"role": "user", "content": content}], words))
    return 1 / (1 + math.exp(min(700.0, no - yes)))  # 700: the largest that exp takes
