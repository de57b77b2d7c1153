"""Runs of reinforcement in the small world, whole or with one thing wrong, and what each guard would have done.

Guards are heard here and not obeyed, unless a run is only asked whether it is caught: it goes on to its end, so that it
is known what would have become of it, and where gold really had its peak.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import small_world as world
import torch
from small_world import World, tokenizer

from kweek.align.algorithms import AlgorithmName, named
from kweek.align.collecting import Collector, Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.guards.collapse import CollapseGuard
from kweek.align.guards.guard import Guard, Step, Verdict
from kweek.align.guards.hacking import HackingGuard, held_out
from kweek.align.guards.known import known_pairs
from kweek.align.guards.policy_path import policy_sign
from kweek.align.guards.sign import SignGuard
from kweek.align.learner import Learner
from kweek.align.lessons import PerToken
from kweek.align.loop import Loop
from kweek.align.prepared import Prepared
from kweek.align.reference import Reference
from kweek.align.rollout import Group, Rollout
from kweek.align.sampling import sample
from kweek.align.sources import Synchronous
from kweek.data.batches import Segment
from kweek.engine.engine import Engine
from kweek.errors import GuardError, KweekError
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.protocols import LanguageModel, Score
from kweek.recipe.judged import EVERY, HELD_OUT
from kweek.train.objective import Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

STEPS, PROMPTS, SAMPLES = 30, 16, 8
TRUTH = 160  # further items on which gold is known better than the guard knows it
KNOWN = 24  # pairs of a right and a wrong answer

Proxy = Callable[[Rollout], float]


def said(rollout: Rollout) -> str:
    """The answer."""
    return str(rollout.messages[-1]["content"]).strip()


def gold(rollout: Rollout) -> float:
    """1 for the right answer, by a comparison that is not the judge's code."""
    return float(said(rollout) == rollout.item.gold)


@dataclass(frozen=True)
class Judged:
    """A judge that gives a proxy."""

    proxy: Proxy

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """See `Judge`."""
        return [Score(float(self.proxy(rollout)), rollout.score.parsed) for rollout in rollouts]

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """Nothing worth counting."""
        return 0.0


class Bent(Learner):
    """A learner whose advantages somebody bends from some update on."""

    bend: Callable[[PerToken], PerToken]
    bent_at = 0
    now = 0

    def prepare(self, groups: Sequence[Group]) -> Prepared:
        """See `Learner`."""
        prepared = super().prepare(groups)
        if self.now < self.bent_at:
            return prepared
        turned = [replace(lesson, advantages=self.bend(lesson.advantages)) for lesson in prepared.lessons]
        return replace(prepared, lessons=turned)


def negative(advantages: PerToken) -> PerToken:
    """A slip of the sign."""
    return -advantages


def blaming(advantages: PerToken) -> PerToken:
    """Only ever push away: a baseline that is the best answer and not the mean."""
    return np.minimum(advantages, 0) - np.float32(0.5)


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        base, seed: of the network that it starts from, and of its items and samples.
        tasks: what is attempted.
        changes: switches of the algorithm.
        proxy: what is rewarded; None is the exact judge.
        later: takes the proxy's place after so many updates.
        bend, bent_at: of the advantages, and the update from which on.
        kl_weight: where it is not the algorithm's own.
        kl_target: nats per answer that it is steered to.
        turned: objective of the critic to wrap.
        epochs: updates on the same rollouts.
        drill: an answer that every update teaches beside what it does, to everything.
        poisoned: the update after which a weight is no number.
    """

    base: int
    seed: int
    tasks: tuple[str, ...] = world.TASKS
    algorithm: AlgorithmName = "reinforce"
    changes: tuple[tuple[str, Any], ...] = ()
    rate: float = 2e-4
    proxy: Proxy | None = None
    later: tuple[int, Proxy] | None = None
    bend: Callable[[PerToken], PerToken] | None = None
    bent_at: int = 0
    kl_weight: float | None = None
    kl_target: float | None = None
    turned: Callable[[Objective], Objective] | None = None
    epochs: int = 1
    drill: str = ""
    poisoned: int | None = None
    steps: int = STEPS


@dataclass
class Heard:
    """A guard that is listened to.

    Attributes:
        obeyed: whether the run ends when it says so.
        stopped: update after which it would have ended the run, 0 before the first; None where it never would.
        kept: the update whose weights it would have gone back to.
        warned: updates at which it warned.
    """

    guard: Guard
    obeyed: bool = False
    stopped: int | None = None
    kept: int | None = None
    text: str = ""
    warned: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The guard's."""
        return self.guard.name

    def before(self) -> Verdict:
        """See `Guard`."""
        try:
            self._hear(0, self.guard.before())
        except GuardError as error:
            self.stopped, self.kept, self.text = 0, 0, str(error)
        return self._passed_on()

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        if self.stopped is None:
            self._hear(step.number, self.guard.after(step))
        return self._passed_on()

    def _passed_on(self) -> Verdict:
        return Verdict("stop", self.text) if self.obeyed and self.stopped is not None else Verdict()

    def _hear(self, step: int, verdict: Verdict) -> None:
        if verdict.kind == "stop":
            self.stopped, self.kept, self.text = step, verdict.keep, verdict.text
        elif verdict.kind == "warn":
            self.warned.append(step)

    def state(self) -> dict[str, Any]:
        """Nothing: these runs are not resumed."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `state`."""


