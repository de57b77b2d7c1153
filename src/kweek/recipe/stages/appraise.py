"""Stage `appraise`: the table of a specialist: what it can do, what it lost elsewhere, what an answer costs.

Records: "appraised" (a row per model); "paired", "bits", "accuracy", "answer_cost" and "sample" as the stage `evaluate`
has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kweek.align.domain import Domain, load_domain
from kweek.align.exam import Standing, examine, examine_remote, interval_of
from kweek.compress.pace import NEW_TOKENS, PROMPT_TOKENS, paces
from kweek.compress.prune_text import read_text
from kweek.compute.hardware import Peak
from kweek.compute.money import Prices
from kweek.engine.engine import Engine
from kweek.engine.native.pack import WeightFormat
from kweek.errors import Interrupted
from kweek.evaluate.bits import BitsPerByte, bits_per_byte
from kweek.evaluate.bits import compare as compare_bits
from kweek.evaluate.choices import chosen_rightly, general_questions, read_choices
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load
from kweek.recipe.stages.teach import remote
from kweek.stats.intervals import wilson
from kweek.stats.paired import paired_difference
from kweek.store.artifact import Artifact
from kweek.tokenize.tokenizer import Tokenizer

BASE, REMOTE = "base", "endpoint"
DOCUMENTS, GENERAL = "python-docs", "general questions"
CONTEXT = 512  # tokens that documents are read in
TOKENS_PER_ANSWER = 200  # prompt and answer; for estimates only


class Config(StageConfig):
    """Settings of the stage. Every input but the domain is a model; its role is its name in the table."""

    roles: ClassVar[Mapping[str, Role]] = {
        "domain": Role("questions to ask"),
        BASE: Role("the model before it was specialised"),
        "*": Role("any further model", required=False),
    }

    questions: int = setting(200, doc="questions of the test, at most", reason="within seven points", ge=4)
    bits_bytes: int = setting(
        40_000, doc="bytes of documents for bits per byte", reason="within a percent, paired", gt=0
    )
    general: str | None = setting(
        None, doc="a file of questions with options, one JSON object a line", reason="64 built-in ones"
    )
    kwh: float = setting(
        0.30, doc="price of a kilowatt-hour, in any currency", reason="euros, a household", ge=0
    )
    machine_hour: float = setting(
        0.0, doc="price of an hour of this machine besides electricity", reason="it is there already", ge=0
    )
    endpoint: str | None = setting(
        None, doc="address of a teacher's endpoint, to be examined too", reason="not every recipe has one"
    )
    model: str | None = setting(None, doc="the model there", reason="the only one that the endpoint lists")
    key_variable: str = setting(
        "OPENAI_API_KEY", doc="environment variable that holds the key", reason="as in teach"
    )
    million_read: float | None = setting(
        None, doc="the endpoint's price of a million tokens read", reason="nobody knows it but you"
    )
    million_written: float | None = setting(None, doc="and of a million written", reason="as million_read")

    def prices(self) -> Prices:
        """What things cost."""
        return Prices(self.kwh, self.machine_hour, self.million_read, self.million_written)


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Answers, documents and options, model by model."""
    models = [value for role, value in inputs.items() if role not in ("domain", "budget")]
    tokens = config.questions * TOKENS_PER_ANSWER + config.bits_bytes / 3 + 12_000
    flop = sum(2.2 * model["num_parameters"] * tokens for model in models)
    seconds = 1.3 * flop / inputs[BASE]["flop_per_second"] + 15.0 * len(models)
    return Estimate(flop, seconds, 10.0 * max(model["num_parameters"] for model in models) + 1e9)


def run(ctx: StageContext) -> None:
    """Examine every model, then compare."""
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)  # a killed attempt starts again: minutes
    domain = load_domain(ctx.inputs["domain"].path)
    models = {role: artifact for role, artifact in ctx.inputs.items() if role != "domain"}
    panel = _Panel(ctx, domain, Tokenizer.load(models[BASE].path))
    seen: dict[str, _Seen] = {}
    for number, (name, artifact) in enumerate(models.items()):
        if ctx.should_stop():
            raise Interrupted
        ctx.progress(number, len(models), f"examining {name}")
        seen[name] = panel.look(artifact)
        _record(ctx, name, seen[name], artifact)
    if config.endpoint is not None:
        _record_remote(ctx, panel, models[BASE])
    _compare(ctx, seen)
    ctx.ledger.add("appraise", sum(one.flop for one in seen.values()), "fp32")
    ctx.out.write_json("items.json", {name: one.items() for name, one in seen.items()})
    ctx.out.metrics["tasks"] = {
        name: dict(zip(("accuracy", "lo", "hi", "n"), _levels(one)["all"], strict=True))
        for name, one in seen.items()
    }
    ctx.out.metrics["answer_flop"] = {name: one.standing.cost.flop for name, one in seen.items()}


class _Seen:
    """What was found of one model."""

    def __init__(
        self,
        standing: Standing,
        levels: list[str],
        bits: BitsPerByte,
        general: list[float],
        speed: Mapping[str, Any],
        flop: float,
    ) -> None:
        self.standing, self.levels, self.bits, self.general = standing, levels, bits, general
        self.speed, self.flop = speed, flop

    def items(self) -> dict[str, Any]:
        """Item by item."""
        return {
            "scores": self.standing.scores,
            "general": self.general,
            "document_bits": self.bits.document_bits.tolist(),
            "document_bytes": self.bits.document_bytes.tolist(),
        }


