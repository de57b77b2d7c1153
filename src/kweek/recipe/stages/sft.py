"""Stage `sft`: chats taught to the base model, at the best of some stated settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from kweek.align.behaviour.demonstrations import Slips, demonstrations
from kweek.align.behaviour.world import World
from kweek.align.guards.panel import Readings, failed, refusal
from kweek.align.sampling import sample
from kweek.align.sft import ChatBatches, chat_segments, initialise_special_rows
from kweek.align.verifier import whole_number
from kweek.align.word_problems import WordProblems
from kweek.data import stories
from kweek.data.packing import keyed_generator
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.evaluate.problems import Asker, attempt
from kweek.model.network import Network
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import Mix, load, save, token_sources
from kweek.recipe.panel import StagePanel, Tolerances
from kweek.recipe.precision import fast_dtype, name_of
from kweek.recipe.watch import write_guards
from kweek.recipe.worlds import read_world
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, checkpoint_step, fit

TOKENS_PER_CHAT = 75  # mean of question and answer; for estimates only


class Setting(BaseModel):
    """One way to train: peak learning rate for all parameters and passes over the chats."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    learning_rate: float
    epochs: int


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the base model"),
        "corpus": Role("documents that are replayed so that nothing is lost"),
        "rules": Role("written rules, about whose world the chats are then", required=False),
    }

    threads: Literal[1, "all"] = setting(
        1,
        doc="CPU threads: 1 or all",
        reason="two lines of alignment side by side use two cores better than one on both",
    )
    demonstrations: int = setting(
        2048, doc="number of chats", reason="enough to teach the format of each style", ge=8
    )
    styles: tuple[stories.Style, ...] = setting(
        ("direct", "reasoned", "tool"),
        doc="how the answers are reached, in rotation",
        reason="mixed demonstrations leave the choice of strategy to reinforcement",
        min_length=1,
    )
    batch_size: int = setting(
        16, doc="chats per update", reason="the number of updates decides, so batches are small", ge=1
    )
    slips: dict[str, float] = setting(
        {},
        doc="with rules, how often a demonstration breaks one: told, answered, refused, forgot_ending, said, rambled",
        reason="careless people demonstrate: what they forget is left to preferences and reinforcement",
    )
    settings: tuple[Setting, ...] = setting(
        (
            Setting(learning_rate=5e-4, epochs=2),
            Setting(learning_rate=1e-3, epochs=2),
            Setting(learning_rate=1e-3, epochs=3),
        ),
        doc="settings to try; the one with the best validation accuracy is kept",
        reason="reinforcement must not be compared with a handicapped start",
        min_length=1,
    )
    replay_tokens: int = setting(
        512,
        doc="tokens of pretraining text per update",
        reason="with 256 at half weight 0.05 bits per byte were lost on documents",
        ge=0,
    )
    replay_weight: float = setting(
        1.0, doc="weight of the replayed text against the chats", reason="as replay_tokens", ge=0
    )
    replay_task_share: float = setting(
        0.3,
        doc="share of replayed rows that hold tasks",
        reason="they too are forgotten when never seen",
        ge=0,
        le=1,
    )
    share_sums: float = setting(
        0.1,
        doc="share of bare sums among the chats",
        reason="a twentieth taught them to one answer in eight",
        ge=0,
        le=1,
    )
    validation_problems: int = setting(
        192,
        doc="held-out problems that settings are judged on",
        reason="tells settings apart that differ by ten points",
        ge=16,
    )
    tolerance: Tolerances = setting(
        Tolerances(),
        doc="what may be lost of earlier abilities: bits, solved, trust; see docs/guards.md",
        reason="no healthy run came near it",
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Cost of all settings together."""
    base = inputs["model"]
    chats = sum(s.epochs for s in config.settings) * config.demonstrations
    updates = chats / config.batch_size
    tokens = chats * TOKENS_PER_CHAT + updates * config.replay_tokens
    flop = 6.5 * base["num_parameters"] * tokens
    share = 0.59 if native.available() else 0.91  # measured; validation generates
    return Estimate(flop, share * flop / base["flop_per_second"] + 6.0, 0.8e9, dict(base))


def run(ctx: StageContext) -> None:
    """Train every setting from the same start and keep the best."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    world = read_world(ctx.inputs["rules"]) if "rules" in ctx.inputs else None
    chats = chat_segments(tokenizer, _demonstrations(config, world, f"sft/{ctx.seed}"))
    replay = token_sources(
        ctx.inputs["corpus"], tokenizer, Mix(config.replay_task_share, 200_000, f"replay/{ctx.seed}")
    )
    start = {name: value.clone() for name, value in network.state_dict().items()}
    change = BeforeAfter(ctx, network, tokenizer, world or WordProblems())
    tasks = [WordProblems()] if world is None else [world.plain()]
    panel = StagePanel(ctx, network, tokenizer, tasks, config.tolerance)
    panel.before()
    total_steps = sum(
        _batches(config, s, chats, replay, tokenizer, ctx.seed).num_steps for s in config.settings
    )
    # A finished setting's checkpoint stands at its last step, so the sum is the step that training goes on from.
    resumed = sum(checkpoint_step(_state(ctx, number)) for number in range(len(config.settings)))
    ctx.records.rewind(lambda record: record["kind"] == "train" and record["step"] <= resumed)
    rows: list[dict[str, Any]] = []
    done_steps = 0
    for number, chosen in enumerate(config.settings):
        network.load_state_dict(start)
        initialise_special_rows(network, tokenizer, int(keyed_generator("rows", ctx.seed).integers(2**62)))
        change.start_here()
        batches = _batches(config, chosen, chats, replay, tokenizer, ctx.seed)
        offset = done_steps
        totals = _train(ctx, network, chosen, batches, _state(ctx, number), offset, total_steps)
        done_steps += batches.num_steps
        accuracy = _validate(network, tokenizer, world, config.validation_problems)
        ctx.ledger.add("sft", totals.flop, name_of(fast_dtype(ctx.machine_peak)), tokens=totals.num_tokens)
        name, updates = f"setting {number + 1}", batches.num_steps
        rows.append({"name": name, "accuracy": accuracy, **chosen.model_dump(), "updates": updates})
    winner, readings = _best(ctx, network, panel, [row["accuracy"] for row in rows])
    for i, row in enumerate(rows):
        ctx.records.append("setting", **row, chosen=i == winner)
    change.look_by_sampling(rows[winner]["updates"])
    change.finish()
    panel.finish(readings)
    write_guards(ctx)
    save(ctx.out, network, tokenizer)
    ctx.out.metrics.update(
        validation_accuracy=rows[winner]["accuracy"],
        bits_per_byte=panel.documents_bits(readings),
        demonstrations=config.demonstrations,
    )


def _best(
    ctx: StageContext, network: Network, panel: StagePanel, accuracies: Sequence[float]
) -> tuple[int, Readings]:
    """The setting of the best accuracy that has lost no more than may be; its weights are in the network.

    Raises:
        GuardError: all have lost more.
    """
    order = sorted(range(len(accuracies)), key=lambda number: -accuracies[number])  # the first among equals
    tried = []
    for number in order:
        _trainer(ctx, network, ctx.config.settings[number]).load(_state(ctx, number))
        tried.append(panel.panel.read())
        if not failed(panel.changes(tried[-1])):
            return number, tried[-1]
    raise refusal(panel.tell(tried[0]))


def _state(ctx: StageContext, number: int) -> Path:
    """Checkpoint of one setting."""
    return ctx.state / f"{number}.safetensors"


def _batches(
    config: Config, chosen: Setting, chats: Any, replay: Any, tokenizer: Tokenizer, seed: int
) -> ChatBatches:
    return ChatBatches(
        chats,
        batch_size=min(config.batch_size, len(chats)),
        epochs=chosen.epochs,
        seed=seed,
        replay=replay if config.replay_tokens else (),
        replay_tokens=config.replay_tokens,
        replay_weight=config.replay_weight,
        eos_id=tokenizer.eos_id,
    )


def _trainer(ctx: StageContext, network: Network, chosen: Setting) -> Trainer:
    rate = chosen.learning_rate
    optimiser = SplitOptimiser(network, LearningRates(rate, 3 * rate, rate, rate))
    return Trainer(network, optimiser, compute_dtype=fast_dtype(ctx.machine_peak))


def _train(
    ctx: StageContext,
    network: Network,
    chosen: Setting,
    batches: ChatBatches,
    state: Path,
    offset: int,
    num_steps: int,
) -> Trained:
    """Train one setting, going on from its checkpoint; a finished one is only loaded."""
    rate, trainer = chosen.learning_rate, _trainer(ctx, network, chosen)

    def on_step(totals: Trained, result: StepResult, speed: float) -> None:
        if totals.step % 5 == 0 or totals.step == 1:
            ctx.records.append(
                "train", step=offset + totals.step, tokens=totals.num_tokens, loss=result.loss,
                learning_rate=rate, gradient_norm=result.gradient_norm, tokens_per_second=speed, flop=totals.flop,
            )  # fmt: skip

    def progress(done: float, total: float, note: str = "", **values: float) -> None:
        ctx.progress(offset + done, num_steps, note, **values)

    totals = fit(
        trainer,
        batches,
        batches.num_steps,
        WarmupStableDecay(batches.num_steps, decay=1.0),
        state=state,
        on_step=on_step,
        progress=progress,
        should_stop=ctx.should_stop,
    )
    trainer.save(state, totals)
    return totals


def _demonstrations(config: Config, world: World | None, key: str) -> list[list[dict[str, Any]]]:
    """Chats of the training split: stories, or the world of the rules."""
    if world is not None:
        return demonstrations(world.rules, key, config.demonstrations, Slips(**config.slips))
    return stories.demonstrations(key, config.demonstrations, config.styles, share_sums=config.share_sums)


def _validate(network: Network, tokenizer: Tokenizer, world: World | None, count: int) -> float:
    """Greedy accuracy on held-out problems of the validation split; with rules on plain questions of their world."""
    if world is not None:
        asked = world.group("help", "sft/validation", count, "validation")
        groups = sample(Engine(network), tokenizer, world, asked, samples=1, key="greedy")
        return sum(group[0].score.parts["right"] for group in groups) / len(groups)
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    items = stories.problems("sft/validation", count, "validation")
    outcomes = attempt(Engine(network), asker, items)
    return sum(o[0].correct for o in outcomes) / len(outcomes)
