"""Stage `expert`: sample answers, keep what is verified, learn it as if it had been demonstrated; in rounds.

One round is rejection-sampled fine-tuning on a model's own traces, several are expert iteration; see
`kweek.align.expert`. The traces that were kept lie in the artifact as chats, traces.jsonl. What the stage changed and
what it cost is measured against the model that learns: `start` where there is one, else `model`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from kweek.align.environment import Environment
from kweek.align.expert import select
from kweek.align.guards.panel import failed, refusal
from kweek.align.rollout import Group, Rollout
from kweek.align.sampling import Drawing, sample
from kweek.align.sft import ChatBatches
from kweek.align.word_problems import WordProblems
from kweek.data.batches import segment
from kweek.data.packing import Source
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.errors import GuardError
from kweek.model.network import Network
from kweek.recipe.before_after import BeforeAfter
from kweek.recipe.changes import KINDS as CHANGES
from kweek.recipe.context import Estimate, Role, StageContext, setting
from kweek.recipe.materials import Mix, load, save, token_sources
from kweek.recipe.panel import StagePanel, Tolerances
from kweek.recipe.precision import fast_dtype, name_of
from kweek.recipe.tasks import TaskConfig, audited, measured, practice, tokens_per_attempt
from kweek.recipe.tasks import external as external_of
from kweek.recipe.watch import write_guards
from kweek.store import files
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, checkpoint_step, fit

KEPT_SHARE = 0.7  # of the traces that may be kept; for estimates only

#: A kept trace as JSON: token_ids, sampled, messages, level.
Trace = dict[str, Any]


class Config(TaskConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model that samples; the one that learns, too"),
        "corpus": Role("documents that are replayed so that nothing is lost"),
        "start": Role("the model that learns instead, anew in every round", required=False),
    }

    threads: Literal[1, "all"] = setting(
        1, doc="CPU threads: 1 or all", reason="two arms side by side use two cores better than one on both"
    )
    rounds: int = setting(
        1, doc="of sampling and learning", reason="reinforcement takes over after one", ge=1
    )
    prompts: int = setting(
        384, doc="tasks attempted in a round", reason="256 gave 362 traces in the measured trial", ge=1
    )
    samples: int = setting(8, doc="attempts at each", reason="as in reinforcement", ge=1)
    most: int = setting(
        2,
        doc="different right answers kept of one task",
        reason="easy tasks would give the most; hard ones must count",
        ge=1,
    )
    epochs: int = setting(2, doc="passes over the kept answers", reason="as in the measured trial", ge=1)
    batch_size: int = setting(16, doc="answers per update", reason="as in `sft`", ge=1)
    learning_rate: float = setting(
        5e-4, doc="peak, of all parameters", reason="the answers are its own: twice reinforcement's", gt=0
    )
    replay_tokens: int = setting(512, doc="tokens of pretraining text per update", reason="as in `sft`", ge=0)
    replay_weight: float = setting(
        1.0, doc="weight of the replayed text against the answers", reason="as in `sft`", ge=0
    )
    tolerance: Tolerances = setting(
        Tolerances(),
        doc="what may be lost of earlier abilities: bits, solved, trust; see docs/guards.md",
        reason="as in `sft`, whose replay it has",
    )


def external(config: Config) -> str:
    """What the environment depends on outside the run."""
    return external_of(config.environment, config.verifier)


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Sampling, and learning what is usually kept."""
    base = inputs["model"]
    each = tokens_per_attempt(config.open_environment())
    sampled = 2.2 * config.prompts * config.samples * each / (2.4 if native.available() else 0.5)
    kept = KEPT_SHARE * config.prompts * config.most * config.epochs
    learnt = 6.5 * (kept * each + kept / config.batch_size * config.replay_tokens)
    flop = config.rounds * base["num_parameters"] * (sampled + learnt)
    return Estimate(flop, 0.7 * flop / base["flop_per_second"] + 8.0, 0.8e9, dict(base))


def run(ctx: StageContext) -> None:
    """Audit the verifier, then sample, select and learn, round after round."""
    config: Config = ctx.config
    network, tokenizer = load(ctx.inputs["model"])
    environment = practice(config, tokenizer, network.config.max_positions)
    current = sum((ctx.state / f"traces-{n}.json").exists() for n in range(config.rounds))
    _rewind(ctx, current)
    if current == 0:
        audited(ctx, environment, config.audit_limits)
    start = load(ctx.inputs["start"])[0].state_dict() if "start" in ctx.inputs else None
    change, panel = _before(ctx, network, tokenizer, environment, start)
    replay = token_sources(ctx.inputs["corpus"], tokenizer, Mix(0.3, 200_000, f"replay/{ctx.seed}"))
    traces: list[Trace] = []
    updates = 0
    for number in range(config.rounds):
        traces = _traces(ctx, number, network, tokenizer, environment)
        if start is not None:
            network.load_state_dict(start)
        updates += _learn(ctx, number, network, tokenizer, traces, replay)
    change.look_by_sampling(updates)
    change.finish()
    readings = panel.panel.read()
    if failed(panel.changes(readings)):
        raise refusal(panel.tell(readings))
    panel.finish(readings)
    write_guards(ctx)
    save(ctx.out, network, tokenizer)
    lines = (json.dumps({"messages": t["messages"], "level": t["level"]}, ensure_ascii=False) for t in traces)
    ctx.out.write_text("traces.jsonl", "".join(f"{line}\n" for line in lines))
    ctx.out.metrics.update(bits_per_byte=panel.documents_bits(readings), traces=len(traces))


