"""Stage `reinforce`: policy gradients on problems that are judged by their environment or by a reward model."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kweek.align.algorithms import AlgorithmName, named
from kweek.align.asynchronous import Asynchronous
from kweek.align.behaviour.demonstrations import small_talk
from kweek.align.behaviour.world import World
from kweek.align.collecting import Collected, Collector, Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.environment import Environment
from kweek.align.environments.fitting import Fitting
from kweek.align.keeping import MAIN
from kweek.align.learner import Learner
from kweek.align.loop import Loop, Replay, nothing
from kweek.align.metrics import Metrics
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.reward import RewardModel
from kweek.align.sft import chat_segments
from kweek.align.sources import Source as Rollouts
from kweek.align.sources import Synchronous
from kweek.align.word_problems import WordProblems
from kweek.data import stories
from kweek.data.batches import Segment
from kweek.data.packing import PackedMix, Source, keyed_generator
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.changes import KINDS as CHANGES
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.judged import guards_of_learnt
from kweek.recipe.materials import Mix, load, save, token_sources
from kweek.recipe.panel import StagePanel, Tolerances
from kweek.recipe.policy_guards import HeldOut, policy_guards
from kweek.recipe.tasks import STORIES, audited, opened
from kweek.recipe.tasks import external as external_of
from kweek.recipe.watch import heard, write_guards
from kweek.recipe.worlds import read_world
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trained, Trainer, checkpoint_step

TOKENS_PER_SAMPLE = 75  # prompt and answer; for estimates only
SIGN_PAIRS = 24  # pairs of a right and a wrong answer; at least twenty
HELD_OUT = 64  # problems for the curve of greedy accuracy: within 12 points
LENGTH = 256  # of the replayed rows, as pretraining ended
REPLAY_TOKENS = (
    1024  # of text per update: a small weight on many tokens holds what was learnt with little noise
)


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model that has learnt the format from chats"),
        "corpus": Role("documents that are replayed so that nothing is lost"),
        "rules": Role("written rules, whose world is then the environment", required=False),
        "reward": Role("a reward model, which then judges in place of the environment", required=False),
    }

    threads: Literal[1, "all"] = setting(
        1,
        doc="CPU threads: 1 or all",
        reason="two lines of alignment side by side use two cores better than one on both",
    )
    algorithm: AlgorithmName = setting(
        "reinforce",
        doc="reinforce, grpo, dr_grpo, dapo, gspo, rloo, reinforce_plus_plus or ppo, see docs/reinforcement.md",
        reason="one update on fresh samples needs no ratio, no critic and no reference, and learns as fast",
    )
    policy: dict[str, Any] = setting(
        {},
        doc="switches of the algorithm to change, by name: {kl: reward, kl_weight: 0.01}",
        reason="each algorithm as published",
    )
    environment: str = setting(
        STORIES,
        doc="what is attempted: stories, guessing, gym:TASK, a file of prompts with verifiers, or module:name",
        reason="there are stories in any number, judged exactly, at every level",
    )
    verifier: str | None = setting(
        None, doc="judge of prompts that name none, such as number", reason="the lines of a file name theirs"
    )
    max_new_tokens: int | None = setting(
        None,
        doc="tokens of an answer to prompts of a file or of reasoning-gym",
        reason="256 and 96, a short chain of thought and an answer; other environments say it themselves",
        ge=1,
    )
    audit_limits: dict[str, float] = setting(
        {},
        doc="other bounds for the audit, by the name of a finding: {best constant: 0.6} for yes or no",
        reason="the bounds of docs/environments.md, which suit answers of many kinds",
    )
    steps: int = setting(60, doc="policy updates", reason="gains are large up to 50 and small after", ge=1)
    prompts: int = setting(24, doc="problems per update", reason="as in the measured trial", ge=1)
    samples: int = setting(8, doc="answers sampled per problem", reason="as in the measured trial", ge=2)
    epochs: int = setting(
        1, doc="passes over the answers of one batch", reason="the default algorithm is on policy", ge=1
    )
    minibatches: int = setting(1, doc="updates per pass", reason="the default algorithm is on policy", ge=1)
    rounds: int = setting(
        0,
        doc="how often groups of equal reward may be replaced by attempts at other problems",
        reason="skipping them costs less time than sampling more",
        ge=0,
    )
    pool: int = setting(
        1,
        doc="problems looked at for each one attempted; above 1 the success of each level so far decides",
        reason="the levels are few and all within reach",
        ge=1,
    )
    staleness: int = setting(
        0,
        doc="batches by which the weights that sample are behind those that learn; above 0 both run side by side",
        reason="the other core works on the other line of alignment",
        ge=0,
    )
    kl_target: float | None = setting(
        None,
        doc="nats per answer that the weight of the divergence is steered to",
        reason="exact rewards are not hacked, so the model may go as far as they lead",
        gt=0,
    )
    kl_budget: float | None = setting(
        None, doc="nats per answer from the start at which training ends", reason="as kl_target", gt=0
    )
    critic_learning_rate: float = setting(
        1e-3,
        doc="of all parameters of the critic, for ppo",
        reason="it starts from nothing and must run ahead",
        gt=0,
    )
    learning_rate: float = setting(
        2.5e-4, doc="of all parameters", reason="measured: 5e-4 and above unlearn the hardest stories", gt=0
    )
    warmup: int = setting(
        5, doc="updates of linear warm-up", reason="the moments of the optimiser start empty", ge=0
    )
    share_sums: float = setting(
        0.1,
        doc="share of bare sums among the stories",
        reason="keeps what was taught beside stories",
        ge=0,
        le=1,
    )
    replay_weight: float = setting(
        0.1,
        doc="weight of small talk, and of pretraining text, against the policy's loss",
        reason="without it greetings turned to nonsense in one seed of two; at 0.3 the few-line learnt half as much",
        ge=0,
    )
    gold_every: int = setting(
        10, doc="updates between measurements on held-out problems", reason="a second of every twenty", ge=1
    )
    tolerance: Tolerances = setting(
        Tolerances(),
        doc="what may be lost of earlier abilities: bits, solved, trust; see docs/guards.md",
        reason="no healthy run came near it",
    )

    @model_validator(mode="after")
    def _can_be_meant(self) -> Config:
        try:
            policy = self.algorithm_policy()
            self.course().require_sense(policy)
            policy.require_updates(self.epochs * self.minibatches)
            DivergenceControl(policy.kl_weight, self.kl_target, self.kl_budget)
        except ConfigError as error:
            raise ValueError(f"{error.where}: {error.what}") from error
        return self

    def algorithm_policy(self) -> Policy:
        """The algorithm with its switches."""
        return named(self.algorithm, self.policy)

    def course(self) -> Course:
        """How many attempts at what."""
        return Course(
            self.steps, self.prompts, self.samples, self.warmup, self.rounds, self.pool, self.staleness
        )


def external(config: Config) -> str:
    """What the environment depends on outside the run."""
    return external_of(config.environment, config.verifier)


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Half the groups carry a signal and are trained on; without the native library generating takes the most time."""
    base = inputs["model"]
    tokens = config.steps * config.prompts * config.samples * TOKENS_PER_SAMPLE
    flop = 5.3 * base["num_parameters"] * tokens
    share = 0.8 if native.available() else 2.2  # measured
    return Estimate(flop, share * flop / base["flop_per_second"] + 8.0, 1.0e9, dict(base))


