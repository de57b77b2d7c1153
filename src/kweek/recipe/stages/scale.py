"""Stage `scale`: small runs, a law, and from the budget a base model with a forecast frozen before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from kweek.errors import ConfigError
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.derive import Derived, plan_base, plan_rung
from kweek.recipe.jobs import side_by_side
from kweek.recipe.ladder import FRACTIONS, Result, Rung, as_record, climb, training_flop_per_second
from kweek.recipe.materials import Mix, token_sources
from kweek.recipe.plans import FILE, as_document
from kweek.recipe.precision import fast_dtype, name_of
from kweek.stats.scaling import fit_power_law, forecast
from kweek.tokenize.tokenizer import Tokenizer

# What training a 1M-parameter network reaches of the fp32 matrix peak, in fp32 and where bf16 is fast; for estimates.
SHARE_OF_PEAK = {torch.float32: 0.33, torch.bfloat16: 0.42}


class Config(StageConfig):
    """Settings of the stage."""

    uses_budget: ClassVar[bool] = True
    roles: ClassVar[Mapping[str, Role]] = {
        "corpus": Role("documents to read"),
        "tokenizer": Role("their tokenizer"),
    }

    pretrain_share: float = setting(
        0.3,
        doc="share of the recipe's budget that pretraining gets",
        reason="leaves as much for the ladder, two lines of alignment and the evaluation",
        gt=0,
        le=1,
    )
    task_share: float = setting(
        0.6,
        doc="share of rows that hold generated tasks, as in pretrain",
        reason="the ladder must train what it forecasts",
        ge=0,
        le=1,
    )
    width: int | None = setting(
        None,
        doc="width of the base model, instead of the derived one",
        reason="derived from the budget",
        ge=32,
        multiple_of=32,
    )
    fractions: tuple[float, ...] = setting(
        FRACTIONS,
        doc="FLOP of the small runs, as fractions of the target",
        reason="ten runs over 1.1 decades; in simulation a half-width of 2 to 5% at six times the largest",
        min_length=6,
    )
    validation_bytes: int = setting(
        120_000,
        doc="bytes of held-out documents that a run is measured on",
        reason="as in pretrain: one yardstick for both",
        gt=0,
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """What the ladder costs, and the size of the model that it will probably plan."""
    rate = SHARE_OF_PEAK[fast_dtype(machine_peak)] * machine_peak.fp32_flop_per_second
    budget = inputs["budget"]
    if not (budget["flop"] or budget["seconds"]):
        raise ConfigError(
            "the recipe has no budget", where="budget", fix="add e.g. budget: 10min, or --budget 10min"
        )
    target = budget["flop"] or budget["seconds"] * rate
    plan, _ = plan_base(config.pretrain_share * target, inputs["tokenizer"]["vocab_size"], 0, config.width)
    flop = sum(config.fractions) * plan.target_flop
    values = {
        "target_flop": plan.target_flop,
        "target_seconds": plan.target_flop / rate,
        "num_parameters": plan.config.num_parameters()["total"],
        "num_tokens": plan.num_tokens,
        "flop_per_second": rate,
    }
    return Estimate(flop, flop / (0.55 * rate) + 8.0, 1.5e9, values)


def run(ctx: StageContext) -> None:
    """Measure the speed, derive the plan, climb the ladder, fit, forecast, freeze."""
    config: Config = ctx.config
    tokenizer = Tokenizer.load(ctx.inputs["tokenizer"].path)
    dtype = fast_dtype(ctx.machine_peak)
    ctx.records.rewind(lambda record: False)  # records follow from the finished runs kept in the state folder
    flop, rate = _budget_flop(ctx, config, tokenizer)
    plan, derived = plan_base(
        config.pretrain_share * flop, tokenizer.vocab_size, tokenizer.eos_id, config.width
    )
    for item in derived:
        ctx.records.append("derived", **dataclasses.asdict(item))
    rungs = [
        Rung(
            name=f"{fraction:g}",
            plan=plan_rung(plan, fraction),
            seed=ctx.seed,
            task_share=config.task_share,
            corpus=ctx.inputs["corpus"].path,
            tokenizer=ctx.inputs["tokenizer"].path,
            compute_dtype=str(dtype).removeprefix("torch."),
            validation_bytes=config.validation_bytes,
        )
        for fraction in config.fractions
    ]

    done_flop = 0.0

    def on_result(name: str, values: dict[str, Any]) -> None:
        nonlocal done_flop
        done_flop += float(name) * plan.target_flop
        note = f"{values['bits_per_byte']:.3f} bits per byte after {values['num_tokens']:,} tokens"
        ctx.progress(done_flop, sum(config.fractions) * plan.target_flop, note)

    # The longest first, so that no process is left with a long run at the end.
    jobs = {rung.name: rung for rung in sorted(rungs, key=lambda rung: -rung.plan.target_flop)}
    climbed = side_by_side(climb, jobs, ctx.threads, ctx.state / "ladder.json", on_result, ctx.should_stop)
    results = [Result(**climbed[rung.name]) for rung in rungs]
    for result in results:
        ctx.records.append("run", **as_record(result))
    done = forecast([(r.flop, r.bits_per_byte) for r in results], plan.target_flop)
    law = fit_power_law([r.flop for r in results], [r.bits_per_byte for r in results])
    ctx.records.append("law", **law._asdict())
    frozen = {"lo": done.lo, "mid": done.mid, "hi": done.hi}
    ctx.records.append(
        "forecast",
        **frozen,
        target_flop=plan.target_flop,
        coverage=done.coverage,
        confidence=0.9,
        half_width=done.half_width,
    )
    precision = name_of(dtype)
    ctx.ledger.add(
        "ladder", sum(r.flop for r in results), precision, tokens=sum(r.num_tokens for r in results)
    )
    ctx.out.write_json(FILE, as_document(plan))
    if rate is not None:  # from now on the plan knows better than its first guess
        ctx.out.metrics.update(flop_per_second=rate, target_seconds=plan.target_flop / rate)
    ctx.out.metrics.update(
        forecast=frozen,
        target_flop=plan.target_flop,
        num_parameters=plan.config.num_parameters()["total"],
        num_tokens=plan.num_tokens,
        largest_small_run=max(results, key=lambda r: r.flop).bits_per_byte,
    )


def _budget_flop(ctx: StageContext, config: Config, tokenizer: Tokenizer) -> tuple[float, float | None]:
    """The recipe's budget in FLOP; one in seconds is converted by timing real updates, whose FLOP/s comes second."""
    if ctx.budget_flop is not None:
        return ctx.budget_flop, None
    assert ctx.budget_seconds is not None
    seconds = ctx.budget_seconds
    guess = SHARE_OF_PEAK[fast_dtype(ctx.machine_peak)] * ctx.machine_peak.fp32_flop_per_second * seconds
    plan, _ = plan_base(config.pretrain_share * guess, tokenizer.vocab_size, tokenizer.eos_id, config.width)
    mix = Mix(config.task_share, 100_000, f"pretrain/{ctx.seed}")
    sources = token_sources(ctx.inputs["corpus"], tokenizer, mix)
    rate = training_flop_per_second(plan, sources, tokenizer.eos_id, fast_dtype(ctx.machine_peak))
    item = Derived(
        "flop_per_second", rate, "upper quartile of timed updates of a network of about the final size"
    )
    ctx.records.append("derived", **dataclasses.asdict(item))
    return rate * seconds, rate
