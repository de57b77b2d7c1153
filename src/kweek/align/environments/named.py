"""Environments by name, as a person on the command line or a recipe asks for them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kweek.align.environment import Environment
from kweek.align.environments.guessing import Guessing
from kweek.align.environments.prompts import read_prompts
from kweek.align.word_problems import WordProblems
from kweek.errors import ConfigError

_BUILT_IN: dict[str, Callable[..., Environment]] = {"stories": WordProblems, "guessing": Guessing}
_SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")
_PYTHON = ".py"


def environment(
    name: str,
    *,
    verifier: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Environment:
    """The environment of a name.

    Args:
        name: "stories", "guessing", "gym:TASK", a file or folder of prompts with verifiers (JSONL, Parquet, ...), or
            `module:name` or `file.py:name` of a Python object that is an environment or makes one. The last two run
            that code: they are for what a person writes, never for what a data file says.
        verifier: for lines of a file of prompts that name none: a verifier's name, or `module:name` or `file.py:name`
            of a Python function `(answer, gold)`.
        options: keyword arguments of what makes the environment; lists are taken as tuples.

    Raises:
        ConfigError: nothing of that name, an option that it does not have, or what is there is no environment.
        DataError: a record that is no prompt.
    """
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in (options or {}).items()}
    if name in _BUILT_IN:
        return _made(_BUILT_IN[name], name, given)
    kind, _, rest = name.partition(":")
    if kind == "gym":
        from kweek.align.environments.gym import Gym

        return _made(Gym, name, given, rest)
    if is_python(name):
        return _own(name, given)
    if name.endswith(_SUFFIXES) or Path(name).exists():
        judge = imported(verifier) if verifier is not None and is_python(verifier) else verifier
        return _made(read_prompts, name, {**given, "verifier": judge}, Path(name))
    known = [*_BUILT_IN, "gym:chain_sum"]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"there is no environment {name!r}",
        fix=f"write {near[0]!r}"
        if near
        else f"give {', '.join(known)}, a file.jsonl, a table.parquet or file.py:name",
    )


def is_python(name: str) -> bool:
    """Whether a name has the form `module:name` or `file.py:name`."""
    place, _, rest = name.rpartition(":")
    return rest.isidentifier() and (place.endswith(_PYTHON) or place.replace(".", "").isidentifier())


def source_of(name: str) -> Path | None:
    """The file or folder that a name depends on: of prompts, or of Python code; None for what comes with Kweek.

    Code is found and not run.
    """
    place = name.rpartition(":")[0]
    if not name.startswith("gym:") and is_python(name):
        return Path(place) if place.endswith(_PYTHON) else _module_file(place, name)
    return Path(name) if name.endswith(_SUFFIXES) or Path(name).exists() else None


def _module_file(module: str, name: str) -> Path:
    """File of a module of the user's, as `imported` would find it. Raises ConfigError where there is none."""
    beside = Path(*module.split(".")).with_suffix(_PYTHON)
    if beside.is_file():
        return beside
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(
            f"there is no module {module!r}", where=name, fix="give module:name, or file.py:name"
        )
    return Path(spec.origin)


def imported(name: str) -> Any:
    """What a module, or a Python file, has under a name; modules of the folder one stands in are found too.

    Raises:
        ConfigError: there is no such module or file, it cannot be imported, or it has nothing of that name.
    """
    place, _, attribute = name.rpartition(":")
    if place.endswith(_PYTHON):
        path = Path(place).resolve()
        if not path.is_file():
            raise ConfigError(f"there is no file {place}", where=name, fix="check the path")
        folder, module = str(path.parent), path.stem  # by its name, so that a process of its own finds it too
    else:
        folder, module, path = "", place, None
    if folder not in sys.path:
        # A file's folder comes last: what lies beside it must not hide modules of Python from this and other processes.
        sys.path.insert(len(sys.path) if folder else 0, folder)
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(str(error), where=name, fix="check module and name") from None
    if path is not None and Path(loaded.__file__ or "").resolve() != path:
        raise ConfigError(
            f"another module is called {module}, {loaded.__file__}", where=name, fix="rename the file"
        )
    found = getattr(loaded, attribute, None)
    if found is None:
        raise ConfigError(f"it has no {attribute!r}", where=name, fix="check module and name")
    return found


def _own(name: str, options: Mapping[str, Any]) -> Environment:
    """The environment that a person's own Python object is, or makes."""
    found = imported(name)
    maker = callable(found) and (isinstance(found, type) or not hasattr(found, "begin"))
    made = _made(found, name, options) if maker else found
    missing = [
        part for part in ("name", "max_turns", "max_new_tokens", "items", "begin") if not hasattr(made, part)
    ]
    if missing:
        raise ConfigError(
            f"it is no environment: it has no {missing[0]}",
            where=name,
            fix="see kweek.align.environment for what one has",
        )
    return made


def _made(
    make: Callable[..., Environment], name: str, options: Mapping[str, Any], *first: Any
) -> Environment:
    """`make` called with options that it has. Raises ConfigError for others."""
    try:
        inspect.signature(make).bind(*first, **options)
    except TypeError as error:
        known = list(inspect.signature(make).parameters)[len(first) :]
        raise ConfigError(f"{error}", where=f"options of {name}", fix=f"it has {', '.join(known)}") from None
    return make(*first, **options)
