"""An examination: a model's greedy answers to the questions of a domain, judged, with what each answer cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kweek.align.environment import Environment, Item
from kweek.align.sampling import MAX_ROWS, sample
from kweek.compute.ledger import JoulesSource, Ledger
from kweek.engine.endpoint.model import EndpointModel
from kweek.errors import KweekError
from kweek.protocols import LanguageModel, Score
from kweek.stats.intervals import Interval, mean_interval, wilson
from kweek.tokenize.tokenizer import Tokenizer

NUM_SHOWN = 8  # answers kept for people to read


@dataclass(frozen=True)
class AnswerCost:
    """Of one answer, on average.

    Attributes:
        flop: arithmetic; nan where nobody knows the model's size.
        num_read, num_written: tokens of the prompt and of the answer.
        seconds, cpu_seconds: with many questions asked at once.
        joules, joules_source: likewise; nan where another machine works.
    """

    flop: float
    num_read: float
    num_written: float
    seconds: float
    cpu_seconds: float
    joules: float
    joules_source: JoulesSource


@dataclass(frozen=True)
class Standing:
    """How a model stood an examination.

    Attributes:
        scores: of every question, 0 to 1, in order.
        cost: of an answer.
        shown: question, gold, answer and score of the first, for people.
    """

    scores: list[float]
    cost: AnswerCost
    shown: list[dict[str, Any]]

    @property
    def interval(self) -> Interval:
        """The mean with its 95% interval."""
        return interval_of(self.scores)

    def row(self) -> dict[str, Any]:
        """As plain data."""
        mid, lo, hi = self.interval
        return {"quality": mid, "lo": lo, "hi": hi, "n": len(self.scores), **asdict(self.cost)}


def interval_of(scores: Sequence[float]) -> Interval:
    """The mean of scores from 0 to 1 with its 95% interval: Wilson's where all are 0 or 1, else Student's."""
    if set(scores) <= {0.0, 1.0}:
        return wilson(int(sum(scores)), len(scores))
    return mean_interval(scores)


def examine(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    progress: Callable[[int, int], None] | None = None,
) -> Standing:
    """Ask a model everything once, greedily.

    Raises:
        KweekError: an answer could not be generated, or a judge failed.
    """
    ledger, rollouts = Ledger(), []
    with ledger.time():
        for start in range(0, len(items), MAX_ROWS):
            part = items[start : start + MAX_ROWS]
            groups = sample(model, tokenizer, environment, part, samples=1, key="exam")
            rollouts += [group[0] for group in groups]
            if progress is not None:
                progress(len(rollouts), len(items))
    scores = [_value(one.score) for one in rollouts]
    said = [str(one.messages[-1].get("content")) for one in rollouts]
    n = len(rollouts)
    read = sum(one.num_prompt_tokens for one in rollouts) / n
    written = sum(len(one.token_ids) - one.num_prompt_tokens for one in rollouts) / n
    flop = sum(one.flop for one in rollouts) / n
    cost = AnswerCost(
        flop, read, written, ledger.seconds / n, ledger.cpu_seconds / n, ledger.joules / n, ledger.joules_source
    )  # fmt: skip
    return Standing(scores, cost, _shown(items, said, scores))


def examine_remote(endpoint: EndpointModel, environment: Environment, items: Sequence[Item]) -> Standing:
    """The same with a model behind an endpoint, as text: what it computes and burns is unknown.

    Raises:
        KweekError: the endpoint fails, or a judge does.
    """
    ledger = Ledger()
    with ledger.time():
        answers = endpoint.answer(
            [item.messages for item in items], environment.max_new_tokens, temperature=0.0
        )
    scores = []
    for item, answer in zip(items, answers, strict=True):
        episode = environment.begin(item)
        episode.step(answer.message)
        scores.append(_value(episode.score()))
    n, unknown = len(items), float("nan")
    read = sum(answer.num_prompt_tokens for answer in answers) / n
    written = sum(answer.num_new_tokens for answer in answers) / n
    cost = AnswerCost(unknown, read, written, ledger.seconds / n, unknown, unknown, "estimated")
    return Standing(
        scores, cost, _shown(items, [str(answer.message["content"]) for answer in answers], scores)
    )


def _value(score: Score) -> float:
    if score.error is not None:
        raise KweekError(f"a judge failed: {score.error}", where="exam")
    return score.value


def _shown(items: Sequence[Item], said: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"question": str(item.messages[-1].get("content")), "gold": item.gold, "answer": text, "score": score}
        for item, text, score in list(zip(items, said, scores, strict=True))[:NUM_SHOWN]
    ]
