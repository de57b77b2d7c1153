"""Stage kinds: from a kind's name to the module that does the work, imported only when it is needed."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kweek.errors import ConfigError
from kweek.recipe.context import Estimate, StageConfig, StageContext

#: The built-in kinds. A recipe may also name any importable module by its dotted path.
BUILTIN_KINDS: tuple[str, ...] = (
    "corpus",
    "tokenizer",
    "scale",
    "pretrain",
    "sft",
    "rules",
    "compare",
    "prefer",
    "reward",
    "reinforce",
    "quantize",
    "evaluate",
    "checkpoint",
    "domain",
    "teach",
    "specialise",
    "compact",
    "appraise",
    "behaviour",
)


@dataclass(frozen=True)
class Kind:
    """A stage kind with its module's parts, as described in `kweek.recipe.context`."""

    name: str
    module: str
    config: type[StageConfig]
    run: Callable[[StageContext], None]
    estimate: Callable[[Any, Any, Mapping[str, Any]], Estimate]
    external: Callable[[Any], str] | None


def nearest(name: str, valid: list[str]) -> str:
    """The remedy for a wrong name: the nearest valid one, or the list of all."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.55)
    if close:
        return f"write {close[0]!r}, the nearest valid name"
    return f"use one of: {', '.join(sorted(valid))}" if valid else "remove it"


def module_of(kind: str, where: str | None = None) -> str:
    """The module path of a kind: built in, or the dotted path itself.

    Raises:
        ConfigError: the kind is neither built in nor a dotted path.
    """
    if kind in BUILTIN_KINDS:
        return f"kweek.recipe.stages.{kind}"
    if "." in kind and all(part.isidentifier() for part in kind.split(".")):
        return kind
    raise ConfigError(
        f"unknown stage kind {kind!r}",
        where=where,
        fix=nearest(kind, list(BUILTIN_KINDS)) + ", or the dotted path of your own module",
    )


def load_kind(kind: str, where: str | None = None) -> Kind:
    """Import the module of a kind and check that it provides what a stage must.

    Raises:
        ConfigError: no such kind or module, or the module lacks a part.
    """
    path = module_of(kind, where)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise
        raise ConfigError(
            f"stage kind {kind!r} names a module that cannot be found",
            where=where,
            fix="put its folder on PYTHONPATH, or correct the path",
        ) from error
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, StageConfig)):
        raise ConfigError(
            f"module {path} has no class Config derived from StageConfig", where=where, fix="add it"
        )
    for part in ("run", "estimate"):
        if not callable(getattr(module, part, None)):
            raise ConfigError(f"module {path} has no function {part}", where=where, fix="add it")
    return Kind(
        kind,
        path,
        config,
        run=module.run,
        estimate=module.estimate,
        external=getattr(module, "external", None),
    )
