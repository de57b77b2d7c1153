"""Stage `behaviour`: how every model keeps to the rules, on the same questions, attacks of unseen families among them.

Records: "conduct" {model, measure, share, lo, hi, n}; "attack" {model, family, held_out, share, lo, hi, n}, the share
that succeeded; "paired" for the differences that are spoken of; "accuracy", "sample", "bits", "answer_cost" as those of
the stage `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kweek.align.behaviour.attacks import FAMILIES
from kweek.align.behaviour.conduct import MEASURES, ask, attacks, continued, exam_items, mannered
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.jobs import side_by_side
from kweek.recipe.materials import load, validation_texts
from kweek.recipe.pretraining import evaluate_bits
from kweek.recipe.worlds import read_world
from kweek.stats.intervals import wilson
from kweek.stats.paired import paired_difference
from kweek.store.artifact import Artifact

TOKENS_PER_ANSWER = 100  # prompt and answer; for estimates only
NOT_MODELS = ("rules", "corpus")
SHOWN = (
    "help",
    "topic",
    "secret",
    "sign",
    "lookalike",
    "attack",
    "attack",
    "attack",
    "attack",
)  # samples by group
Reports = Mapping[str, Sequence[Mapping[str, Any]]]


class Config(StageConfig):
    """Settings of the stage. Every input but rules and corpus is a model; its role is its name in all tables."""

    roles: ClassVar[Mapping[str, Role]] = {
        "rules": Role("the rules, and the world of questions about them"),
        "corpus": Role("held-out documents, for what was lost of language"),
        "base": Role("the model before any chat"),
        "*": Role("any further model", required=False),
    }

    questions: dict[str, int] = setting(
        {"help": 200, "lookalike": 100, "wrapped": 80, "sign": 60, "secret": 60, "topic": 60},
        doc="questions of each group",
        reason="a share of a half is known to 7 to 13 points either way",
    )
    per_family: int = setting(
        60, doc="attacks of each family", reason="a half to 13 points; all families together to 5", ge=4
    )
    temperature: float = setting(
        1.0,
        doc="at which answers are drawn; 0 is greedy",
        reason="who attacks asks until it works: greedy answers hide what is said one time in three",
        ge=0,
    )
    before: str = setting(
        "sft", doc="the model that later ones are compared with", reason="what preferences start from"
    )
    after: tuple[str, ...] = setting(
        ("preferred", "rl"), doc="models compared with it", reason="the two ways of learning from preferences"
    )
    quantized: dict[str, str] = setting(
        {"quantized": "rl"}, doc="each compressed model and the model it came from", reason="the last stage"
    )
    bits_bytes: int = setting(
        60_000, doc="bytes of held-out documents", reason="bits per byte to about 1.5%", gt=0
    )


@dataclass(frozen=True)
class Exam:
    """What to ask one model."""

    model: Path
    rules: Path
    corpus: Path
    base: bool
    questions: dict[str, int]
    per_family: int
    temperature: float
    bits_bytes: int
    key: str


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Generation of all answers, at the measured multiple of training speed."""
    base = inputs["base"]
    models = [role for role in inputs if role not in (*NOT_MODELS, "budget")]
    answers = len(models) * (sum(config.questions.values()) + len(FAMILIES) * config.per_family)
    flop = 2.2 * base["num_parameters"] * answers * TOKENS_PER_ANSWER
    speed = (2.4 if native.available() else 0.5) * base["flop_per_second"]
    return Estimate(flop, flop / speed + 8.0, 1.2e9)


def examine(exam: Exam) -> dict[str, Any]:
    """Ask one model everything; plain data, question by question."""
    network, tokenizer = load(exam.model)
    world = read_world(Artifact.open(exam.rules))
    engine = Engine(network, token_bytes=[tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)])
    items = exam_items(world, "test", exam.questions, exam.per_family)
    if exam.base:
        asked = continued(engine, tokenizer, world, items, key=exam.key, temperature=exam.temperature)
    else:
        asked = ask(
            engine, tokenizer, world, items, key=exam.key, temperature=exam.temperature,
            max_positions=network.config.max_positions,
        )  # fmt: skip
    texts = validation_texts(Artifact.open(exam.corpus), exam.bits_bytes, "test")
    bits = evaluate_bits(network, tokenizer, texts)
    return {
        "rows": [one.to_data() for one in asked],
        "flop": sum(one.flop for one in asked),
        "bits": {
            s: {"value": r.value, "lo": r.interval.lo, "hi": r.interval.hi, "bytes": r.num_bytes}
            for s, r in bits.items()
        },
    }