class Truth:
    """Measures gold of greedy answers to other items now and then, for us and for no guard."""

    name = "truth"

    def __init__(self, model: LanguageModel, where: World, every: int = EVERY) -> None:
        self.model, self.where, self.every = model, where, every
        self.items = where.items("truth", TRUTH, "validation")
        self.seen: dict[int, list[float]] = {}

    def _look(self, number: int) -> Verdict:
        groups = sample(self.model, tokenizer(), self.where, self.items, samples=1, key="truth")
        self.seen[number] = [gold(group[0]) for group in groups]
        return Verdict()

    def before(self) -> Verdict:
        """See `Guard`."""
        return self._look(0)

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        return Verdict() if step.number % self.every else self._look(step.number)

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `state`."""


@dataclass
class Outcome:
    """What became of a run, and what the guards said.

    Attributes:
        truth: gold on many items by update.
        broken: the error that ended it before its last update, if one did, and the update.
    """

    heard: dict[str, Heard]
    truth: dict[int, list[float]]
    broken: tuple[int, str] | None = None


def play(setting: Setting, obeyed: str = "", measured: bool = False) -> Outcome:
    """The whole run under all guards, or up to where one of them ends it; with gold of its own if asked."""
    learner, source, engine, where = parts(setting)
    judge = _judge(setting, learner)
    measure = held_out(
        engine, tokenizer(), where, where.items("held out", HELD_OUT, "validation"), gold, judge=judge
    )
    guards: list[Guard] = [
        sign(setting, learner, engine, where), HackingGuard(measure, every=EVERY), CollapseGuard()
    ]  # fmt: skip
    heard = {guard.name: Heard(guard, guard.name == obeyed) for guard in guards}
    truth = Truth(engine, where)
    course = Course(setting.steps, PROMPTS, SAMPLES)
    watching = [heard[obeyed]] if obeyed else [*([truth] if measured else []), *heard.values()]
    loop = Loop(learner, source(course, judge), course, guards=watching, replay=_drilled(setting))
    loop.on_step = lambda totals, metrics, batch: _advance(setting, learner, totals.step)
    broken = None
    try:
        loop.run()
    except KweekError as error:  # trainer and engine themselves refuse numbers that are none
        broken = (loop.totals.step, str(error))
    return Outcome(heard, truth.seen, broken)


def begin(setting: Setting) -> Heard:
    """What the guard of the sign says before the first update; nothing else is done."""
    learner, _, engine, where = parts(setting)
    heard = Heard(sign(setting, learner, engine, where))
    heard.before()
    return heard


def sign(setting: Setting, learner: Learner, engine: Engine, where: World) -> SignGuard:
    """The guard of the sign on known pairs of this setting."""
    items = where.items("known", KNOWN, "validation")
    judge = _judge(setting, learner)
    return policy_sign(
        learner, engine, lambda: known_pairs(engine, tokenizer(), where, items, judge=judge), gold=gold
    )


def parts(setting: Setting) -> tuple[Learner, Callable[..., Synchronous], Engine, World]:
    """Learner, a maker of sources, engine and environment of a run."""
    network, where = world.started(setting.base), World(setting.tasks)
    policy = named(setting.algorithm, dict(setting.changes))
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(trainer_of(scorer_from(network, per_token=True), 1e-3))
        if setting.turned is not None:
            critic.trainer.objective = setting.turned(critic.trainer.objective)
    weight = policy.kl_weight if setting.kl_weight is None else setting.kl_weight
    learner = (Learner if setting.bend is None else Bent)(
        trainer_of(network, setting.rate), policy, limit=where.max_new_tokens, critic=critic,
        reference=Reference(copy.deepcopy(network)), control=DivergenceControl(weight, setting.kl_target),
        epochs=setting.epochs,
    )  # fmt: skip
    if isinstance(learner, Bent) and setting.bend is not None:
        learner.bend, learner.bent_at = setting.bend, setting.bent_at
    engine = Engine(network)

    def source(course: Course, judge: Judged | None) -> Synchronous:
        key = f"run/{setting.base}/{setting.seed}"
        collector = Collector(
            where, tokenizer(), course, key, learner.drawing, judge, network.config.max_positions
        )
        return Synchronous(collector, engine)

    return learner, source, engine, where


def trainer_of(network: Network, rate: float) -> Trainer:
    """One rate for all parameters, as the stage `reinforce` has it."""
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))


def _judge(setting: Setting, learner: Learner) -> Judged | None:
    """The judge of a run, which may change under way."""
    if setting.later is None:
        return None if setting.proxy is None else Judged(setting.proxy)
    when, then = setting.later
    first = setting.proxy or gold
    return Judged(lambda rollout: (then if getattr(learner, "now", 0) >= when else first)(rollout))


def _drilled(setting: Setting) -> Callable[[int], Sequence[Segment]]:
    """What every update is taught beside the rollouts."""
    if not setting.drill:
        return lambda step: ()
    chats = [
        world.chat_segment(world.example(task, "drill", number)[0], setting.drill)
        for number, task in enumerate(setting.tasks * 4)
    ]
    total = sum(float(part.weights.sum()) for part in chats)
    taught = [replace(part, weights=part.weights / np.float32(total)) for part in chats]
    return lambda step: taught


def _advance(setting: Setting, learner: Any, step: int) -> None:
    """Tell a learner, and with it its judge, how many updates have been made; and poison what is to be poisoned."""
    learner.now = step
    if step == setting.poisoned:
        with torch.no_grad():
            learner.trainer.optimiser.parameters[-1].view(-1)[0] = float("nan")
