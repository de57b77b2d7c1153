"""The rollouts of one update: items chosen, attempted, judged; groups without a signal replaced."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Protocol

from kweek.align.curriculum import Curriculum
from kweek.align.environment import Environment, Item
from kweek.align.policy import Policy
from kweek.align.rollout import Group, Rollout
from kweek.align.sampling import Drawing, sample
from kweek.errors import ConfigError, KweekError
from kweek.protocols import LanguageModel, Score
from kweek.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Course:
    """How many attempts at what.

    Attributes:
        steps: batches of rollouts to learn from.
        prompts: items per batch.
        samples: attempts at each.
        warmup: batches over which the learning rate rises; the optimiser's moments start empty.
        rounds: how often groups of equal reward may be replaced by attempts at other items (dynamic sampling, DAPO).
        pool: items looked at for each one attempted; above 1 the curriculum chooses among them.
        staleness: by how many batches the weights that sample are behind those that learn.
    """

    steps: int
    prompts: int = 24
    samples: int = 8
    warmup: int = 5
    rounds: int = 0
    pool: int = 1
    staleness: int = 0

    def require_sense(self, policy: Policy) -> None:
        """Raises ConfigError for settings that the policy cannot use."""
        checks = (
            (policy.grouped and self.samples < 2, "samples", "a group of one answer has nothing to compare it with"),
            (self.rounds > 0 and not policy.grouped, "rounds", "only groups can lack a signal and be replaced"),
            (
                self.staleness > 0 and policy.ratio == "none", "staleness",
                "rollouts of older weights need a ratio: they are not the policy's own",
            ),
            (min(self.steps, self.prompts, self.samples, self.pool) < 1, "course", "counts are at least 1"),
            (min(self.warmup, self.rounds, self.staleness) < 0, "course", "counts are not negative"),
        )  # fmt: skip
        for wrong, key, what in checks:
            if wrong:
                raise ConfigError(what, where=key)


class Judge(Protocol):
    """Judges many rollouts at once, in place of the episodes: a reward model.

    Its values are any finite numbers; what it cannot judge has an `error`.
    """

    def __call__(self, rollouts: Sequence[Rollout]) -> Sequence[Score]: ...

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """What judging them costs."""
        ...


@dataclass
class Collected:
    """A batch of rollouts.

    Attributes:
        step: its number.
        version: batches learnt from by the weights that sampled.
        groups: to learn from, without attempts whose judge failed.
        equal: groups of equal reward that others have replaced.
        faults: what went wrong with attempts that were left out.
        seconds_sampling, seconds_judging, flop_rollout, flop_reward: what it took.
        gap: where it was measured while sampling, see `Learned.gap`.
    """

    step: int
    version: int
    groups: list[Group] = field(default_factory=list)
    equal: list[Group] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds_sampling: float = 0.0
    seconds_judging: float = 0.0
    flop_rollout: float = 0.0
    flop_reward: float = 0.0
    gap: float | None = None

    @property
    def all_groups(self) -> list[Group]:
        """Everything that was judged."""
        return [*self.groups, *self.equal]


@dataclass(frozen=True)
class Collector:
    """Makes batches of rollouts, each a pure function of its number, the weights and the curriculum.

    Attributes:
        key: items and samples depend on it and on the number of the batch.
        judge: takes the place of the episodes' own scores.
        max_positions: of the model.
    """

    environment: Environment
    tokenizer: Tokenizer
    course: Course
    key: str
    drawing: Drawing = field(default_factory=Drawing)
    judge: Judge | None = None
    max_positions: int | None = None

    def collect(self, model: LanguageModel, step: int, version: int, curriculum: Curriculum) -> Collected:
        """Sample and judge batch number `step`.

        Raises:
            KweekError: an answer could not be generated, or the judge of all of them failed.
        """
        batch = Collected(step, version)
        attempted: set[str] = set()
        for again in range(1 + self.course.rounds):
            wanted = self.course.prompts - len(batch.groups)
            key = f"{self.key}/{step}" + (f"/{again}" if again else "")
            items = self._items(key, wanted, curriculum, attempted)
            attempted |= {item.id for item in items}
            found = self._attempt(model, batch, items, key)
            last = again == self.course.rounds
            batch.groups += [group for group in found if last or _differs(group)]
            batch.equal += [group for group in found if not (last or _differs(group))]
            if len(batch.groups) == self.course.prompts:
                break
        return batch

    def _items(self, key: str, count: int, curriculum: Curriculum, attempted: Set[str]) -> list[Item]:
        """Items that this batch has not attempted yet; fewer where there are not so many."""
        looked_at = count * self.course.pool
        items = self.environment.items(key, looked_at + len(attempted), "train")
        new = [item for item in items if item.id not in attempted]
        return curriculum.choose(new[:looked_at], count, key)

    def _attempt(
        self, model: LanguageModel, batch: Collected, items: Sequence[Item], key: str
    ) -> list[Group]:
        """One round: groups of judged rollouts."""
        started = time.monotonic()
        groups = sample(
            model,
            self.tokenizer,
            self.environment,
            items,
            samples=self.course.samples,
            key=key,
            drawing=self.drawing,
            version=batch.version,
            max_positions=self.max_positions,
        )
        sampled = time.monotonic()
        rollouts = [rollout for group in groups for rollout in group]
        batch.flop_rollout += sum(rollout.flop for rollout in rollouts)
        if self.judge is not None:
            batch.flop_reward += self.judge.num_flops(rollouts)
            scores = iter(_judged(self.judge, rollouts))
            groups = [[replace(rollout, score=next(scores)) for rollout in group] for group in groups]
        batch.seconds_sampling += sampled - started
        batch.seconds_judging += time.monotonic() - sampled
        batch.faults += [
            rollout.score.error for group in groups for rollout in group if rollout.score.error is not None
        ]
        return [[rollout for rollout in group if rollout.score.error is None] for group in groups]


def _judged(judge: Judge, rollouts: Sequence[Rollout]) -> list[Score]:
    """One score for each rollout.

    Raises:
        KweekError: the judge as a whole fails, so that nothing is known of any of them.
    """
    try:
        scores = list(judge(rollouts))
    except KweekError:
        raise
    except Exception as error:
        raise KweekError(
            f"the judge raised {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}",
            fix="mend it, or let it give a Score with an error for what it cannot judge",
        ) from error
    if len(scores) != len(rollouts):
        raise KweekError(f"the judge gave {len(scores)} scores for {len(rollouts)} answers")
    return [_finite(score) for score in scores]


def _finite(score: Score) -> Score:
    """The score, or an error in place of one that is no number."""
    if score.error is None and not math.isfinite(score.value):
        return Score(0.0, score.parsed, f"the judge gave {score.value}")
    return score


def _differs(group: Group) -> bool:
    """Whether a group has attempts of different reward."""
    return len({rollout.score.value for rollout in group}) > 1
