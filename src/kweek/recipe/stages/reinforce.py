"""Stage `reinforce`: policy gradients on tasks of any environment, judged by its verifier or by a reward model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from kweek.align.asynchronous import Asynchronous
from kweek.align.behaviour.demonstrations import small_talk
from kweek.align.behaviour.world import World
from kweek.align.collecting import Collector
from kweek.align.keeping import MAIN
from kweek.align.loop import Loop
from kweek.align.reward import RewardModel
from kweek.align.sources import Source as Rollouts
from kweek.align.sources import Synchronous
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.changes import KINDS as CHANGES
from kweek.recipe.context import Estimate, Role, StageContext, setting
from kweek.recipe.fresh import load_fresh
from kweek.recipe.judged import guards_of_learnt
from kweek.recipe.learning import LearningConfig, learner_of
from kweek.recipe.materials import load, save
from kweek.recipe.panel import StagePanel, Tolerances
from kweek.recipe.policy_guards import HeldOut, policy_guards
from kweek.recipe.progress import HELD_OUT, Progress
from kweek.recipe.replay import replay
from kweek.recipe.tasks import TOKENS_PER_STORY, external, measured, require_audited, tokens_per_attempt
from kweek.recipe.watch import heard, write_guards
from kweek.recipe.worlds import read_world
from kweek.train.trainer import checkpoint_step

__all__ = ["Config", "estimate", "external", "run"]

SIGN_PAIRS = 24  # pairs of a right and a wrong answer; at least twenty


class Config(LearningConfig):
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
    replay_weight: float = setting(
        0.1,
        doc="weight of small talk, and of pretraining text, against the policy's loss",
        reason="without it greetings turned to nonsense in one seed of two; at 0.3 the few-line learnt half as much",
        ge=0,
    )
    fresh: bool = setting(
        False,
        doc="the model has seen no chat: tokens of the chat begin as their nearest relatives",
        reason="reinforcement usually follows chats",
    )
    gold_every: int = setting(
        10, doc="updates between measurements on held-out tasks", reason="a second of every twenty", ge=1
    )
    tolerance: Tolerances = setting(
        Tolerances(),
        doc="what may be lost of earlier abilities: bits, solved, trust; see docs/guards.md",
        reason="no healthy run came near it",
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Half the groups carry a signal and are trained on; without the native library generating takes the most time."""
    base = inputs["model"]
    attempts = config.steps * config.prompts * config.samples
    flop = 5.3 * base["num_parameters"] * attempts * _tokens(config, inputs)
    share = 0.8 if native.available() else 2.2  # measured
    return Estimate(flop, share * flop / base["flop_per_second"] + 8.0, 1.0e9, dict(base))


def _tokens(config: Config, inputs: Mapping[str, Any]) -> float:
    """Of one attempt; the world of rules asks about as much as the stories do."""
    return TOKENS_PER_STORY if "rules" in inputs else tokens_per_attempt(config.open_environment())


def run(ctx: StageContext) -> None:
    """Audit the verifier, check the sign, then sample and update."""
    config: Config = ctx.config
    begun = ctx.inputs["model"]
    network, tokenizer = load_fresh(begun, ctx.seed) if config.fresh else load(begun)
    environment = read_world(ctx.inputs["rules"]) if "rules" in ctx.inputs else config.open_environment()
    judge = RewardModel.load(ctx.inputs["reward"].path, tokenizer) if "reward" in ctx.inputs else None
    learner = learner_of(config, network, environment, ctx.seed)
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
    if step == 0 and judge is None:
        require_audited(config, environment, ctx)
    where = measured(environment)
    change = BeforeAfter(
        ctx,
        network,
        tokenizer,
        where,
        judge=judge,
        measured=learner.reference is None and learner.drawing.plain,
    )
    held_out = HeldOut(engine, tokenizer, where, where.items("rl/validation", HELD_OUT, "validation"))
    progress = Progress(ctx, held_out, steps=config.steps, every=config.gold_every, change=change)
    panel = StagePanel(ctx, network, tokenizer, [] if isinstance(where, World) else [where], config.tolerance)
    panel.before()
    kept = panel.guard(config.steps)
    talk = small_talk(environment.rules) if isinstance(environment, World) else None
    if judge is None:
        known = environment.items("audit", SIGN_PAIRS, "train")
        guards = policy_guards(
            learner, engine, tokenizer, environment, known, held_out, config.gold_every, ctx.records
        )
    else:
        guards = guards_of_learnt(learner, engine, tokenizer, environment, judge)
    loop = Loop(
        learner, source, course, ctx.state, [*guards, kept],
        replay(ctx.inputs["corpus"], tokenizer, config.replay_weight, config.steps, ctx.seed, talk),
        progress.on_step, partial(heard, ctx.records), ctx.should_stop,
    )  # fmt: skip
    finished = loop.run()
    if finished.stopped:
        ctx.records.append("stopped", text=finished.stopped, step=finished.totals.step, kept=finished.kept)
    change.finish()
    ctx.ledger.add("reinforce", finished.totals.flop, "fp32", tokens=finished.totals.num_tokens)
    readings = kept.read_at(finished.kept)
    panel.finish(readings)
    write_guards(ctx)
    save(ctx.out, network, tokenizer)
    ctx.out.metrics.update(bits_per_byte=panel.documents_bits(readings))