def run(ctx: StageContext) -> None:
    """Examine every model, then compare."""
    config: Config = ctx.config
    jobs = {
        name: Exam(
            artifact.path, ctx.inputs["rules"].path, ctx.inputs["corpus"].path, name == "base", config.questions,
            config.per_family, config.temperature, config.bits_bytes, f"behaviour/{ctx.seed}",
        )
        for name, artifact in ctx.inputs.items()
        if name not in NOT_MODELS
    }  # fmt: skip
    ctx.records.rewind(lambda record: False)
    done = 0

    def on_result(name: str, report: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        told = attacks(report["rows"], tuple(FAMILIES))
        ctx.progress(done, len(jobs), f"{name}: {sum(told) / len(told):.0%} of attacks succeed")

    reports = side_by_side(examine, jobs, ctx.threads, ctx.state / "exams.json", on_result, ctx.should_stop)
    rows: Reports = {name: report["rows"] for name, report in reports.items()}
    held_out = read_world(ctx.inputs["rules"]).held_out
    conduct = _conduct(ctx, rows)
    by_family = _attacks(ctx, rows, held_out)
    for after in config.after:
        _compare(ctx, rows, config.before, after, f"{after} after {config.before}", held_out)
    for small, large in config.quantized.items():
        _compare(ctx, rows, large, small, "4 bits", held_out)
    _rest(ctx, reports)
    tasks = {name: _task(found["helpful"]) for name, found in conduct.items()}
    ctx.out.metrics.update(tasks=tasks, conduct=conduct, attacks=by_family)
    ctx.out.write_json("answers.json", reports)


def _share(told: Sequence[bool]) -> dict[str, float]:
    found = wilson(sum(told), len(told))
    return {"share": found.mid, "lo": found.lo, "hi": found.hi, "n": len(told)}


def _task(found: Mapping[str, float]) -> dict[str, float]:
    return {"accuracy": found["share"], **{key: found[key] for key in ("lo", "hi", "n")}}


def _conduct(ctx: StageContext, reports: Reports) -> dict[str, dict[str, dict[str, float]]]:
    """Every measure of every model."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in reports.items():
        found = {measure.name: measure.of(rows) for measure in MEASURES} | {"mannered": mannered(rows)}
        table[name] = {measure: _share(told) for measure, told in found.items() if told}
        for measure, row in table[name].items():
            ctx.records.append("conduct", model=name, measure=measure, **row)
        ctx.records.append(
            "accuracy", model=name, set="held_out", level="all", **_task(table[name]["helpful"])
        )
    return table


def _attacks(
    ctx: StageContext, reports: Reports, held_out: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """The success of every family against every model."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, rows in reports.items():
        table[name] = {family: _share(attacks(rows, [family])) for family in FAMILIES}
        for family, row in table[name].items():
            ctx.records.append("attack", model=name, family=family, held_out=family in held_out, **row)
    return table


def _compare(
    ctx: StageContext, reports: Reports, before: str, after: str, title: str, held_out: Sequence[str]
) -> None:
    """Paired tests of every measure, and of the attacks that training met and those that it did not."""
    if before not in reports or after not in reports:
        return
    old, new = reports[before], reports[after]
    pairs = {measure.name.replace("_", " "): (measure.of(old), measure.of(new)) for measure in MEASURES}
    pairs["not refused needlessly"] = tuple([not x for x in told] for told in pairs.pop("over refusal"))  # type: ignore[assignment]
    pairs["manners"] = (mannered(old), mannered(new))
    met = [family for family in FAMILIES if family not in held_out]
    for words, families in (
        ("attacks of families met in training", met),
        ("attacks of unseen families", held_out),
    ):
        pairs[f"{words} held off"] = tuple([not x for x in attacks(rows, families)] for rows in (old, new))  # type: ignore[assignment]
    for words, (one, other) in pairs.items():
        if len(one) < 2:
            continue
        found = paired_difference([float(x) for x in other], [float(x) for x in one])
        ctx.records.append(
            "paired", name=f"{title}: {words}", a=after, b=before, metric="share", **found._asdict()
        )


def _rest(ctx: StageContext, reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Language lost, cost of an answer, samples to read."""
    for name, report in reports.items():
        for source, bits in report["bits"].items():
            ctx.records.append("bits", model=name, source=source, **bits)
        ctx.records.append("answer_cost", model=name, flop=report["flop"] / len(report["rows"]))
        left = list(report["rows"])
        for group in SHOWN:
            row = next((one for one in left if one["group"] == group), None)
            if row is None:
                continue
            left = [
                one
                for one in left
                if one is not row and (group != "attack" or one["family"] != row["family"])
            ]
            ctx.records.append(
                "sample", model=name, question=row["question"], gold=row["best"], transcript=row["answer"],
                answer=row["answer"], correct=row["right"] and not row["broken"],
            )  # fmt: skip
    ctx.ledger.add("behaviour", sum(report["flop"] for report in reports.values()), "fp32")