def run(ctx: StageContext) -> None:
    """Audit the environment, check the sign, then sample and update."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    world = read_world(ctx.inputs["rules"]) if "rules" in ctx.inputs else None
    judge = RewardModel.load(ctx.inputs["reward"].path, tokenizer) if "reward" in ctx.inputs else None
    environment = world or _environment(config, tokenizer, network.config.max_positions)
    learner = _learner(config, network, environment, ctx.seed)
    course = config.course()
    collector = Collector(
        environment, tokenizer, course, f"rl/{ctx.seed}", learner.drawing, judge,
        max_positions=network.config.max_positions,
    )  # fmt: skip
    engine = Engine(network)
    source: Rollouts = (
        Asynchronous(collector, network) if config.staleness else Synchronous(collector, engine)
    )
    step = checkpoint_step(ctx.state / MAIN)
    ctx.records.rewind(
        lambda record: record["kind"] not in CHANGES and record.get("step", 0) <= step and step > 0
    )
    if step == 0 and judge is None:  # a reward model is no verifier: its guards are others
        audited(ctx, environment, config.audit_limits)
    # Bare sums keep what was taught beside stories; the curve is of stories.
    stories_alone = world is None and config.environment == STORIES
    shown = WordProblems() if stories_alone else environment
    change = BeforeAfter(ctx, network, tokenizer, shown, judge=judge, measured=learner.reference is None)
    held_out = HeldOut(engine, tokenizer, shown, shown.items("rl/validation", HELD_OUT, "validation"))
    tasks: list[Environment] = [world.plain()] if world is not None else [WordProblems()]
    if world is None and not stories_alone:
        tasks.append(environment)
    panel = StagePanel(ctx, network, tokenizer, tasks, config.tolerance)
    panel.before()
    kept = panel.guard(config.steps)
    if judge is None:
        known = environment.items("audit", SIGN_PAIRS, "train")
        guards = policy_guards(
            learner, engine, tokenizer, environment, known, held_out, config.gold_every, ctx.records
        )
    else:
        guards = guards_of_learnt(learner, engine, tokenizer, environment, judge)
    loop = Loop(
        learner, source, course, ctx.state, [*guards, kept], _replay(ctx, tokenizer, config, world),
        _Progress(ctx, held_out, change).on_step, partial(heard, ctx.records), ctx.should_stop,
    )  # fmt: skip
    finished = loop.run()
    if finished.stopped:
        ctx.records.append("stopped", text=finished.stopped, step=finished.totals.step, kept=finished.kept)
    change.finish()
    ctx.ledger.add("reinforce", finished.totals.flop, "fp32", tokens=finished.totals.num_tokens)
    readings = kept.read_at(finished.kept)
    panel.finish(readings)
    if isinstance(environment, Fitting) and environment.too_long:
        ctx.records.append("note", text=f"{len(environment.too_long)} prompts leave no room for an answer")
    write_guards(ctx)
    save(ctx.out, network, tokenizer)
    ctx.out.metrics.update(bits_per_byte=panel.documents_bits(readings))


def _environment(config: Config, tokenizer: Tokenizer, max_positions: int) -> Environment:
    """What is attempted, without the prompts that leave no room for an answer; stories are short."""
    found = opened(config.environment, config.verifier, config.share_sums, config.max_new_tokens)
    return found if config.environment == STORIES else Fitting(found, tokenizer, max_positions)


def _learner(config: Config, network: Network, environment: Environment, seed: int) -> Learner:
    """The algorithm with its optimiser, and with reference and critic where it has them."""
    policy = config.algorithm_policy()
    rate, wanted = config.learning_rate, config.kl_target or config.kl_budget
    reference = Reference(copy.deepcopy(network)) if policy.needs_reference or wanted else None
    critic = None
    if policy.advantage == "generalised":
        scorer, own = scorer_from(network, per_token=True), config.critic_learning_rate
        critic = Critic(
            Trainer(scorer, SplitOptimiser(scorer, LearningRates(own, own, own, own), weight_decay=0.0))
        )
    return Learner(
        Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0)),
        policy,
        limit=environment.max_new_tokens * environment.max_turns,
        critic=critic,
        reference=reference,
        control=DivergenceControl(policy.kl_weight, config.kl_target, config.kl_budget),
        epochs=config.epochs,
        minibatches=config.minibatches,
        seed=seed,
    )


class _Progress:
    """Records every update, and now and then greedy accuracy on held-out problems and the distance from the start."""

    def __init__(self, ctx: StageContext, held_out: HeldOut, change: BeforeAfter) -> None:
        self._ctx, self._held_out, self._change = ctx, held_out, change
        self._last = time.monotonic()

    def on_step(self, totals: Trained, metrics: Metrics, batch: Collected) -> None:
        """See `Loop.on_step`."""
        ctx, config = self._ctx, self._ctx.config
        gold = None
        if metrics.step % config.gold_every == 0 or metrics.step == config.steps:
            gold = self._held_out.reward()
        if gold is not None or metrics.step == 1:
            self._change.look(metrics.step, batch.all_groups)
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        ctx.records.append(
            "update", **dataclasses.asdict(metrics), gold=gold, seconds=seconds, flop=totals.flop
        )
        ctx.progress(
            metrics.step, config.steps, reward=metrics.reward, flop_per_second=metrics.flop / seconds
        )


def _replay(ctx: StageContext, tokenizer: Tokenizer, config: Config, world: World | None) -> Replay:
    """A function of the step: small talk and a row of text, weighing `replay_weight` each in sum.

    The small talk is that of the stage `sft`, under the rules where there are any; a model that learns other tasks was
    taught by others.
    """
    if config.replay_weight == 0:
        return nothing
    chats = stories.small_talk() if config.environment == STORIES else []
    if world is not None:
        chats = small_talk(world.rules)
    talk = chat_segments(tokenizer, chats) if chats else []
    sources: list[Source] = token_sources(
        ctx.inputs["corpus"], tokenizer, Mix(0.3, 200_000, f"replay/{ctx.seed}")
    )
    texts = list(
        PackedMix(sources, [LENGTH] * config.steps, REPLAY_TOKENS, ctx.seed, tokenizer.eos_id).rows()
    )

    def segments(step: int) -> list[Segment]:
        order = keyed_generator("talk", ctx.seed, step).permutation(len(talk))[:4]
        result: list[Segment] = []
        for members in ([talk[int(i)] for i in order], [part for row in texts[step] for part in row]):
            if not members:
                continue
            total = sum(float(part.weights.sum()) for part in members)
            result += [
                dataclasses.replace(p, weights=p.weights * (config.replay_weight / total)) for p in members
            ]
        return result

    return segments
