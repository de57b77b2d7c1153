"""Stage `reasoning`: the stages of one or several arms on the same held-out tasks, and where each gain came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from kweek.engine.native import library as native
from kweek.recipe.context import Estimate, Role, StageContext, setting
from kweek.recipe.jobs import side_by_side
from kweek.recipe.origin import Scores, origin
from kweek.recipe.tasks import TaskConfig, tokens_per_attempt
from kweek.recipe.tasks import external as external_of
from kweek.recipe.thinking_exam import ThinkingExam, examine_thinking
from kweek.stats.intervals import mean_interval, wilson
from kweek.stats.paired import paired_difference

Reports = Mapping[str, dict[str, Any]]


class Config(TaskConfig):
    """Settings of the stage. Every input is a model; its role is its name in all tables."""

    roles: ClassVar[Mapping[str, Role]] = {"*": Role("a model")}

    threads: Literal[1, "all"] = setting(
        "all", doc="CPU threads: 1 or all", reason="one model for each thread"
    )
    arms: dict[str, tuple[str, ...]] = setting(
        ..., doc="models of each arm, in the order in which they were made", reason="each recipe has its own"
    )
    problems: int = setting(
        200, doc="held-out tasks answered greedily", reason="an interval of about 7 points either way", ge=10
    )
    sampled: int = setting(
        100,
        doc="held-out tasks with several samples each",
        reason="with 16 samples each, a gain of 5 points shows",
        ge=10,
    )
    samples: int = setting(16, doc="samples of each of these", reason="pass@16 needs as many", ge=2)
    budgets: tuple[int, ...] = setting(
        (0, 8, 16, 32), doc="tokens of thinking to force", reason="one step of a story takes about eight"
    )

    @model_validator(mode="after")
    def _can_be_meant(self) -> Config:
        if self.sampled > self.problems:
            raise ValueError("sampled: tasks with samples are some of the problems, so no more than those")
        if not self.arms or min(map(len, self.arms.values())) < 2:
            raise ValueError("arms: each has at least two models, one before and one after")
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """Of pass@k: powers of two up to the number of samples, and that."""
        return tuple(sorted({2**i for i in range(10) if 2**i < self.samples} | {self.samples}))


def external(config: Config) -> str:
    """What the environment depends on outside the run."""
    return external_of(config.environment, config.verifier)


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Generation of all answers, at the measured multiple of training speed."""
    models = [role for role in inputs if role != "budget"]
    base = inputs[models[0]]
    answers = config.problems * (1 + len(config.budgets) / 2) + 1.5 * config.sampled * config.samples
    tokens = len(models) * answers * tokens_per_attempt(config.open_environment())
    flop = 2.2 * base["num_parameters"] * tokens
    speed = (2.4 if native.available() else 0.5) * base["flop_per_second"]
    return Estimate(flop, flop / speed + 8.0, 1.5e9)


