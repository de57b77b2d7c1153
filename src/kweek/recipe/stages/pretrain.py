"""Stage `pretrain`: the base model, at the size and length that the stage `scale` derived."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.protocols import Request
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import Mix, save, token_sources, validation_texts
from kweek.recipe.plans import read_plan
from kweek.recipe.precision import fast_dtype, name_of
from kweek.recipe.pretraining import build, documents_bits, evaluate_bits, pretrain
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, checkpoint_step

AGES = (0.0, 0.06, 0.25, 0.6, 1.0)  # of the tokens: the abilities shown appear early and unevenly
AGE_PROMPTS = (
    "Return the ",
    "12+7=",
    "Sam has 12 coins. He finds 5 more. How many coins does Sam have now?\n",
)
VALIDATION_BYTES = 120_000  # gives bits per byte to about 1% of its value
RECORD_EVERY = 10  # steps between loss records: some 500 points on a curve


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "corpus": Role("documents to read"),
        "tokenizer": Role("their tokenizer"),
        "scale": Role("size, tokens, batch and learning rate, with the forecast"),
    }

    task_share: float = setting(
        0.6,
        doc="share of rows that hold generated tasks",
        reason="measured: reading a story is learnt within 2M tokens, documents stay legible",
        ge=0,
        le=1,
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Cost of the run that `scale` plans."""
    scale = inputs["scale"]
    flop = scale["target_flop"]
    return Estimate(
        flop,
        scale["target_seconds"],
        1.0e9,
        {key: scale[key] for key in ("num_parameters", "num_tokens", "flop_per_second")},
    )


def run(ctx: StageContext) -> None:
    """Train, show the model at five ages, and write a Hugging Face folder."""
    config: Config = ctx.config
    plan = read_plan(ctx.inputs["scale"])
    tokenizer = Tokenizer.load(ctx.inputs["tokenizer"].path)
    mix = Mix(config.task_share, int(plan.num_tokens * config.task_share), f"pretrain/{ctx.seed}")
    sources = token_sources(ctx.inputs["corpus"], tokenizer, mix)
    texts = validation_texts(ctx.inputs["corpus"], VALIDATION_BYTES)
    dtype = fast_dtype(ctx.machine_peak)
    state = ctx.state / "train.safetensors"
    ages = {max(1, round(age * plan.num_steps)): number for number, age in enumerate(AGES) if age > 0}
    resumed = _rewind(ctx, state)
    schedule = WarmupStableDecay(plan.num_steps)

    def show(network: Network, number: int, totals: Trained) -> None:
        bits = evaluate_bits(network, tokenizer, texts)
        values = {source: result.value for source, result in bits.items()}
        ctx.records.append(
            "age", age=number, step=totals.step, tokens=totals.num_tokens, prompts=answers(network, tokenizer)
        )
        ctx.records.append("validation", step=totals.step, tokens=totals.num_tokens, bits_per_byte=values)

    def on_step(network: Network, totals: Trained, result: StepResult, speed: float) -> None:
        if totals.step % RECORD_EVERY == 0:
            ctx.records.append(
                "train",
                step=totals.step,
                tokens=totals.num_tokens,
                loss=result.loss,
                learning_rate=schedule(totals.step - 1)
                * LearningRates().matrices
                * plan.learning_rate_factor,
                gradient_norm=result.gradient_norm,
                tokens_per_second=speed,
                flop=totals.flop,
            )
        if totals.step in ages:
            show(network, ages[totals.step], totals)

    if not resumed:
        show(build(plan, ctx.seed), 0, Trained())
    done = pretrain(
        plan,
        sources,
        tokenizer.eos_id,
        ctx.seed,
        compute_dtype=dtype,
        state=state,
        on_step=on_step,
        progress=ctx.progress,
        should_stop=ctx.should_stop,
    )
    precision = name_of(dtype)
    ctx.ledger.add("pretrain", done.totals.flop, precision, tokens=done.totals.num_tokens)
    bits = evaluate_bits(done.network, tokenizer, texts)
    save(ctx.out, done.network, tokenizer)
    ctx.out.metrics.update(
        bits_per_byte=documents_bits(bits),
        bits_per_byte_by_source={source: result.value for source, result in bits.items()},
        num_tokens=done.totals.num_tokens,
        compute_dtype=precision,
    )


def answers(network: Network, tokenizer: Tokenizer) -> list[dict[str, str]]:
    """Greedy continuations of the prompts that every age is given."""
    requests = [
        Request([tokenizer.eos_id, *tokenizer.encode(prompt)], 40, stop_ids=frozenset({tokenizer.eos_id}))
        for prompt in AGE_PROMPTS
    ]
    completions = Engine(network).generate(requests)
    return [
        {"prompt": prompt, "answer": tokenizer.decode([t for t in done.token_ids if t != tokenizer.eos_id])}
        for prompt, done in zip(AGE_PROMPTS, completions, strict=True)
    ]


def _rewind(ctx: StageContext, state: Path) -> bool:
    """Drop records written after the checkpoint that training goes on from; true when there is one."""
    step = checkpoint_step(state)
    ctx.records.rewind(lambda record: record.get("step", 0) <= step)
    return step > 0
