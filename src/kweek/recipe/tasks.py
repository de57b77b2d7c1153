"""What a stage of reinforcement attempts: an environment by name, known again by what is behind it, audited."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from kweek.align.audit.environment import audit_environment
from kweek.align.audit.finding import require_sound
from kweek.align.environment import Environment
from kweek.align.environments.named import environment
from kweek.align.verifiers.extras import require
from kweek.align.word_problems import WordProblems
from kweek.data.readers import list_files, printable
from kweek.errors import ConfigError
from kweek.recipe.context import StageContext

STORIES = "stories"
AUDIT_ITEMS = 200  # a constant then earns a hundredth by luck where answers are many


def opened(name: str, verifier: str | None, share_sums: float, max_new_tokens: int | None) -> Environment:
    """The environment of a name.

    Args:
        name: see `kweek.align.environments.named.environment`.
        verifier: for prompts of a file that name none.
        share_sums: share of bare sums among the stories.
        max_new_tokens: of an answer, where the environment does not say it itself.

    Raises:
        ConfigError, DataError: nothing of that name, or a file that holds no prompts.
    """
    if name == STORIES:
        return WordProblems(share_sums=share_sums)
    return environment(name, verifier=verifier, max_new_tokens=max_new_tokens)


def external(name: str, verifier: str | None) -> str:
    """What an environment depends on outside the run: its files, or the source of its module; empty where there is
    nothing. A recipe is asked this before anything runs, so what cannot be opened is found here.

    Raises:
        ConfigError, DataError: as for `opened`; code is found and not run.
    """
    path, digest = Path(name), hashlib.sha256()
    kind, _, rest = name.partition(":")
    if kind == "gym":
        require("reasoning_gym", "gym", f"the task {rest}")
        return ""
    if rest and not path.exists():
        digest.update(_source(kind, name).read_bytes())
        return digest.hexdigest()
    environment(name, verifier=verifier)
    if path.is_file():
        digest.update(path.read_bytes())
    elif path.is_dir():
        for file, size, changed in list_files(path):
            digest.update(f"{printable(file)}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()


def _source(module: str, name: str) -> Path:
    """File of a module of the user's, as `environment` would find it."""
    beside = Path(*module.split(".")).with_suffix(".py")
    if beside.is_file():
        return beside
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(f"there is no module {module!r}", where=name, fix="give module:name, or a file")
    return Path(spec.origin)


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
