"""Stage `reinforce`: policy gradients on problems with verifiable answers."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kweek.align.algorithms import AlgorithmName, named
from kweek.align.answers import Answer, of_rollout
from kweek.align.asynchronous import Asynchronous
from kweek.align.collecting import Collected, Collector, Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.distance import Distance
from kweek.align.guards.collapse import CollapseGuard
from kweek.align.guards.guard import Guard, Verdict
from kweek.align.guards.known import known_pairs
from kweek.align.guards.policy_path import policy_sign
from kweek.align.keeping import MAIN
from kweek.align.learner import Learner
from kweek.align.loop import Loop, Replay, nothing
from kweek.align.metrics import Metrics
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.align.rollout import Rollout
from kweek.align.sampling import sample
from kweek.align.sft import chat_segments
from kweek.align.sources import Source as Rollouts
from kweek.align.sources import Synchronous
from kweek.align.verifier import audit, require_sound, whole_number
from kweek.align.word_problems import WordProblems
from kweek.data import stories
from kweek.data.batches import Segment
from kweek.data.packing import PackedMix, Source, keyed_generator
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.recipe.changes import KINDS, record_answers, record_divergence, record_groups
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import Mix, load, save, token_sources, validation_texts
from kweek.recipe.pretraining import documents_bits, evaluate_bits
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trained, Trainer, checkpoint_step

TOKENS_PER_SAMPLE = 75  # prompt and answer; for estimates only
SIGN_PAIRS = 24  # pairs of a right and a wrong answer; at least twenty
AUDIT_ITEMS = 200
HELD_OUT = 64  # problems for the curve of greedy accuracy: within 12 points
MOVED = (
    4  # answers to each problem that the distance from the start is measured on: half a nat with 24 problems
)
LENGTH = 256  # of the replayed rows, as pretraining ended
REPLAY_TOKENS = (
    1024  # of text per update: a small weight on many tokens holds what was learnt with little noise
)


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model that has learnt the format from chats"),
        "corpus": Role("documents that are replayed so that nothing is lost"),
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
        doc="share of bare sums among the problems",
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


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Half the groups carry a signal and are trained on; without the native library generating takes the most time."""
    base = inputs["model"]
    tokens = config.steps * config.prompts * config.samples * TOKENS_PER_SAMPLE
    flop = 5.3 * base["num_parameters"] * tokens
    share = 0.8 if native.available() else 2.2  # measured
    return Estimate(flop, share * flop / base["flop_per_second"] + 8.0, 1.0e9, dict(base))


