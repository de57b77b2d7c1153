"""Stage `compare`: a model's answers, two at a time, and which of them a labeller in a hurry prefers.

The labeller is another function than the gold checker of the rules, and wrong now and then: see
`kweek.align.behaviour.labeller`. To some harmless questions it compares what demonstrators said instead: an answer and
a refusal, see `kweek.align.behaviour.contrasts`. Records: "comparison_set" {split, pairs, ties, gold_agrees, gold_lo,
gold_hi, gold_n} with split "train", "validation" or "contrasts", "pair" {level, question, chosen, rejected} for a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from kweek.align.behaviour.contrasts import contrasts
from kweek.align.behaviour.labeller import Hurry, prefers_first
from kweek.align.behaviour.questions import rng
from kweek.align.behaviour.world import World
from kweek.align.environment import Item, Split
from kweek.align.rollout import Group
from kweek.align.sampling import Drawing, sample
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.errors import Interrupted
from kweek.protocols import Message
from kweek.recipe.compared import row, write_rows, written_row
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load
from kweek.recipe.worlds import read_world
from kweek.stats.intervals import wilson
from kweek.tokenize.tokenizer import Tokenizer

TOKENS_PER_ANSWER = 90  # prompt and answer; for estimates only
PAIRS_PER_TWO = 0.8  # of two sampled answers are no tie, measured; for estimates only
AT_ONCE = 64  # prompts between two looks at the clock
CONTRASTS_HELD_OUT = 8  # one for so many that are trained on: known to ten points
SHOWN = 12  # pairs in the records
GAP = 0.1  # of gold's value: less is a matter of taste


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model whose answers are compared"),
        "rules": Role("the rules, and the world of questions about them"),
    }

    threads: Literal[1, "all"] = setting(
        1, doc="CPU threads: 1 or all", reason="as of the other stages of alignment"
    )
    prompts: int = setting(
        1200,
        doc="questions of the training split, attacks of the families that are not held out among them",
        reason="some 1,500 pairs that are no ties",
        ge=8,
    )
    held_out: int = setting(
        150, doc="questions whose pairs no training sees", reason="ranks a reward model to five points", ge=4
    )
    samples: int = setting(
        4, doc="answers to each, compared two by two", reason="two would often be the same", ge=2
    )
    contrasts: int = setting(
        400,
        doc="harmless questions at which a demonstrator's answer is compared with a refusal; 0 for none",
        reason="without them half of the needless refusals among the pairs were preferred",
        ge=0,
    )
    labeller: dict[str, float] = setting(
        {},
        doc="how careless the labeller is: wrong_key, confuses, overlooks, safe, per_word",
        reason="a tenth of the keys wrong, a fifth of the lookalikes confused, as people in a hurry do",
    )

    def hurry(self) -> Hurry:
        """The labeller's habits."""
        return Hurry(**self.labeller)


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Generation of all answers."""
    base = inputs["model"]
    answers = (config.prompts + config.held_out) * config.samples
    flop = 2.2 * base["num_parameters"] * answers * TOKENS_PER_ANSWER
    speed = (2.4 if native.available() else 0.5) * base["flop_per_second"]
    pairs = round(PAIRS_PER_TWO * config.prompts * (config.samples // 2)) + config.contrasts
    return Estimate(flop, flop / speed + 4.0, 0.7e9, {**base, "num_pairs": pairs})


def run(ctx: StageContext) -> None:
    """Sample, compare, write; a killed attempt starts again, it takes seconds."""
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)
    network, tokenizer = load(ctx.inputs["model"])
    world, engine = read_world(ctx.inputs["rules"]), Engine(network)
    rows: list[dict[str, Any]] = []
    for split, count in (("train", config.prompts), ("validation", config.held_out)):
        items = world.items(f"compare/{ctx.seed}", count, "train" if split == "train" else "validation")
        made: list[dict[str, Any]] = []
        ties = 0
        for start in range(0, len(items), AT_ONCE):
            if ctx.should_stop():
                raise Interrupted
            groups = sample(
                engine, tokenizer, world, items[start : start + AT_ONCE], samples=config.samples,
                key=f"compare/{ctx.seed}", drawing=Drawing(), max_positions=network.config.max_positions,
            )  # fmt: skip
            ctx.ledger.add("compare", sum(r.flop for group in groups for r in group), "fp32")
            for group in groups:
                found, equal = _compared(world, group, config.hurry(), ctx.seed, held_out=split != "train")
                made += found
                ties += equal
            ctx.progress(start + len(groups), len(items), f"{len(made)} pairs of {split}")
        _record(ctx, split, made, ties)
        rows += made
    if config.contrasts:
        made, ties = _contrasted(ctx, world, tokenizer, config.contrasts, "train")
        _record(ctx, "contrasts", made, ties)
        held_out = max(1, config.contrasts // CONTRASTS_HELD_OUT)
        rows += made + _contrasted(ctx, world, tokenizer, held_out, "validation")[0]
    write_rows(ctx.out, rows)
    ctx.out.metrics.update(num_pairs=sum(not one["held_out"] for one in rows))


def _compared(
    world: World, group: Group, hurry: Hurry, seed: int, *, held_out: bool
) -> tuple[list[dict[str, Any]], int]:
    """The pairs of one question's answers, and how many were ties."""
    made, ties = [], 0
    for number in range(0, len(group) - 1, 2):
        first, second = group[number], group[number + 1]
        draw = rng("labeller", seed, first.item.id, number)
        texts = [str(one.messages[-1]["content"]) for one in (first, second)]
        preferred = prefers_first(world.rules, first.item, texts[0], texts[1], hurry, draw)
        if preferred is None or list(first.token_ids) == list(second.token_ids):
            ties += 1
            continue
        better, worse = (first, second) if preferred else (second, first)
        gold = better.score.value - worse.score.value
        made.append(row(better, worse, held_out=held_out, gold=gold))
    return made, ties


