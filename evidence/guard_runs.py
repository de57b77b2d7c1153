"""Runs of reinforcement in the small world, whole or with one thing wrong, and what each guard would have done.

Guards are heard here and not obeyed: the run goes on to its end, so that it is known what would have become of it, and
where gold really had its peak.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import small_world as world
from small_world import World, tokenizer

from kweek.align.algorithms import named
from kweek.align.collecting import Collector, Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.guards.abilities import text_measures
from kweek.align.guards.collapse import CollapseGuard
from kweek.align.guards.guard import Guard, Step, Verdict
from kweek.align.guards.hacking import HackingGuard, held_out
from kweek.align.guards.known import known_pairs
from kweek.align.guards.panel import Panel, PanelGuard
from kweek.align.guards.policy_path import policy_sign
from kweek.align.guards.sign import SignGuard
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.prepared import Prepared
from kweek.align.reference import Reference
from kweek.align.rollout import Group, Rollout
from kweek.align.sampling import Drawing, sample
from kweek.align.sources import Synchronous
from kweek.engine.engine import Engine
from kweek.errors import GuardError
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.protocols import LanguageModel, Score
from kweek.train.objective import Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

STEPS, PROMPTS, SAMPLES = 40, 16, 8
HELD_OUT = 96  # items that the guard of the reward measures on
TRUTH = 256  # further items on which gold is known better than the guard knows it
KNOWN = 24  # pairs of a right and a wrong answer
EVERY = 5  # updates between looks of the guard of the reward, and between measurements of the truth

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


class Slipped(Learner):
    """A learner that turns the sign of every advantage from some update on."""

    slips_at = 0
    _now = 0

    def prepare(self, groups: Sequence[Group]) -> Prepared:
        """See `Learner`."""
        prepared = super().prepare(groups)
        if self._now < self.slips_at:
            return prepared
        turned = [replace(lesson, advantages=-lesson.advantages) for lesson in prepared.lessons]
        return replace(prepared, lessons=turned)


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        base, seed: of the network that it starts from, and of its items and samples.
        tasks: what is attempted.
        proxy: what is rewarded; None is the exact judge.
        later: takes the proxy's place after so many updates.
        slips_at: update from which advantages have the wrong sign.
        kl_weight: where it is not the algorithm's own.
        turned: objective of the critic to wrap.
    """

    base: int
    seed: int
    tasks: tuple[str, ...] = world.TASKS
    algorithm: str = "reinforce"
    rate: float = 2e-4
    proxy: Proxy | None = None
    later: tuple[int, Proxy] | None = None
    slips_at: int | None = None
    kl_weight: float | None = None
    turned: Callable[[Objective], Objective] | None = None
    temperature: float = 1.0
    steps: int = STEPS


@dataclass
class Heard:
    """A guard that is listened to and not obeyed.

    Attributes:
        stopped: update after which it would have ended the run, 0 before the first; None where it never would.
        kept: the update whose weights it would have gone back to.
        warned: updates at which it warned.
    """

    guard: Guard
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
        return Verdict()

    def after(self, step: Step) -> Verdict:
        """See `Guard`."""
        if self.stopped is None:
            self._hear(step.number, self.guard.after(step))
        return Verdict()

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
    """Measures gold on many items now and then, for us and for no guard."""

    name = "truth"

    def __init__(self, model: LanguageModel, where: World, every: int = EVERY) -> None:
        self.model, self.where, self.every = model, where, every
        self.items = where.items("truth", TRUTH, "validation")
        self.seen: dict[int, list[float]] = {}

    def _look(self, number: int) -> Verdict:
        groups = sample(
            self.model, tokenizer(), self.where, self.items, samples=1, key="truth", drawing=Drawing()
        )
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


def play(setting: Setting) -> Outcome:
    """The whole run under all guards."""
    network, learner, source, engine, where = parts(setting)
    judge = _judge(setting, learner)
    measure = held_out(
        engine, tokenizer(), where, where.items("held out", HELD_OUT, "validation"), gold, judge=judge
    )
    documents = {name: world.texts(name, "panel", 24) for name in ("prose", "lists")}
    panel = Panel(text_measures(network, tokenizer(), documents, context_length=world.LENGTH))
    guards: list[Guard] = [
        sign(setting, learner, engine, where), HackingGuard(measure, every=EVERY), CollapseGuard(), PanelGuard(panel)
    ]  # fmt: skip
    heard = {guard.name: Heard(guard) for guard in guards}
    truth = Truth(engine, where)
    course = Course(setting.steps, PROMPTS, SAMPLES)
    loop = Loop(learner, source(course, judge), course, guards=[truth, *heard.values()])
    loop.on_step = lambda totals, metrics, batch: _advance(learner, totals.step)
    broken = None
    try:
        loop.run()
    except GuardError as error:  # the trainer itself refuses numbers that are none
        broken = (loop.totals.step, str(error))
    return Outcome(heard, truth.seen, broken)


def begin(setting: Setting) -> Heard:
    """What the guard of the sign says before the first update; nothing else is done."""
    _, learner, _, engine, where = parts(setting)
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


def parts(setting: Setting) -> tuple[Network, Learner, Callable[..., Synchronous], Engine, World]:
    """Network, learner, a maker of sources, engine and environment of a run."""
    network, where, policy = world.started(setting.base), World(setting.tasks), named(setting.algorithm)  # type: ignore[arg-type]
    critic = None
    if policy.advantage == "generalised":
        critic = Critic(trainer_of(scorer_from(network, per_token=True), 1e-3))
        if setting.turned is not None:
            critic.trainer.objective = setting.turned(critic.trainer.objective)
    weight = policy.kl_weight if setting.kl_weight is None else setting.kl_weight
    drawing = Drawing(temperature=setting.temperature)
    learner = (Learner if setting.slips_at is None else Slipped)(
        trainer_of(network, setting.rate), policy, limit=where.max_new_tokens, drawing=drawing, critic=critic,
        reference=Reference(copy.deepcopy(network)) if drawing.plain else None,
        control=DivergenceControl(weight),
    )  # fmt: skip
    if isinstance(learner, Slipped):
        learner.slips_at = setting.slips_at or 0
    engine = Engine(network)

    def source(course: Course, judge: Judged | None) -> Synchronous:
        key = f"run/{setting.base}/{setting.seed}"
        return Synchronous(
            Collector(where, tokenizer(), course, key, drawing, judge, network.config.max_positions), engine
        )

    return network, learner, source, engine, where


def trainer_of(network: Network, rate: float) -> Trainer:
    """One rate for all parameters, as the stage `reinforce` has it."""
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))


def _judge(setting: Setting, learner: Learner) -> Judged | None:
    """The judge of a run, which may change under way."""
    if setting.later is None:
        return None if setting.proxy is None else Judged(setting.proxy)
    when, then = setting.later
    first = setting.proxy or gold
    return Judged(lambda rollout: (then if getattr(learner, "_now", 0) >= when else first)(rollout))


def _advance(learner: Any, step: int) -> None:
    """Tell a learner, and with it its judge, how many updates have been made."""
    learner._now = step