def run(ctx: StageContext) -> None:
    """Audit the verifier, check the sign, then sample and update."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    environment = WordProblems(share_sums=config.share_sums)
    learner = _learner(config, network, environment, ctx.seed)
    course = config.course()
    collector = Collector(
        environment, tokenizer, course, f"rl/{ctx.seed}", learner.drawing,
        max_positions=network.config.max_positions,
    )  # fmt: skip
    engine = Engine(network)
    source: Rollouts = (
        Asynchronous(collector, network) if config.staleness else Synchronous(collector, engine)
    )
    step = checkpoint_step(ctx.state / MAIN)
    ctx.records.rewind(
        lambda record: record["kind"] not in KINDS and record.get("step", 0) <= step and step > 0
    )
    if step == 0:
        _audit(ctx)
    distance = Distance(copy.deepcopy(network)) if learner.reference is None else None
    progress = _Progress(ctx, engine, tokenizer, distance)
    before = progress.answers()
    loop = Loop(
        learner, source, course, ctx.state, _guards(learner, engine, tokenizer), _replay(ctx, tokenizer, config),
        progress.on_step, progress.on_verdict, ctx.should_stop,
    )  # fmt: skip
    finished = loop.run()
    if finished.stopped:
        ctx.records.append("stopped", text=finished.stopped, step=finished.totals.step, kept=finished.kept)
    record_groups(ctx.records)
    record_answers(ctx.records, before, progress.answers(), f"{HELD_OUT} held-out problems, greedy")
    ctx.ledger.add("reinforce", finished.totals.flop, "fp32", tokens=finished.totals.num_tokens)
    ctx.ledger.add("measure", progress.flop, "fp32")
    bits = evaluate_bits(network, tokenizer, validation_texts(ctx.inputs["corpus"], 60_000))
    save(ctx.out, network, tokenizer)
    ctx.out.metrics.update(bits_per_byte=documents_bits(bits))


def _learner(config: Config, network: Network, environment: WordProblems, seed: int) -> Learner:
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
    """Records every update; now and then greedy accuracy on held-out problems and the distance from the start.

    Attributes:
        flop: of these measurements.
    """

    def __init__(
        self, ctx: StageContext, engine: Engine, tokenizer: Tokenizer, distance: Distance | None
    ) -> None:
        self._ctx, self._engine, self._tokenizer, self._distance = ctx, engine, tokenizer, distance
        self._environment = WordProblems()
        self._held_out = self._environment.items("rl/validation", HELD_OUT, "validation")
        self._last = time.monotonic()
        self.flop = 0.0

    def answers(self) -> list[Answer]:
        """Greedy answers to the held-out problems, for people and for the curve."""
        return [of_rollout(self._tokenizer, rollout) for rollout in self._greedy()]

    def on_step(self, totals: Trained, metrics: Metrics, batch: Collected) -> None:
        """See `Loop.on_step`."""
        ctx, config = self._ctx, self._ctx.config
        gold = None
        if metrics.step % config.gold_every == 0 or metrics.step == config.steps:
            greedy = self._greedy()
            gold = sum(rollout.score.value for rollout in greedy) / len(greedy)
        if self._distance is not None and (gold is not None or metrics.step == 1):
            sampled = [rollout for group in batch.all_groups for rollout in group[:MOVED]]
            record_divergence(ctx.records, metrics.step, self._distance.of(sampled))
            self.flop += self._distance.num_flops(sampled)
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        ctx.records.append(
            "update", **dataclasses.asdict(metrics), gold=gold, seconds=seconds, flop=totals.flop
        )
        ctx.progress(
            metrics.step, config.steps, reward=metrics.reward, flop_per_second=metrics.flop / seconds
        )

    def _greedy(self) -> list[Rollout]:
        found = sample(
            self._engine, self._tokenizer, self._environment, self._held_out, samples=1, key="greedy"
        )
        self.flop += sum(group[0].flop for group in found)
        return [group[0] for group in found]

    def on_verdict(self, guard: str, step: int, verdict: Verdict) -> None:
        """See `Loop.on_verdict`; what the guard of the sign sees at first has a record of its own."""
        figures, records = dict(verdict.figures), self._ctx.records
        if guard == "sign" and step == 0:
            records.append("sign", **figures, passed=True)
        else:
            text = verdict.text
            records.append("guard", name=guard, step=step, verdict=verdict.kind, text=text, figures=figures)


def _audit(ctx: StageContext) -> None:
    """Refuse to start with a verifier that can be fooled."""
    items = stories.problems("audit", AUDIT_ITEMS, "train", share_sums=0.1)
    findings = audit(whole_number, [item.question for item in items], [item.answer for item in items])
    for finding in findings:
        ctx.records.append("audit", **dataclasses.asdict(finding), passed=finding.passed)
    require_sound(findings)


def _guards(learner: Learner, engine: Engine, tokenizer: Tokenizer) -> list[Guard]:
    """Against a reward that points the wrong way, and against collapse."""
    environment = WordProblems(share_sums=0.1)
    items = environment.items("audit", SIGN_PAIRS, "train")
    sign = policy_sign(learner, engine, lambda: known_pairs(engine, tokenizer, environment, items))
    return [sign, CollapseGuard()]


def _replay(ctx: StageContext, tokenizer: Tokenizer, config: Config) -> Replay:
    """A function of the step: small talk and a row of text, weighing `replay_weight` each in sum."""
    if config.replay_weight == 0:
        return nothing
    talk = chat_segments(tokenizer, stories.small_talk())
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
            total = sum(float(part.weights.sum()) for part in members)
            result += [
                dataclasses.replace(p, weights=p.weights * (config.replay_weight / total)) for p in members
            ]
        return result

    return segments