def _before(
    ctx: StageContext,
    network: Network,
    tokenizer: Tokenizer,
    environment: Environment,
    start: Mapping[str, Tensor] | None,
) -> tuple[BeforeAfter, StagePanel]:
    """What the model that learns could before it did; the network is then again the one that samples."""
    of, samples = "model", None
    if start is not None:
        of, samples = "start", {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(start)
    change = BeforeAfter(ctx, network, tokenizer, measured(environment), of=of)
    tasks = [WordProblems() if isinstance(environment, WordProblems) else environment]
    panel = StagePanel(ctx, network, tokenizer, tasks, ctx.config.tolerance, of)
    panel.before()
    if samples is not None:
        network.load_state_dict(samples)
    return change, panel


def _rewind(ctx: StageContext, current: int) -> None:
    """Keep the records of rounds whose traces are there, and of updates that the last checkpoint knows."""
    after = CHANGES | {"divergence"}  # told when all rounds are done
    step = checkpoint_step(_state(ctx, current - 1)) if current else 0

    def known(record: Mapping[str, Any]) -> bool:
        number = record.get("round", 0)
        if record["kind"] in after:
            return False
        if record["kind"] == "train" and number == current - 1:
            return bool(record["step"] <= step)
        return bool(number < current)

    ctx.records.rewind(known)


def _state(ctx: StageContext, number: int) -> Path:
    """Checkpoint of a round's learning."""
    return ctx.state / f"{number}.safetensors"


def _traces(
    ctx: StageContext, number: int, network: Network, tokenizer: Tokenizer, environment: Environment
) -> list[Trace]:
    """The right answers of a round, sampled now or by an earlier start of the stage.

    Raises:
        GuardError: none was right.
    """
    kept = ctx.state / f"traces-{number}.json"
    if kept.exists():
        found: list[Trace] = files.read_json(kept)
        return found
    config: Config = ctx.config
    key = f"expert/{ctx.seed}/{number}"
    ctx.progress(number, config.rounds, f"sampling {config.prompts * config.samples:,} answers")
    groups: list[Group] = sample(
        Engine(network), tokenizer, environment, environment.items(key, config.prompts, "train"),
        samples=config.samples, key=key, drawing=Drawing(), max_positions=network.config.max_positions,
    )  # fmt: skip
    ctx.ledger.add("expert", sum(r.flop for group in groups for r in group), "fp32")
    chosen = select(groups, config.most)
    _describe(ctx, number, groups, chosen)
    if not chosen:
        raise GuardError(
            f"none of {config.prompts * config.samples:,} sampled answers was right, so there is nothing to learn",
            where=ctx.name,
            fix="begin from a model that solves some of the tasks, or give easier ones",
        )
    traces = [_as_json(rollout) for rollout in chosen]
    files.write_json(kept, traces)
    return traces


def _as_json(rollout: Rollout) -> Trace:
    return {
        "token_ids": [int(index) for index in rollout.token_ids],
        "sampled": [bool(own) for own in rollout.sampled],
        "messages": [dict(message) for message in rollout.messages],
        "level": rollout.item.level,
    }


def _describe(ctx: StageContext, number: int, groups: list[Group], chosen: list[Rollout]) -> None:
    """What was sampled and what of it is kept, by level."""
    for level in ("all", *sorted({group[0].item.level for group in groups if group})):
        mine = [group for group in groups if group and level in ("all", group[0].item.level)]
        own = [rollout for rollout in chosen if level in ("all", rollout.item.level)]
        scores = [rollout.score.value >= 1.0 for group in mine for rollout in group]
        ctx.records.append(
            "traces", round=number, level=level, attempts=len(scores), right=fmean(scores),
            tasks=len(mine), solved=sum(any(r.score.value >= 1.0 for r in group) for group in mine), kept=len(own),
            tokens=fmean(rollout.num_sampled for rollout in own) if own else None,
        )  # fmt: skip


def _learn(
    ctx: StageContext,
    number: int,
    network: Network,
    tokenizer: Tokenizer,
    traces: list[Trace],
    replay: list[Source],
) -> int:
    """Learn the traces of a round, going on from its checkpoint; a finished round is only loaded. How many updates."""
    config: Config = ctx.config
    rate, dtype = config.learning_rate, fast_dtype(ctx.machine_peak)
    segments = [segment(t["token_ids"], np.asarray(t["sampled"], np.float32)) for t in traces]
    batches = ChatBatches(
        segments, batch_size=min(config.batch_size, len(segments)), epochs=config.epochs, seed=ctx.seed + number,
        replay=replay if config.replay_tokens else (), replay_tokens=config.replay_tokens,
        replay_weight=config.replay_weight, eos_id=tokenizer.eos_id,
    )  # fmt: skip
    trainer = Trainer(
        network, SplitOptimiser(network, LearningRates(rate, 3 * rate, rate, rate)), compute_dtype=dtype
    )

    def on_step(totals: Trained, result: StepResult, speed: float) -> None:
        if totals.step % 5 == 0 or totals.step == 1:
            ctx.records.append(
                "train", round=number, step=totals.step, tokens=totals.num_tokens, loss=result.loss,
                learning_rate=rate, gradient_norm=result.gradient_norm, tokens_per_second=speed, flop=totals.flop,
            )  # fmt: skip

    state = _state(ctx, number)
    totals = fit(
        trainer, batches, batches.num_steps, WarmupStableDecay(batches.num_steps, decay=1.0), state=state,
        on_step=on_step, progress=ctx.progress, should_stop=ctx.should_stop,
    )  # fmt: skip
    trainer.save(state, totals)
    ctx.ledger.add("sft", totals.flop, name_of(dtype), tokens=totals.num_tokens)
    return totals.step
