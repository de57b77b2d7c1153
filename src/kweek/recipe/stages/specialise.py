"""Stage `specialise`: an adapter beside a frozen model, trained on the exercises of a domain, and merged.

The artifact is a model folder; `adapter/` in it is the adapter alone, in the format of PEFT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from kweek.align.domain import Domain, load_domain
from kweek.align.practice import Practice, practise
from kweek.align.specialist import Drill, Schooling, prepare, school
from kweek.compute.hardware import Peak
from kweek.data.batches import Segment
from kweek.engine.engine import Engine
from kweek.errors import DataError
from kweek.model.adapter import merge
from kweek.model.adapter_files import save_adapter
from kweek.model.network import Network
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load, save
from kweek.recipe.precision import fast_dtype, name_of
from kweek.system.interceptors import say_inline_calculator
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.trainer import StepResult, Trained, checkpoint_step

ADAPTER = "adapter"  # its folder in the artifact
TOKENS_PER_EXERCISE = 140  # for estimates only
#: What training is expected to reach of the machine's peak in a precision; on a busy machine SmolLM2-135M reached 0.42
#: and 0.15 per processor second, see docs/log.md.
EFFICIENCY = {"fp32": 0.5, "bf16": 0.25}
LEAST_STEPS = 20  # fewer updates teach nothing


class Config(StageConfig):
    """Settings of the stage."""

    uses_budget: ClassVar[bool] = True
    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model to specialise"),
        "domain": Role("exercises to learn from"),
        "match": Role("a stage whose FLOP, with those of its domain, are spent here too", required=False),
    }

    rank: int = setting(
        16, doc="of the adapter", reason="learns some thousand examples as full training does", ge=1
    )
    learning_rate: float = setting(
        1e-3,
        doc="peak, of the adapter",
        reason="twice the rate with which thirty updates lifted a model from 3 to 30%",
        gt=0,
    )
    batch_size: int = setting(
        8, doc="examples per update", reason="the number of updates decides, so batches are small", ge=1
    )
    epochs: float = setting(
        2.0,
        doc="passes over the exercises at most",
        reason="new examples teach more than old ones; a second pass is cheap where they are few",
        gt=0,
    )
    row_length: int = setting(
        256,
        doc="tokens of a row that examples are packed into; a longer one has a row of its own",
        reason="holds two or three, and at 512 attention took a fifth of the time",
        ge=32,
    )
    max_tokens: int = setting(
        1024, doc="longer examples are left out", reason="some pages; memory grows with it", ge=32
    )
    budget_share: float = setting(
        0.75,
        doc="of the run's budget for this stage; examinations come on top",
        reason="speed is foretold to a third at best",
        gt=0,
        le=1,
    )
    practice_rounds: int = setting(
        0,
        doc="rounds of practice: answers are sampled, right ones are learnt (expert iteration)",
        reason="worked answers teach more per FLOP; where there are none, give 2",
        ge=0,
    )
    practice_questions: int = setting(256, doc="questions of a round", reason="some minutes of a core", ge=1)
    practice_samples: int = setting(
        4, doc="answers sampled to each", reason="hard questions get a chance", ge=1
    )

    def schooling(self, peak: Peak) -> Schooling:
        """How the adapter learns on this machine."""
        return Schooling(
            self.rank, self.learning_rate, self.batch_size, self.row_length, compute_dtype=fast_dtype(peak)
        )


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Four products per parameter and token, for as long as the budget lasts."""
    base = inputs["model"]
    tokens = config.epochs * inputs["domain"].get("num_train", 1000) * TOKENS_PER_EXERCISE
    tokens += (
        config.practice_rounds * config.practice_questions * config.practice_samples * TOKENS_PER_EXERCISE
    )
    flop = 4.2 * base["num_parameters"] * tokens
    if (seconds := inputs["budget"]["seconds"]) is not None:
        flop = min(flop, config.budget_share * seconds * _speed(machine_peak))
    if (limit := inputs["budget"]["flop"]) is not None:
        flop = min(flop, config.budget_share * limit)
    memory = 8.0 * base["num_parameters"] + 1.2e9
    return Estimate(flop, flop / _speed(machine_peak) + 8.0, memory, dict(base))


