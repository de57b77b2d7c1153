"""Stage `prefer`: compared answers turned into a better policy, without a reward model.

Records: "train" {step, loss, ...} with the parts that every objective over pairs names, "sign", "guard".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from pydantic import model_validator

from kweek.align.behaviour.world import World
from kweek.align.displacement import Displacement
from kweek.align.dpo import DPO
from kweek.align.guards.guard import Guard
from kweek.align.guards.pair_path import answer_margins, pair_sign
from kweek.align.guards.panel import failed, refusal
from kweek.align.ipo import IPO
from kweek.align.kto import KTO, Judged, JudgedBatches, prepared
from kweek.align.pairs import Pair, PairBatches, pair_segments, usable, with_reference
from kweek.align.sequences import ScoreTokens, micro_batches
from kweek.align.simpo import SimPO
from kweek.data.batches import Batch
from kweek.engine.engine import Engine
from kweek.errors import ConfigError
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.changes import KINDS as CHANGES
from kweek.recipe.compared import as_pair, read_rows
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load, save
from kweek.recipe.pair_guards import Watched, known_pairs
from kweek.recipe.panel import StagePanel, Tolerances
from kweek.recipe.precision import fast_dtype, name_of
from kweek.recipe.watch import write_guards
from kweek.recipe.worlds import read_world
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.objective import Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, checkpoint_step, fit

Name = Literal["dpo", "ipo", "kto", "simpo"]
OBJECTIVES: Mapping[Name, Callable[..., Objective]] = {"dpo": DPO, "ipo": IPO, "kto": KTO, "simpo": SimPO}
MAX_LENGTH = 512  # tokens of prompt and answer: three shots and a story take some 200
TOKENS_PER_PAIR = 180  # both answers with their prompts; for estimates only
LOOKS = 6  # at how far the policy has gone: a curve, for some seconds
RECORD_EVERY = 2  # updates between records: some thirty points on a curve


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model whose answers were compared"),
        "pairs": Role("compared answers"),
        "rules": Role("the rules, for known better and worse answers"),
        "corpus": Role("documents, to measure what was lost"),
    }

    threads: Literal[1, "all"] = setting(
        1, doc="CPU threads: 1 or all", reason="the reward model is trained beside it"
    )
    objective: Name = setting(
        "dpo",
        doc="dpo, ipo, kto or simpo, see docs/preferences.md",
        reason="pairs are many and mostly right",
    )
    switches: dict[str, float] = setting(
        {"label_smoothing": 0.1, "anchor": 0.2},
        doc="arguments of the objective: beta, label_smoothing, anchor; tau; beta, gamma; ...",
        reason="a tenth of the labels is wrong, and chosen answers are not to fall",
    )
    learning_rate: float = setting(
        1e-4, doc="of all parameters; of the embedding three times", reason="a fifth of the chats'", gt=0
    )
    batch_size: int = setting(32, doc="pairs per update", reason="as many as tell a direction", ge=2)
    epochs: int = setting(
        2, doc="passes over the pairs", reason="the second still gained, a third would not", ge=1
    )
    tolerance: Tolerances = setting(
        Tolerances(),
        doc="what may be lost of earlier abilities: bits, solved, trust; see docs/guards.md",
        reason="no healthy run came near it",
    )

    @model_validator(mode="after")
    def _can_be_meant(self) -> Config:
        try:
            self.make()
        except ConfigError as error:
            raise ValueError(f"{error.where}: {error.what}") from error
        except TypeError as error:
            raise ValueError(f"switches: {str(error).partition(') ')[2] or error}") from error
        return self

    def make(self) -> Objective:
        """The objective with its arguments."""
        return OBJECTIVES[self.objective](**self.switches)


assert set(OBJECTIVES) == set(get_args(Name))


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """The reference scores every pair once, then every epoch is a pass with its gradient."""
    base = inputs["model"]
    tokens = inputs["pairs"].get("num_pairs", 1900) * TOKENS_PER_PAIR
    flop = base["num_parameters"] * tokens * (2.0 + 6.5 * config.epochs)
    return Estimate(flop, flop / base["flop_per_second"] + 6.0, 0.9e9, dict(base))


def run(ctx: StageContext) -> None:
    """Score the pairs with the model as it is, then train on them."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    pairs, left_out = usable(
        [as_pair(one) for one in read_rows(ctx.inputs["pairs"], held_out=False)], MAX_LENGTH
    )
    state = ctx.state / "train.safetensors"
    resumed = checkpoint_step(state)
    ctx.records.rewind(
        lambda record: record["kind"] not in CHANGES and resumed > 0 and record.get("step", 0) <= resumed
    )
    if not resumed:
        ctx.records.append("left_out", step=0, **{reason: float(count) for reason, count in left_out.items()})
    world = read_world(ctx.inputs["rules"])
    panel = StagePanel(ctx, network, tokenizer, [world.plain()], config.tolerance)
    panel.before()
    score: ScoreTokens = Engine(network).score
    batches, num_steps = _batches(config, pairs, score, ctx.seed)
    rate = config.learning_rate
    optimiser = SplitOptimiser(network, LearningRates(rate, 3 * rate, rate, rate))
    trainer = Trainer(network, optimiser, objective=config.make(), compute_dtype=fast_dtype(ctx.machine_peak))
    change = BeforeAfter(ctx, network, tokenizer, world)
    watched = Watched(ctx, _guards(config, world, tokenizer, trainer, pairs, score))
    watched.before(resumed > 0)

    def record(totals: Trained, result: StepResult, speed: float) -> None:
        if totals.step % RECORD_EVERY == 0 or totals.step == 1:
            ctx.records.append(
                "train", step=totals.step, tokens=totals.num_tokens, loss=result.loss, learning_rate=rate,
                gradient_norm=result.gradient_norm, tokens_per_second=speed, flop=totals.flop, **result.parts,
            )  # fmt: skip
        if totals.step % max(1, num_steps // LOOKS) == 0:
            change.look_by_sampling(totals.step)

    totals = fit(
        trainer, batches, num_steps, WarmupStableDecay(num_steps, decay=1.0), state=state,
        on_step=watched.on_step(record), progress=ctx.progress, should_stop=ctx.should_stop,
    )  # fmt: skip
    change.finish()
    ctx.ledger.add("prefer", totals.flop, name_of(fast_dtype(ctx.machine_peak)), tokens=totals.num_tokens)
    readings = panel.panel.read()
    if failed(panel.changes(readings)):
        raise refusal(panel.tell(readings))
    panel.finish(readings)
    write_guards(ctx)
    save(ctx.out, network, tokenizer)
    ctx.out.metrics.update(bits_per_byte=panel.documents_bits(readings), num_pairs=len(pairs))


def _batches(
    config: Config, pairs: Sequence[Pair], score: ScoreTokens, seed: int
) -> tuple[Callable[[int], Iterator[list[Batch]]], int]:
    """Updates and their number; KTO takes the two answers of a pair as one good and one bad."""
    if config.objective == "kto":
        single = [
            Judged(side, good) for one in pairs for side, good in ((one.chosen, True), (one.rejected, False))
        ]
        judged = JudgedBatches(
            prepared(single, score, seed),
            score,
            batch_size=2 * config.batch_size,
            epochs=config.epochs,
            seed=seed,
        )
        return judged, judged.num_steps
    paired = PairBatches(
        with_reference(pairs, score), batch_size=config.batch_size, epochs=config.epochs, seed=seed
    )
    return paired, paired.num_steps


def _guards(
    config: Config,
    world: World,
    tokenizer: Tokenizer,
    trainer: Trainer,
    pairs: Sequence[Pair],
    score: ScoreTokens,
) -> list[Guard]:
    """Against swapped columns, and against chosen answers that fall unseen; KTO has no pairs to swap."""
    guards: list[Guard] = [Displacement()]
    if config.objective == "kto":
        return guards
    known = with_reference(known_pairs(world, tokenizer), score)
    some = with_reference(pairs[:256], score)

    def update(of: Sequence[Pair]) -> Sequence[Batch]:
        return micro_batches(pair_segments(of), MAX_LENGTH)

    sign = pair_sign(
        trainer, lambda: update(known), lambda: update(some), lambda: answer_margins(known, score)
    )
    return [sign, *guards]
