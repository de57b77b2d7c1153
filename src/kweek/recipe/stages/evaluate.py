"""Stage `evaluate`: every model on the same held-out items, with intervals, controls and paired tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from kweek.engine.native import library as native
from kweek.evaluate.bits import BitsPerByte
from kweek.evaluate.bits import compare as compare_bits
from kweek.recipe.changes import record_tax
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.examine import VOTES, Exam, examine
from kweek.recipe.jobs import side_by_side
from kweek.recipe.verdict import verdict
from kweek.stats.intervals import Interval, mean_interval, wilson
from kweek.stats.paired import paired_difference

TOKENS_PER_ANSWER = 75  # prompt and answer; for estimates only
Reports = Mapping[str, dict[str, Any]]


class Config(StageConfig):
    """Settings of the stage. Every input but the corpus is a model; its role is its name in all tables."""

    roles: ClassVar[Mapping[str, Role]] = {
        "corpus": Role("held-out documents"),
        "base": Role("the model before any chat"),
        "*": Role("any further model", required=False),
    }

    problems: int = setting(
        400,
        doc="held-out problems for greedy accuracy",
        reason="an interval of about 4 points either way",
        ge=20,
    )
    vote_problems: int = setting(
        150,
        doc="held-out problems with 16 samples each",
        reason="shows a gain of 8 points from voting",
        ge=10,
    )
    bits_bytes: int = setting(
        120_000, doc="bytes of held-out documents", reason="bits per byte to about 1%", gt=0
    )
    lines: dict[str, tuple[str, str]] = setting(
        {"main": ("sft", "rl")},
        doc="lines of alignment: the model before and the model after reinforcement",
        reason="the built-in recipe's main line",
    )
    quantized: dict[str, str] = setting(
        {"quantized": "rl"},
        doc="each compressed model and the model it came from",
        reason="the built-in recipe's last stage",
    )
    many: str | None = setting(
        None,
        doc="the model taught by many demonstrations without reinforcement",
        reason="not every recipe has it",
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Generation of all answers, at the measured multiple of training speed."""
    base = inputs["base"]
    models = [role for role in inputs if role not in ("corpus", "budget", "base")]
    voting = {model for line in config.lines.values() for model in line}
    answers = len(models) * 2 * config.problems + len(voting) * (3 + 16) * config.vote_problems
    flop = 2.2 * base["num_parameters"] * answers * TOKENS_PER_ANSWER
    speed = (2.4 if native.available() else 0.5) * base["flop_per_second"]
    return Estimate(flop, flop / speed + 8.0, 1.5e9)


