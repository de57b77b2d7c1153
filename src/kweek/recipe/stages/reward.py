"""Stage `reward`: a reward model of compared answers, and how well it ranks pairs that it has not seen.

Records: "train", "sign", "ranking" {set, accuracy, lo, hi, n, longer, equal_length, length_correlation}: against the
labels of held-out pairs that were sampled, against gold where that sees a difference, and of contrasts, the share of
harmless questions at which an answer is ranked above a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from kweek.align.answers import Answer, asked
from kweek.align.guards.pair_path import pair_sign
from kweek.align.pairs import Pair, usable
from kweek.align.ranking import ranking
from kweek.align.reward import BradleyTerry, RewardModel, before_padding, reward_segments, train_reward_model
from kweek.align.sequences import micro_batches
from kweek.model.scorer import scorer_from
from kweek.recipe.changes import KINDS as CHANGES
from kweek.recipe.changes import record_ranked
from kweek.recipe.compared import as_pair, read_rows
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load, save
from kweek.recipe.pair_guards import Watched, known_pairs
from kweek.recipe.precision import fast_dtype, name_of
from kweek.recipe.stages.compare import GAP
from kweek.recipe.stages.prefer import MAX_LENGTH, RECORD_EVERY, TOKENS_PER_PAIR
from kweek.recipe.watch import write_guards
from kweek.recipe.worlds import read_world
from kweek.stats.intervals import wilson
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import StepResult, Trained, Trainer, checkpoint_step


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model that it starts from, whose tokenizer it shares"),
        "pairs": Role("compared answers"),
        "rules": Role("the rules, for known better and worse answers"),
    }

    threads: Literal[1, "all"] = setting(
        1, doc="CPU threads: 1 or all", reason="preferences are learnt beside it"
    )
    learning_rate: float = setting(
        5e-4, doc="of all parameters; of the embedding three times", reason="that of supervised chats", gt=0
    )
    batch_size: int = setting(16, doc="pairs per update", reason="the number of updates decides", ge=2)
    epochs: int = setting(
        3,
        doc="passes over the pairs",
        reason="after two, training pairs were ranked no better than others",
        ge=1,
    )
    centring: float = setting(
        0.01, doc="weight of the square of a pair's sum", reason="rewards of different prompts compare", ge=0
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Every epoch is a pass with its gradient."""
    base = inputs["model"]
    tokens = inputs["pairs"].get("num_pairs", 1900) * TOKENS_PER_PAIR
    flop = 6.0 * config.epochs * base["num_parameters"] * tokens
    return Estimate(flop, flop / base["flop_per_second"] + 6.0, 0.8e9, dict(base))