def run(ctx: StageContext) -> None:
    """Examine every model, then compare each with the one before it."""
    config: Config = ctx.config
    tasks = TaskConfig(**{key: getattr(config, key) for key in TaskConfig.model_fields if key != "threads"})
    jobs = {
        name: ThinkingExam(
            artifact.path, tasks, config.problems, config.sampled, config.samples, config.ks, config.budgets,
            f"reasoning/{ctx.seed}",
        )
        for name, artifact in ctx.inputs.items()
    }  # fmt: skip
    ctx.records.rewind(lambda record: False)
    done = 0

    def on_result(name: str, report: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        ctx.progress(done, len(jobs), f"{name}: {100 * fmean(report['pass']['1']):.1f}% at once")

    reports = side_by_side(
        examine_thinking, jobs, ctx.threads, ctx.state / "exams.json", on_result, ctx.should_stop
    )
    scores = {name: _describe(ctx, config, name, report) for name, report in reports.items()}
    origins = _origins(ctx, config, reports)
    ctx.ledger.add("evaluate", sum(report["flop"] for report in reports.values()), "fp32")
    ctx.out.metrics.update(tasks=scores, origins=origins)
    ctx.out.write_json("items.json", reports)


def _describe(ctx: StageContext, config: Config, name: str, report: dict[str, Any]) -> dict[str, float]:
    """Records of one model; its greedy score for the summary."""
    records = ctx.records
    summary: dict[str, float] = {}
    for level, scores in _levels(report["level"], report["greedy"]).items():
        found = wilson(sum(score >= 1.0 for score in scores), len(scores))
        row = {"accuracy": found.mid, "lo": found.lo, "hi": found.hi, "n": len(scores)}
        records.append("accuracy", model=name, set="held_out", level=level, **row)
        summary = summary or row
    few = report["level"][: len(report["thinking"])]
    for level, lengths in _levels(few, report["thinking"]).items():
        records.append("thinking", model=name, level=level, **_interval(lengths))
    for k in config.ks:
        records.append("passed", model=name, k=k, **_interval(report["pass"][str(k)]))
    records.append(
        "forced", model=name, strategy="thinking", thinking_share=report["thinking_share"],
        **_interval(report["forced"]),
    )  # fmt: skip
    for budget, scores in [*report["budgets"].items(), (None, report["greedy"])]:
        records.append(
            "budget", model=name, tokens=None if budget is None else int(budget), **_interval(scores)
        )
    records.append("answer_cost", model=name, flop=report["answer_flop"], tokens=report["answer_tokens"])
    for sample in report["transcripts"]:
        records.append("sample", model=name, **sample)
    return summary


def _interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and interval: Wilson's for right or wrong, Student's for shares."""
    found = wilson(round(sum(values)), len(values)) if set(values) <= {0.0, 1.0} else mean_interval(values)
    return {"value": found.mid, "lo": found.lo, "hi": found.hi, "n": len(values)}


def _levels(levels: Sequence[str], values: Sequence[float]) -> dict[str, list[float]]:
    """Values under "all", and under each level where there are several."""
    table: dict[str, list[float]] = {"all": list(values)}
    if len(set(levels)) > 1:
        for level, value in zip(levels, values, strict=True):
            table.setdefault(level, []).append(value)
    return dict(sorted(table.items(), key=lambda item: (item[0] != "all", item[0])))


def _origins(ctx: StageContext, config: Config, reports: Reports) -> dict[str, dict[str, str]]:
    """The verdict on every stage of every arm, and on every arm as a whole; arms against each other at their ends."""
    most = str(config.samples)
    scores = {
        name: Scores(report["pass"]["1"], report["pass"][most], report["forced"])
        for name, report in reports.items()
    }
    words: dict[str, dict[str, str]] = {}
    for arm, names in config.arms.items():
        steps = list(pairwise(names))
        for before, after in [*steps, *([(names[0], names[-1])] if len(names) > 2 else [])]:
            found = origin(scores[before], scores[after], config.samples)
            words.setdefault(arm, {})[f"{before} to {after}"] = found.word
            ctx.records.append(
                "origin", arm=arm, before=before, after=after, whole=(before, after) not in steps, k=config.samples,
                word=found.word, text=found.text,
                **{
                    f"{name}{end}": value
                    for name in ("gain", "beyond", "reach")
                    for end, value in zip(("", "_lo", "_hi"), getattr(found, name)[:3], strict=True)
                },
            )  # fmt: skip
    ends = [names[-1] for names in config.arms.values()]
    for a, b in pairwise(ends):
        for metric, one, other in (
            ("pass@1", scores[a].once, scores[b].once),
            (f"pass@{most}", scores[a].often, scores[b].often),
        ):
            paired = paired_difference(other, one)
            ctx.records.append(
                "paired", name=f"{metric} of the arms", a=b, b=a, metric=metric, **paired._asdict()
            )
    return words
