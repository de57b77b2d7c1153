"""Stage `pretrain`: the base model, at the size and length that the stage `scale` derived."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from kweek.align.guards.probe import Probe, Probes, loss_probe, memory_probe, repetition_probe
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.protocols import Request
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.derive import MAX_LENGTH
from kweek.recipe.materials import Mix, first_bytes, save, token_sources, validation_texts
from kweek.recipe.panel import StagePanel
from kweek.recipe.plans import read_plan
from kweek.recipe.precision import fast_dtype, name_of
from kweek.recipe.pretraining import build, documents_bits, evaluate_bits, pretrain
from kweek.recipe.watch import write_guards
from kweek.store.records import Records
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
PROBED_BYTES = 16_000  # of held-out text: tells a tenth of a bit, within a second
PROBED_SAMPLES = 32  # short samples: the share that repeats itself to some hundredths
VALIDATION_BYTES = 120_000  # gives bits per byte to about 1% of its value
RECORD_EVERY = 10  # steps between loss records: some 500 points on a curve


class Limits(BaseModel):
    """Values above which a probe halts the run; null leaves the probe out."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    loss: float | None = Field(
        default=0.3, gt=0, description="bits per byte by which held-out text may grow dearer than it was"
    )
    repetition: float | None = Field(
        default=0.5, gt=0, description="share of four-token runs of a sample that it said before"
    )
    memory: float | None = Field(
        default=5.0, gt=0, description="standard deviations by which a canary is likelier than texts like it"
    )


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
    probes: Limits = setting(
        Limits(),
        doc="limits of the probes that watch the run: loss, repetition, memory",
        reason="no healthy run came near them; a run that comes apart is seen at the next look",
    )
    canaries: tuple[str, ...] = setting(
        (), doc="texts that must not be known by heart, for the probe of memory", reason="only you know them"
    )
    looks: int = setting(
        10, doc="how often the probes look, evenly spaced; 0 is never", reason="a second each", ge=0
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
    probed = _Probed(ctx, tokenizer, texts, plan.num_steps)

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
        probed(network, totals.step)

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
    panel = StagePanel(ctx, done.network, tokenizer)
    panel.finish(panel.panel.read())
    write_guards(ctx)
    save(ctx.out, done.network, tokenizer)
    ctx.out.metrics.update(
        bits_per_byte=documents_bits(bits),
        bits_per_byte_by_source={source: result.value for source, result in bits.items()},
        num_tokens=done.totals.num_tokens,
        compute_dtype=precision,
    )


class _Probed:
    """Lets the probes look now and then, and records what they see."""

    def __init__(
        self, ctx: StageContext, tokenizer: Tokenizer, texts: Mapping[str, list[str]], num_steps: int
    ) -> None:
        self._records, self._tokenizer = ctx.records, tokenizer
        self._config: Config = ctx.config
        self._few = {name: first_bytes(group, PROBED_BYTES / len(texts)) for name, group in texts.items()}
        self._every = -(-num_steps // self._config.looks) if self._config.looks else 0
        self._lowest: dict[str, float] = {}
        for record in Records.read(ctx.records.path):  # those of before a kill
            if record["kind"] == "probe":
                name, value = record["name"], record["value"]
                self._lowest[name] = min(value, self._lowest.get(name, value))

    def __call__(self, network: Network, step: int) -> None:
        """Raises GuardError where a probe is beyond its limit."""
        if not self._every or step % self._every:
            return

        def tell(probe: Probe, value: float) -> None:
            self._records.append("probe", step=step, name=probe.name, value=value, limit=probe.limit)

        watch = Probes(self._probes(network), self._lowest)
        watch.look(step, tell)
        self._lowest = watch.lowest

    def _probes(self, network: Network) -> list[Probe]:
        limits, made = self._config.probes, []
        if limits.loss is not None:
            made.append(
                loss_probe(network, self._tokenizer, self._few, context_length=MAX_LENGTH, limit=limits.loss)
            )
        if limits.repetition is not None:
            starts = [[self._tokenizer.eos_id]] * PROBED_SAMPLES
            made.append(repetition_probe(lambda: Engine(network), starts, limit=limits.repetition))
        if limits.memory is not None:
            made += [
                memory_probe(
                    lambda: Engine(network),
                    self._tokenizer,
                    text,
                    limit=limits.memory,
                    name=f"memory {number}",
                )
                for number, text in enumerate(self._config.canaries, start=1)
            ]
        return made


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