def run(ctx: StageContext) -> None:
    """Learn from the answers, practise where that was asked for, write adapter and merged model."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    domain = load_domain(ctx.inputs["domain"].path)
    schooling = config.schooling(ctx.machine_peak)
    taught = [one for one in domain.exercises["train"] if one.answer is not None]
    if not taught and not config.practice_rounds:
        raise DataError(
            "there are no answers to learn from", where=domain.name, fix="give practice_rounds or a teacher"
        )
    log = _Log(ctx)
    left_out = Counter[str]()
    segments = domain.segments(tokenizer, "train", config.max_tokens, left_out) if taught else []
    for reason, count in left_out.items():
        ctx.records.append("left_out", reason=reason, exercises=count)
    prepare(network, schooling, ctx.seed)
    if segments:
        _learn(ctx, network, segments, schooling, log)
    if config.practice_rounds:
        _practise(ctx, network, tokenizer, domain, segments, log)
    _write(ctx, network, tokenizer, domain)


class _Log:
    """Records updates, one after the other over all phases."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self.first_step = 0
        done = sum(checkpoint_step(path) for path in sorted(ctx.state.glob("phase-*.safetensors")))
        ctx.records.rewind(lambda record: record["kind"] != "left_out" and record.get("step", 0) <= done)

    def on_step(self, totals: Trained, result: StepResult, speed: float) -> None:
        """See `fit`."""
        if totals.step % 5 == 0 or totals.step == 1:
            self._ctx.records.append(
                "train", step=self.first_step + totals.step, tokens=totals.num_tokens, loss=result.loss,
                learning_rate=self._ctx.config.learning_rate, gradient_norm=result.gradient_norm,
                tokens_per_second=speed, flop=totals.flop,
            )  # fmt: skip


def _learn(
    ctx: StageContext, network: Network, segments: list[Segment], schooling: Schooling, log: _Log
) -> None:
    drill = Drill(segments, schooling, ctx.seed)
    steps, rule = _num_steps(ctx, network, drill)
    ctx.records.append("derived", name="updates", value=steps, rule=rule)
    totals = school(
        network, drill, schooling, steps, state=ctx.state / "phase-0.safetensors",
        on_step=log.on_step, progress=ctx.progress, should_stop=ctx.should_stop,
    )  # fmt: skip
    log.first_step += totals.step
    ctx.ledger.add("specialise", totals.flop, name_of(schooling.compute_dtype), tokens=totals.num_tokens)
    ctx.out.metrics.update(updates=totals.step, examples_read=totals.step * drill.batch_size)


def _practise(
    ctx: StageContext,
    network: Network,
    tokenizer: Tokenizer,
    domain: Domain,
    segments: list[Segment],
    log: _Log,
) -> None:
    config: Config = ctx.config
    schooling = config.schooling(ctx.machine_peak)
    plan = Practice(config.practice_rounds, config.practice_questions, config.practice_samples)
    engine = Engine(network, threads=ctx.threads)
    for done in practise(
        network, engine, tokenizer, domain, segments, plan, schooling, seed=ctx.seed, state=ctx.state,
        on_step=log.on_step, progress=ctx.progress, should_stop=ctx.should_stop,
    ):  # fmt: skip
        ctx.records.append("practice", round=done.number, right=done.right, kept=done.kept, asked=done.asked)
        ctx.ledger.add("sample", done.sampling_flop, "fp32")
        ctx.ledger.add(
            "specialise", done.trained.flop, name_of(schooling.compute_dtype), tokens=done.trained.num_tokens
        )
        log.first_step += done.trained.step


def _num_steps(ctx: StageContext, network: Network, drill: Drill) -> tuple[int, str]:
    """Updates, and the rule that gave them: so many epochs, unless the budget or a stage to match says otherwise."""
    config: Config = ctx.config
    steps = max(LEAST_STEPS, round(config.epochs * drill.steps_per_epoch))
    per_step = drill.flop_per_step(network)
    if "match" in ctx.inputs:
        matched = ctx.inputs["match"]
        flop = matched.ledger["flop_total"] + matched.metrics.get("flop_before", 0.0)
        return max(LEAST_STEPS, round(flop / per_step)), "the FLOP of the stage to match"
    limit, rule = float("inf"), ""
    if ctx.budget_seconds is not None:
        limit, rule = (
            config.budget_share * ctx.budget_seconds * _speed(ctx.machine_peak),
            "the budget's share",
        )
    if ctx.budget_flop is not None:
        limit, rule = config.budget_share * ctx.budget_flop, "the budget's share"
    if limit < steps * per_step:
        return max(LEAST_STEPS, int(limit / per_step)), rule
    return steps, f"{config.epochs:g} epochs of {len(drill.segments)} exercises"


def _speed(peak: Peak) -> float:
    """FLOP per second that training is expected to reach."""
    name = name_of(fast_dtype(peak))
    flop_per_second = peak.bf16_flop_per_second if name == "bf16" else peak.fp32_flop_per_second
    return EFFICIENCY[name] * (flop_per_second or peak.fp32_flop_per_second)


def _write(ctx: StageContext, network: Network, tokenizer: Tokenizer, domain: Domain) -> None:
    """The adapter alone, then the model with the adapter in its weights."""
    save_adapter(ctx.out.path(f"{ADAPTER}/adapter_config.json").parent, network)
    merge(network)
    save(ctx.out, network, tokenizer)
    if domain.calculator:
        say_inline_calculator(ctx.out)
    folder = ctx.out.directory / ADAPTER
    ctx.out.metrics["adapter_bytes"] = sum(file.stat().st_size for file in folder.iterdir())
    ctx.out.metrics["flop_before"] = float(ctx.inputs["domain"].ledger.get("flop_total", 0.0))
