"""What a stage practises on: an environment by name, audited before it may train anything."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from kweek.align.audit.attacks import MAX_EXPLOITABILITY
from kweek.align.audit.environment import audit_environment
from kweek.align.audit.finding import require_sound
from kweek.align.environment import Environment
from kweek.align.environments import named
from kweek.align.environments.stories import Stories
from kweek.errors import ConfigError
from kweek.recipe.context import StageConfig, StageContext, setting

AUDIT_ITEMS = 200  # the best of some hundred constants then earns a fortieth by luck where answers are many
SHARE_SUMS = 0.1  # of bare sums among stories: keeps what was taught beside them
CHARACTERS_PER_TOKEN = 2.5  # of questions, with the vocabulary of the recipe `laptop`; for estimates only
TOKENS_PER_STORY = 75  # question and answer; for estimates only
#: What the exploitability bounds: answers that ignore the question and are not empty.
_IGNORANT = ("best constant", "lists of all answers", "very long")


class TaskConfig(StageConfig):
    """Keys of every stage that attempts tasks of an environment."""

    environment: str = setting(
        "stories",
        doc="stories, guessing, gym:TASK, a file.jsonl of prompts with verifiers, or file.py:name of an own one",
        reason="what the recipes' pretraining prepares for",
    )
    options: dict[str, Any] = setting(
        {},
        doc="keyword arguments of the environment, {levels: [1, 2]}; stories have a tenth of bare sums by default",
        reason="each environment's own defaults",
    )
    verifier: str | None = setting(
        None,
        doc="for prompts of a file that name none: a verifier's name, or file.py:name of a function (answer, gold)",
        reason="prompts bring their own",
    )
    exploitability: float = setting(
        MAX_EXPLOITABILITY,
        doc="most that an answer may earn on average which ignores the question; above it training is refused",
        reason="chance among five options",
        ge=0,
        le=1,
    )
    audit_limits: dict[str, float] = setting(
        {}, doc="other bounds of the verifier audit, by the name of a finding", reason="those of the audit"
    )

    def open_environment(self) -> Environment:
        """What to practise on.

        Raises:
            ConfigError, DataError: it is not there, or is no environment.
        """
        options = {"share_sums": SHARE_SUMS} if self.environment == "stories" else {}
        return named.environment(
            self.environment, verifier=self.verifier, options={**options, **self.options}
        )


def external(config: TaskConfig) -> str:
    """Fingerprint of the files that the environment and its verifier are made of; empty where there are none."""
    found = []
    for name in (config.environment, config.verifier):
        path = None if name is None else named.source_of(name)
        if path is not None:
            try:
                found.append(hashlib.sha256(path.read_bytes()).hexdigest())
            except OSError as error:
                raise ConfigError(f"{path} cannot be read ({error.strerror})", fix="check the path") from None
    return " ".join(found)


def measured(environment: Environment) -> Environment:
    """The environment as progress is measured on it: stories without the bare sums, which hide how hard they are."""
    return (
        dataclasses.replace(environment, share_sums=0.0) if isinstance(environment, Stories) else environment
    )


def tokens_per_attempt(environment: Environment) -> float:
    """Question and answers, for estimates."""
    if isinstance(environment, Stories):
        return TOKENS_PER_STORY
    items = environment.items("estimate", 32, "train")
    asked = sum(len(str(m.get("content") or "")) for item in items for m in item.messages) / len(items)
    return asked / CHARACTERS_PER_TOKEN + environment.max_turns * environment.max_new_tokens / 2


def require_audited(config: TaskConfig, environment: Environment, ctx: StageContext) -> None:
    """Refuse to start with a verifier that can be fooled; what was tried is recorded.

    Raises:
        GuardError: a finding of the audit does not pass.
    """
    limits = {**dict.fromkeys(_IGNORANT, config.exploitability), **config.audit_limits}
    findings = audit_environment(environment, count=AUDIT_ITEMS, limits=limits)
    for finding in findings:
        ctx.records.append("audit", **dataclasses.asdict(finding), passed=finding.passed)
    require_sound(findings)