def run(ctx: StageContext) -> None:
    """Examine every model, then compare."""
    config: Config = ctx.config
    models = {role: artifact for role, artifact in ctx.inputs.items() if role != "corpus"}
    voting = {model for line in config.lines.values() for model in line}
    last = {line[1] for line in config.lines.values()}
    jobs = {
        name: Exam(
            model=artifact.path,
            corpus=ctx.inputs["corpus"].path,
            num_problems=config.problems,
            num_votes=config.vote_problems,
            base=name == "base",
            votes=name in voting,
            elsewhere=name in last | voting,
            bits_bytes=config.bits_bytes,
            key=f"vote/{ctx.seed}",
        )
        for name, artifact in models.items()
    }
    # Models that vote take longest: they go first, so that no process is left with one at the end.
    order = sorted(jobs, key=lambda name: (not jobs[name].votes, list(jobs).index(name)))
    ctx.records.rewind(lambda record: False)
    done = 0

    def on_result(name: str, report: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        correct = report["held_out"]["correct"]
        ctx.progress(
            done, len(jobs), f"{name}: {100 * sum(correct) / len(correct):.1f}% of held-out problems"
        )

    ordered = {name: jobs[name] for name in order}
    reports = side_by_side(
        examine, ordered, ctx.threads, ctx.state / "exams.json", on_result, ctx.should_stop
    )
    reports = {name: reports[name] for name in models}
    tasks = _accuracies(ctx, reports)
    _bits(ctx, reports)
    _votes(ctx, reports)
    _comparisons(ctx, config, reports)
    _taxes(ctx, reports)
    lines = {}
    for name, (before, after) in config.lines.items():
        if before in reports and after in reports:
            found = verdict(name, reports[before], reports[after])
            lines[name] = dataclasses.asdict(found)
            ctx.records.append("verdict", **lines[name])
    for name, report in reports.items():
        cost = report["cost"]
        ctx.records.append("answer_cost", model=name, flop=cost["flop"], tokens=cost["tokens"])
        for sample in report["transcripts"]:
            ctx.records.append("sample", model=name, **sample)
    ctx.ledger.add("evaluate", sum(report["flop"] for report in reports.values()), "fp32")
    ctx.out.metrics.update(
        tasks=tasks, verdicts=lines, answer_flop={name: r["cost"]["flop"] for name, r in reports.items()}
    )
    ctx.out.write_json("items.json", reports)


def _accuracies(ctx: StageContext, reports: Reports) -> dict[str, dict[str, float]]:
    tasks = {}
    for name, report in reports.items():
        for which, answers in _answer_sets(report).items():
            for level, correct in _levels(answers).items():
                found = wilson(sum(correct), len(correct))
                row = {"accuracy": found.mid, "lo": found.lo, "hi": found.hi, "n": len(correct)}
                if which == "forced_tool":
                    if level == "all":
                        ctx.records.append("control", model=name, name="forced_tool", **row)
                    continue
                ctx.records.append(
                    "accuracy", model=name, set=which, level=level, tool_share=answers["tool_share"], **row
                )
                if which == "held_out" and level == "all":
                    tasks[name] = row
    return tasks


def _answer_sets(report: dict[str, Any]) -> dict[str, Any]:
    forced = {"forced_tool": report["forced_tool"]} if "forced_tool" in report else {}
    return {"held_out": report["held_out"], **forced, **report.get("elsewhere", {})}


def _levels(answers: dict[str, Any]) -> dict[str, list[bool]]:
    table: dict[str, list[bool]] = {"all": list(answers["correct"])}
    for correct, level in zip(answers["correct"], answers["level"], strict=True):
        table.setdefault(str(level), []).append(correct)
    return dict(sorted(table.items(), key=lambda item: (item[0] != "all", item[0])))


def _bits(ctx: StageContext, reports: Reports) -> None:
    for name, report in reports.items():
        for source, bits in report["bits"].items():
            values = {key: bits[key] for key in ("value", "lo", "hi", "bytes")}
            ctx.records.append("bits", model=name, source=source, **values)


def _votes(ctx: StageContext, reports: Reports) -> None:
    for name, report in reports.items():
        for k in VOTES if "votes" in report else ():
            votes = report["votes"][str(k)]
            majority, passed = mean_interval(votes["majority"]), mean_interval(votes["pass"])
            ctx.records.append(
                "vote", model=name, k=k, majority=majority.mid, lo=majority.lo, hi=majority.hi,
                pass_at_k=passed.mid, pass_lo=passed.lo, pass_hi=passed.hi, n=len(votes["majority"]),
            )  # fmt: skip


def _comparisons(ctx: StageContext, config: Config, reports: Reports) -> None:
    """A paired test for every difference that the report speaks of."""

    def compare(name: str, a: str, b: str, before: Sequence[float], after: Sequence[float]) -> None:
        found = paired_difference([float(x) for x in after], [float(x) for x in before])
        ctx.records.append("paired", name=name, a=b, b=a, metric="accuracy", **found._asdict())

    held_out = {name: report["held_out"]["correct"] for name, report in reports.items()}
    for line, (before, after) in config.lines.items():
        if before not in reports or after not in reports:
            continue
        old, new = reports[before], reports[after]
        compare(f"{line}: reinforcement", before, after, held_out[before], held_out[after])
        forced = old["forced_tool"]["correct"]
        compare(f"{line}: beyond the forced tool", f"{before}, tool forced", after, forced, held_out[after])
        for probe, answers in old.get("elsewhere", {}).items():
            compare(f"{line}: {probe}", before, after, answers["correct"], new["elsewhere"][probe]["correct"])
        for name in (before, after):
            one, many = (reports[name]["votes"][k]["majority"] for k in ("1", "16"))
            compare(f"{name}: majority of 16", f"{name}, one sample", f"{name}, majority of 16", one, many)
        if config.many is not None and config.many in reports:
            title = f"{line}: against many demonstrations without reinforcement"
            compare(title, config.many, after, held_out[config.many], held_out[after])
    for small, large in config.quantized.items():
        if small in reports and large in reports:
            compare("4 bits", large, small, held_out[large], held_out[small])
    for name in (name for name in reports if name != "base"):
        for source, bits in reports["base"]["bits"].items():
            if len(bits["document_bytes"]) < 2:  # a single document has no spread to test against
                continue
            found = compare_bits(_measured(reports[name]["bits"][source]), _measured(bits))
            ctx.records.append(
                "paired",
                name=f"what {name} lost on {source}",
                a=name,
                b="base",
                metric="bits per byte",
                **found._asdict(),
            )


def _taxes(ctx: StageContext, reports: Reports) -> None:
    """Every model against the one that its stage began with, where both are here: text by source, and tasks."""
    names = {ctx.inputs[name].fingerprint: name for name in reports}
    for name, new in reports.items():
        before = names.get(ctx.inputs[name].lineage.get("model", ""))
        if before is None:
            continue
        old = reports[before]
        told = partial(record_tax, ctx.records, model=name, before_model=before)
        for source, bits in old["bits"].items():
            sizes = bits["document_bytes"]
            if len(sizes) > 1:  # a single document has no spread to test against
                was, now = (
                    [b / size for b, size in zip(report["bits"][source]["document_bits"], sizes, strict=True)]
                    for report in (old, new)
                )
                told(source, was, now, unit="bits per byte", lower_is_better=True, weights=sizes)
        known, found = _answer_sets(old), _answer_sets(new)
        for which in known:
            if which in found and which != "forced_tool":  # which is no ability of the model's own
                was, now = ([float(x) for x in sets[which]["correct"]] for sets in (known, found))
                told(which, was, now, unit="share")


def _measured(bits: Mapping[str, Any]) -> BitsPerByte:
    """Bits per byte from an examination's plain data."""
    return BitsPerByte(
        sum(bits["document_bits"]),
        bits["bytes"],
        0,
        Interval(bits["value"], bits["lo"], bits["hi"]),
        np.asarray(bits["document_bits"], np.float64),
        np.asarray(bits["document_bytes"], np.int64),
    )
