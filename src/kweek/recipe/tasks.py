"""What a stage of reinforcement attempts: an environment by name, known again by what is behind it, audited."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kweek.align.audit.environment import audit_environment
from kweek.align.audit.finding import require_sound
from kweek.align.environment import Environment
from kweek.align.environments import named
from kweek.align.environments.fitting import Fitting
from kweek.align.verifiers.extras import require
from kweek.align.word_problems import WordProblems
from kweek.data.readers import list_files, printable
from kweek.errors import ConfigError
from kweek.recipe.context import StageConfig, StageContext, setting
from kweek.tokenize.tokenizer import Tokenizer

STORIES = "stories"
SHARE_SUMS = 0.1  # of bare sums among stories: keeps what was taught beside them
CHARACTERS_PER_TOKEN = 2.5  # of questions, with the vocabulary of the recipe `laptop`; for estimates only
TOKENS_PER_STORY = 75  # question and answer; for estimates only
AUDIT_ITEMS = 200  # a constant then earns a hundredth by luck where answers are many


class TaskConfig(StageConfig):
    """Keys of a stage that attempts the tasks of an environment."""

    environment: str = setting(
        STORIES,
        doc="stories, guessing, gym:TASK, a file of prompts with verifiers, module:name or file.py:name",
        reason="what the recipes' pretraining prepares for",
    )
    options: dict[str, Any] = setting(
        {},
        doc="keyword arguments of the environment, {levels: [1, 2], calculator: false}",
        reason="each environment's own defaults; of stories a tenth are bare sums",
    )
    verifier: str | None = setting(
        None,
        doc="for prompts of a file that name none: a verifier's name, or file.py:name of a function (answer, gold)",
        reason="the lines of a file name theirs",
    )
    audit_limits: dict[str, float] = setting(
        {},
        doc="other bounds for the audit, by the name of a finding: {best constant: 0.6} for yes or no",
        reason="the bounds of docs/environments.md, which suit answers of many kinds",
    )

    def open_environment(self) -> Environment:
        """What to practise on. Raises as `opened`."""
        return opened(self.environment, self.verifier, {"share_sums": SHARE_SUMS, **self.options})


def opened(name: str, verifier: str | None, options: Mapping[str, Any]) -> Environment:
    """The environment of a name.

    Args:
        name: see `kweek.align.environments.named.environment`.
        verifier: for prompts of a file that name none.
        options: keyword arguments of the environment; `share_sums`, the share of bare sums, is for stories alone.

    Raises:
        ConfigError, DataError: nothing of that name, an option it does not have, or a file that holds no prompts.
    """
    known = {key: value for key, value in options.items() if name == STORIES or key != "share_sums"}
    return named.environment(name, verifier=verifier, options=known)


def practice(config: TaskConfig, tokenizer: Tokenizer, max_positions: int) -> Environment:
    """What a model attempts, without the prompts that leave it no room for an answer; stories are short."""
    found = config.open_environment()
    return found if isinstance(found, WordProblems) else Fitting(found, tokenizer, max_positions)


def measured(environment: Environment) -> Environment:
    """The environment as progress is measured on it: stories without the bare sums, which hide how hard they are."""
    if isinstance(environment, WordProblems):
        return dataclasses.replace(environment, share_sums=0.0)
    return environment


def tokens_per_attempt(environment: Environment) -> float:
    """Question and answers, for estimates."""
    if isinstance(environment, WordProblems):
        return TOKENS_PER_STORY
    items = environment.items("estimate", 32, "train")
    asked = sum(len(str(m.get("content") or "")) for item in items for m in item.messages) / len(items)
    return asked / CHARACTERS_PER_TOKEN + environment.max_turns * environment.max_new_tokens / 2


def external(name: str, verifier: str | None) -> str:
    """What an environment depends on outside the run: its files, or the source of its module; empty where there is
    nothing. A recipe is asked this before anything runs, so what cannot be opened is found here.

    Raises:
        ConfigError, DataError: as for `opened`; code is found and not run.
    """
    names = [name]
    if verifier is not None and named.is_python(verifier):
        names.append(verifier)
    kind, _, rest = name.partition(":")
    if kind == "gym":
        require("reasoning_gym", "gym", f"the task {rest}")
    elif not named.is_python(name) and len(names) == 1:
        named.environment(name, verifier=verifier)
    return " ".join(mark for each in names if (mark := _mark(named.source_of(each))))


def _mark(path: Path | None) -> str:
    """Fingerprint of a file, or of a folder by names, sizes and times; empty for what comes with Kweek."""
    digest = hashlib.sha256()
    if path is None:
        return ""
    if path.is_dir():
        for file, size, changed in list_files(path):
            digest.update(f"{printable(file)}\0{size}\0{changed}\n".encode())
        return digest.hexdigest()
    try:
        digest.update(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})", fix="check the path") from None
    return digest.hexdigest()


def audited(ctx: StageContext, world: Environment, limits: Mapping[str, float]) -> None:
    """Refuse to start with a judge that can be fooled; what was tried is recorded either way.

    Args:
        limits: other bounds than the audit's own, by the name of a finding.

    Raises:
        DataError: too few items.
        ConfigError: a limit for something that is not tried.
        GuardError: it was fooled.
    """
    findings = audit_environment(world, count=AUDIT_ITEMS, limits=limits)
    for finding in findings:
        ctx.records.append("audit", **dataclasses.asdict(finding), passed=finding.passed)
    require_sound(findings)
