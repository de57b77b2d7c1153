"""Stage `domain`: what a specialist is to know, as exercises to learn from and questions to be examined on.

Records: "funnel" {step, exercises}, "left_out" {reason, exercises}, "note" {text}.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from kweek.align.domain import SPLITS
from kweek.align.domain_reading import STORIES, Files, of_files, of_task
from kweek.align.environment import Split
from kweek.align.verifiers.named import named
from kweek.compute.hardware import Peak
from kweek.data.readers import list_files
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {}

    threads: Literal[1, "all"] = setting(1, doc="CPU threads: 1 or all", reason="seconds of reading")
    examples: str | None = setting(
        None,
        doc="a file or folder of chats to learn from, in any format that `kweek data show` knows",
        reason="without one, the task",
    )
    test: str | None = setting(
        None,
        doc="a file of chats to be examined on",
        reason="without one, a share of the examples is set apart by the hash of their questions",
    )
    format: str | None = setting(
        None, doc="of both files, by name", reason="it is recognised from the first records"
    )
    task: str = setting(
        STORIES,
        doc="without examples: stories, gym:NAME, a file of prompts with verifiers, or module:name",
        reason="word problems in varied wording, with answers worked with a calculator",
    )
    verifier: str | dict[str, Any] | None = setting(
        None,
        doc="who judges: a name or {kind: number, reading: last}, see docs/environments.md",
        reason="the last number where answers end with ####, else the text as a whole",
    )
    calculator: bool | None = setting(
        None,
        doc="whether <<48/2=24>> in an answer is a call of the calculator",
        reason="where some example has one",
    )
    system: str | None = setting(
        None, doc="a system message before every question", reason="the template has its own"
    )
    max_new_tokens: int | None = setting(
        None, doc="tokens of an answer", reason="128 for stories, else 256", ge=1
    )
    train: int = setting(4096, doc="exercises to learn from at most", reason="an hour of two cores", ge=8)
    validation: int = setting(200, doc="questions to choose by, at most", reason="within seven points", ge=1)
    test_questions: int = setting(
        400, doc="questions to be examined on, at most", reason="within five points", ge=4
    )
    share: float = setting(
        0.2, doc="of the examples for the test, where there is no file of its own",
        reason="of 200 examples forty, enough to see a gain of twenty points", gt=0, lt=0.6,
    )  # fmt: skip

    def counts(self) -> dict[Split, int]:
        """At most so many exercises of each split."""
        return {"train": self.train, "validation": self.validation, "test": self.test_questions}


def external(config: Config) -> str:
    """The files' names, sizes and times. Raises DataError where one is missing."""
    digest = hashlib.sha256()
    for path in (config.examples, config.test):
        for name, size, changed in list_files(Path(path)) if path else ():
            digest.update(f"{name}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Some seconds of reading."""
    return Estimate(0.0, 8.0, 4e8, {"num_train": config.train, "num_test": config.test_questions})


def run(ctx: StageContext) -> None:
    """Read, divide, check for what is on both sides, and write."""
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)  # it takes seconds and starts anew after a kill
    key = f"exercises/{ctx.seed}"
    if config.verifier is not None:
        named(config.verifier)  # before anything is read
    if config.examples is None:
        found = of_task(config.task, config.counts(), key)
        if config.max_new_tokens is not None:
            found.domain = replace(found.domain, max_new_tokens=config.max_new_tokens)
    else:
        files = Files(
            Path(config.examples), Path(config.test) if config.test else None, config.format, config.verifier,
            config.calculator, config.max_new_tokens, config.system, config.counts(), config.share,
        )  # fmt: skip
        found = of_files(files, key)
    for reason, count in sorted(found.left_out.items()):
        ctx.records.append("left_out", reason=reason, exercises=count)
    if found.contaminated:
        ctx.records.append("left_out", reason="holds a question of the test", exercises=found.contaminated)
    for note in found.notes:
        ctx.records.append("note", text=note)
    sizes = {split: len(found.domain.exercises[split]) for split in SPLITS}
    for split, count in sizes.items():
        ctx.records.append("funnel", step=split, exercises=count)
    found.domain.save(ctx.out)
    ctx.out.metrics.update(
        name=found.domain.name,
        num_train=sizes["train"],
        num_test=sizes["test"],
        contaminated=found.contaminated,
        answered=sum(one.answer is not None for one in found.domain.exercises["train"]),
    )
