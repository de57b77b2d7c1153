"""Stage `reinforce`: group-relative policy gradient on problems with verifiable answers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from kweek.align.reinforce import check_sign, update
from kweek.align.sft import chat_segments
from kweek.align.verifier import audit, require_sound, whole_number
from kweek.data import stories
from kweek.data.batches import Segment
from kweek.data.packing import PackedMix, Source, keyed_generator
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.errors import Interrupted
from kweek.evaluate.problems import Asker, attempt
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import Mix, load, save, token_sources, validation_texts
from kweek.recipe.pretraining import documents_bits, evaluate_bits
from kweek.system.calculator import Calculator
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import CHECKPOINT_SECONDS, Trained, Trainer, checkpoint_step

TOKENS_PER_SAMPLE = 75  # prompt and answer; for estimates only
SIGN_PAIRS = 24  # pairs of a right and a wrong answer; at least twenty
AUDIT_ITEMS = 200
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
    steps: int = setting(60, doc="policy updates", reason="gains are large up to 50 and small after", ge=1)
    prompts: int = setting(24, doc="problems per update", reason="as in the measured trial", ge=1)
    samples: int = setting(8, doc="answers sampled per problem", reason="as in the measured trial", ge=2)
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
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    rate = config.learning_rate
    trainer = Trainer(
        network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0)
    )
    state = ctx.state / "train.safetensors"
    step = checkpoint_step(state)
    ctx.records.rewind(lambda record: record.get("step", 0) <= step and step > 0)
    if step == 0:
        _guard(ctx, trainer, asker)
    totals = trainer.load(state)[0] if step else Trained()
    replay = _replay(ctx, tokenizer, config)
    held_out = stories.problems("rl/validation", 64, "validation")
    saved = time.monotonic()
    while totals.step < config.steps:
        if ctx.should_stop():
            trainer.save(state, totals)
            raise Interrupted
        started = time.monotonic()
        step = totals.step
        items = stories.problems(
            f"rl/{ctx.seed}/{step}", config.prompts, "train", share_sums=config.share_sums
        )
        groups = attempt(
            Engine(network),
            asker,
            items,
            samples=config.samples,
            temperature=1.0,
            key=f"rl/{ctx.seed}/{step}",
        )
        factor = min(1.0, (step + 1) / max(1, config.warmup))
        done = update(trainer, groups, factor, replay(step))
        sampling = sum(outcome.flop for group in groups for outcome in group)
        learning = done.step.flop if done.step else 0.0
        totals = Trained(
            step + 1,
            totals.num_tokens + sum(o.num_new_tokens for g in groups for o in g),
            totals.flop + sampling + learning,
        )
        gold = None
        if totals.step % config.gold_every == 0 or totals.step == config.steps:
            greedy = attempt(Engine(network), asker, held_out)
            gold = sum(o[0].correct for o in greedy) / len(greedy)
        seconds = time.monotonic() - started
        ctx.records.append(
            "update", step=totals.step, reward=done.reward, gold=gold, length=done.length, entropy=done.entropy,
            tool_share=done.tool_share, groups_skipped=done.groups_skipped, logprob_gap=done.logprob_gap,
            gradient_norm=done.step.gradient_norm if done.step else 0.0, seconds=seconds, flop=totals.flop,
        )  # fmt: skip
        rate_now = (sampling + learning) / seconds
        ctx.progress(totals.step, config.steps, reward=done.reward, flop_per_second=rate_now)
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            trainer.save(state, totals)
            saved = time.monotonic()
    ctx.ledger.add("reinforce", totals.flop, "fp32", tokens=totals.num_tokens)
    bits = evaluate_bits(network, tokenizer, validation_texts(ctx.inputs["corpus"], 60_000))
    save(ctx.out, network, tokenizer)
    ctx.out.metrics.update(bits_per_byte=documents_bits(bits))


def _guard(ctx: StageContext, trainer: Trainer, asker: Asker) -> None:
    """Refuse to start with a verifier that can be fooled or a reward that points the wrong way."""
    items = stories.problems("audit", AUDIT_ITEMS, "train", share_sums=0.1)
    findings = audit(whole_number, [item.question for item in items], [item.answer for item in items])
    for finding in findings:
        ctx.records.append("audit", **dataclasses.asdict(finding), passed=finding.passed)
    require_sound(findings)
    sign = check_sign(trainer, asker, items[:SIGN_PAIRS])
    ctx.records.append(
        "sign",
        pairs=sign.num_pairs,
        margin_before=sign.margin_before,
        margin_after=sign.margin_after,
        passed=True,
    )


def _replay(ctx: StageContext, tokenizer: Any, config: Config) -> Any:
    """A function of the step: small talk and a row of text, weighing `replay_weight` each in sum."""
    if config.replay_weight == 0:
        return lambda step: []
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