def _contrasted(
    ctx: StageContext, world: World, tokenizer: Tokenizer, count: int, split: Split
) -> tuple[list[dict[str, Any]], int]:
    """The pairs of demonstrators' answers to harmless questions, and how many were ties."""
    made, ties = [], 0
    for one in contrasts(world, f"compare/{ctx.seed}", count, split):
        draw = rng("labeller", ctx.seed, one.item.id, "contrast")
        texts = [str(message["content"]) for message in (one.answer, one.refusal)]
        preferred = prefers_first(world.rules, one.item, texts[0], texts[1], ctx.config.hurry(), draw)
        if preferred is None:
            ties += 1
            continue
        sides = (one.answer, one.refusal) if preferred else (one.refusal, one.answer)
        better, worse = (_gold(world, one.item, message) for message in sides)
        held_out, gold = split != "train", better - worse
        made.append(written_row(tokenizer, one.item, *sides, held_out=held_out, gold=gold))
    return made, ties


def _gold(world: World, item: Item, message: Message) -> float:
    """What the checker says of one answer."""
    episode = world.begin(item)
    episode.step(message)
    return episode.score().value


def _record(ctx: StageContext, split: str, made: list[dict[str, Any]], ties: int) -> None:
    """How many, and how often gold says the same where it sees a difference."""
    told = [one for one in made if abs(one["gold"]) > GAP]
    agrees = wilson(sum(one["gold"] > 0 for one in told), len(told)) if told else None
    ctx.records.append(
        "comparison_set", split=split, pairs=len(made), ties=ties, gold_n=len(told),
        gold_agrees=agrees and agrees.mid, gold_lo=agrees and agrees.lo, gold_hi=agrees and agrees.hi,
    )  # fmt: skip
    for one in made[:SHOWN] if split != "validation" else ():
        ctx.records.append(
            "pair", level=one["level"], question=str(one["prompt"][-1]["content"]), chosen=one["chosen"]["text"],
            rejected=one["rejected"]["text"],
        )  # fmt: skip