def run(ctx: StageContext) -> None:
    """Train, then rank what was held out."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    scorer = scorer_from(network, pad_token_id=tokenizer.configured_id("pad"))
    pad = scorer.config.pad_token_id
    read = [before_padding(as_pair(one), pad) for one in read_rows(ctx.inputs["pairs"], held_out=False)]
    pairs, _ = usable(read, MAX_LENGTH)
    state = ctx.state / "train.safetensors"
    resumed = checkpoint_step(state)
    ctx.records.rewind(
        lambda record: record["kind"] not in CHANGES and resumed > 0 and record.get("step", 0) <= resumed
    )
    judge = RewardModel(scorer, tokenizer, tokenizer)
    known = known_pairs(read_world(ctx.inputs["rules"]), tokenizer)

    def margins() -> list[float]:
        found = judge.rewards([side for one in known for side in (one.chosen, one.rejected)])
        return [better - worse for better, worse in zip(found[::2], found[1::2], strict=True)]

    rate = config.learning_rate
    probe = Trainer(
        scorer,
        SplitOptimiser(scorer, LearningRates(rate, 3 * rate, rate, rate)),
        objective=BradleyTerry(config.centring),
    )
    sign = pair_sign(
        probe,
        lambda: micro_batches(reward_segments(known), MAX_LENGTH),
        lambda: micro_batches(reward_segments(pairs[:256]), MAX_LENGTH),
        margins,
    )
    watched = Watched(ctx, [sign])
    watched.before(resumed > 0)

    def record(totals: Trained, result: StepResult, speed: float) -> None:
        if totals.step % RECORD_EVERY == 0 or totals.step == 1:
            ctx.records.append(
                "train", step=totals.step, tokens=totals.num_tokens, loss=result.loss, learning_rate=rate,
                gradient_norm=result.gradient_norm, tokens_per_second=speed, flop=totals.flop, **result.parts,
            )  # fmt: skip

    totals = train_reward_model(
        scorer, pairs, seed=ctx.seed, learning_rate=rate, batch_size=config.batch_size, epochs=config.epochs,
        centring=config.centring, compute_dtype=fast_dtype(ctx.machine_peak), state=state,
        on_step=watched.on_step(record), progress=ctx.progress, should_stop=ctx.should_stop,
    )  # fmt: skip
    ctx.ledger.add("reward", totals.flop, name_of(fast_dtype(ctx.machine_peak)), tokens=totals.num_tokens)
    accuracy = _ranked(ctx, judge)
    write_guards(ctx)
    save(ctx.out, scorer, tokenizer)
    ctx.out.metrics.update(accuracy=accuracy)


def _ranked(ctx: StageContext, judge: RewardModel) -> float:
    """Record how held-out pairs are ranked; returns the accuracy against the labels."""
    held_out = read_rows(ctx.inputs["pairs"], held_out=True)
    rows = [one for one in held_out if not one.get("written")]
    pairs = [as_pair(one) for one in rows]
    answers = {side: _answers(judge, rows, pairs, side) for side in ("chosen", "rejected")}
    preferred, other = answers["chosen"], answers["rejected"]
    labels = ranking(
        [one.reward for one in preferred], [one.reward for one in other],
        [one.length for one in preferred], [one.length for one in other],
    )  # fmt: skip
    record_ranked(ctx.records, preferred, other, f"{len(pairs)} held-out pairs")
    equal, correlation = labels.equal_length, labels.length_correlation
    ctx.records.append(
        "ranking", set="labels", accuracy=labels.accuracy.mid, lo=labels.accuracy.lo, hi=labels.accuracy.hi,
        n=labels.num_pairs, longer=labels.longer.mid, equal_length=equal and equal.mid,
        length_correlation=correlation and correlation.mid,
    )  # fmt: skip
    _by_gold(ctx, judge, "gold", rows)
    _by_gold(ctx, judge, "contrasts", [one for one in held_out if one.get("written")])
    return labels.accuracy.mid


def _by_gold(ctx: StageContext, judge: RewardModel, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record the share of pairs ranked as gold ranks them, where that sees a difference."""
    told = [one for one in rows if abs(one["gold"]) > GAP]
    if not told:
        return
    better = [_turned(as_pair(one)) if one["gold"] < 0 else as_pair(one) for one in told]
    found = judge.rewards([side for one in better for side in (one.chosen, one.rejected)])
    share = wilson(sum(a > b for a, b in zip(found[::2], found[1::2], strict=True)), len(told))
    ctx.records.append("ranking", set=name, accuracy=share.mid, lo=share.lo, hi=share.hi, n=len(told))


def _answers(
    judge: RewardModel, rows: Sequence[Mapping[str, Any]], pairs: Sequence[Pair], side: str
) -> list[Answer]:
    """One answer of every pair, with its reward and the number of its own tokens."""
    chats = [getattr(one, side) for one in pairs]
    return [
        Answer(asked(row["prompt"]), row[side]["text"], reward, sum(chat.loss_mask))
        for row, chat, reward in zip(rows, chats, judge.rewards(chats), strict=True)
    ]


def _turned(pair: Pair) -> Pair:
    return Pair(pair.rejected, pair.chosen)
