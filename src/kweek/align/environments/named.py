"""Environments by name, as a person on the command line or a recipe asks for them."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kweek.align.environment import Environment
from kweek.align.environments.guessing import Guessing
from kweek.align.environments.prompts import read_prompts
from kweek.align.word_problems import WordProblems
from kweek.errors import ConfigError

_BUILT_IN: dict[str, Callable[[], Environment]] = {"stories": WordProblems, "guessing": Guessing}
_SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")


def environment(name: str, *, verifier: str | None = None, max_new_tokens: int | None = None) -> Environment:
    """The environment of a name.

    Args:
        name: "stories", "guessing", "gym:TASK", a file or folder of prompts with verifiers (JSONL, Parquet, ...), or
            `module:name` of a Python object that is an environment or makes one without arguments. The last runs that
            module: it is for what a person writes, never for what a data file says.
        verifier: for prompts of a file that name none.
        max_new_tokens: of an answer to prompts of a file or of reasoning-gym; None is their own default.

    Raises:
        ConfigError: nothing of that name, or what is there is no environment.
        DataError: a record that is no prompt.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    kind, _, rest = name.partition(":")
    limit: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    if kind == "gym":
        from kweek.align.environments.gym import Gym

        return Gym(rest, **limit)
    if name.endswith(_SUFFIXES) or Path(name).exists():
        return read_prompts(Path(name), verifier=verifier, **limit)
    if rest and kind.replace(".", "").isidentifier():
        return _imported(kind, rest)
    known = [*_BUILT_IN, "gym:chain_sum"]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"there is no environment {name!r}",
        fix=f"write {near[0]!r}"
        if near
        else f"give {', '.join(known)}, a file.jsonl, a table.parquet or module:name",
    )


def _imported(module: str, name: str) -> Environment:
    """What a module has under a name; modules of the folder one stands in are found too."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(str(error), where=f"{module}:{name}", fix="check module and name") from None
    made = found() if callable(found) and (isinstance(found, type) or not hasattr(found, "begin")) else found
    missing = [
        part for part in ("name", "max_turns", "max_new_tokens", "items", "begin") if not hasattr(made, part)
    ]
    if missing:
        raise ConfigError(
            f"it is no environment: it has no {missing[0]}",
            where=f"{module}:{name}",
            fix="see kweek.align.environment for what one has",
        )
    return made  # type: ignore[no-any-return]