class _Panel:
    """The same questions, documents and options for every model."""

    def __init__(self, ctx: StageContext, domain: Domain, tokenizer: Tokenizer) -> None:
        config: Config = ctx.config
        self._ctx, self.environment = ctx, domain.environment()
        self.questions = domain.items("test", config.questions)
        self._documents = read_text(None, tokenizer, max_eval_bytes=config.bits_bytes).held_out
        self._choices = read_choices(Path(config.general)) if config.general else general_questions()

    def look(self, artifact: Artifact) -> _Seen:
        """Everything about one model. Quality is measured in fp32, speed as the model would be served."""
        network, tokenizer = load(artifact)
        engine = Engine(network, threads=self._ctx.threads)
        standing = examine(engine, tokenizer, self.environment, self.questions)
        general = chosen_rightly(engine, tokenizer, self._choices)
        context = min(CONTEXT, network.config.max_positions)
        found = bits_per_byte(network, tokenizer, {DOCUMENTS: self._documents}, context_length=context)[
            DOCUMENTS
        ]
        form: WeightFormat = _form(artifact)
        served = Engine(network, weights=form, threads=self._ctx.threads)
        ids = [token for text in self._documents for token in tokenizer.encode(text)]
        size = min(PROMPT_TOKENS, network.config.max_positions - NEW_TOKENS)
        prompts = [(ids * (1 + size // max(1, len(ids))))[:size]]
        pace = paces({"it": served}, prompts, rounds=3)["it"]
        flop = standing.cost.flop * len(standing.scores)
        flop += found.num_tokens * network.config.num_flops_per_token(context)
        levels = [item.level for item in self.questions]
        speed = {"engine": form, "decode": pace.decode, "prefill": pace.prefill}
        return _Seen(standing, levels, found, general, speed, flop)


def _form(artifact: Artifact) -> WeightFormat:
    """How the engine holds it when it is served: 8 bits for what was compressed, which loses nothing more."""
    return "q8" if artifact.metrics.get("bits", 16) <= 8 else "f32"


def _record(ctx: StageContext, name: str, seen: _Seen, artifact: Artifact) -> None:
    prices = ctx.config.prices()
    cost = seen.standing.cost
    right = wilson(int(sum(seen.general)), len(seen.general))
    ctx.records.append(
        "appraised", model=name, **seen.standing.row(), general=right.mid, general_lo=right.lo, general_hi=right.hi,
        bits_per_byte=seen.bits.value, num_bytes=artifact.metrics["num_bytes"],
        money=prices.own(cost.joules, cost.seconds), **seen.speed,
    )  # fmt: skip
    interval = seen.bits.interval
    ctx.records.append(
        "bits", model=name, source=DOCUMENTS, value=seen.bits.value, lo=interval.lo, hi=interval.hi,
        bytes=seen.bits.num_bytes,
    )  # fmt: skip
    ctx.records.append("answer_cost", model=name, flop=cost.flop, tokens=cost.num_written)
    for level, (mid, lo, hi, n) in _levels(seen).items():
        ctx.records.append(
            "accuracy", model=name, set="held_out", level=level, accuracy=mid, lo=lo, hi=hi, n=n
        )
    _show(ctx, name, seen.standing)


def _levels(seen: _Seen) -> dict[str, tuple[float, float, float, int]]:
    """Quality by level, all together first."""
    by_level = {"all": seen.standing.scores}
    for level, score in zip(seen.levels, seen.standing.scores, strict=True):
        if level:
            by_level.setdefault(level, []).append(score)
    found = {}
    for level, scores in sorted(by_level.items(), key=lambda entry: (entry[0] != "all", entry[0])):
        if len(scores) > 1:
            found[level] = (*interval_of(scores), len(scores))
    return found


def _show(ctx: StageContext, name: str, standing: Standing) -> None:
    for shown in standing.shown:
        ctx.records.append(
            "sample", model=name, question=shown["question"], gold=shown["gold"], transcript=shown["answer"],
            answer=shown["answer"], correct=shown["score"] == 1.0,
        )  # fmt: skip


def _record_remote(ctx: StageContext, panel: _Panel, base: Artifact) -> None:
    """A teacher behind an endpoint: only its answers and their price can be known."""
    config: Config = ctx.config
    endpoint = remote(config.endpoint or "", config.model, config.key_variable, base.path)
    standing = examine_remote(endpoint, panel.environment, panel.questions)
    known = {key: value for key, value in standing.row().items() if not _is_nan(value)}
    money = config.prices().remote(standing.cost.num_read, standing.cost.num_written)
    ctx.records.append("appraised", model=REMOTE, **known, **({} if money is None else {"money": money}))
    _show(ctx, REMOTE, standing)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _compare(ctx: StageContext, seen: Mapping[str, _Seen]) -> None:
    """Every model against the one that it began as, and every other pair in its domain."""
    names = list(seen)
    for at, before in enumerate(names):
        for after in names[at + 1 :]:
            old, new = seen[before], seen[after]
            _paired(
                ctx,
                "in its domain",
                before,
                after,
                "accuracy",
                paired_difference(new.standing.scores, old.standing.scores),
            )
            if before != BASE:
                continue
            _paired(ctx, GENERAL, before, after, "accuracy", paired_difference(new.general, old.general))
            _paired(ctx, DOCUMENTS, before, after, "bits_per_byte", compare_bits(new.bits, old.bits))


def _paired(ctx: StageContext, name: str, before: str, after: str, metric: str, found: Any) -> None:
    ctx.records.append("paired", name=name, a=after, b=before, metric=metric, **found._asdict())
