"""Verifiers by name, as a data file asks for them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from kweek.align.verifier import whole_number
from kweek.align.verifiers.choice import Choice
from kweek.align.verifiers.citation import Citation
from kweek.align.verifiers.json_value import Json
from kweek.align.verifiers.mathematics import Mathematics
from kweek.align.verifiers.numbers import Number
from kweek.align.verifiers.program import Program
from kweek.align.verifiers.regex import Regex
from kweek.align.verifiers.schema import Schema
from kweek.align.verifiers.text import Text
from kweek.errors import ConfigError
from kweek.protocols import Verifier
from kweek.sandbox.run import choose

_KINDS: dict[str, Callable[..., Verifier]] = {
    "number": Number, "mathematics": Mathematics, "text": Text, "json": Json, "schema": Schema, "regex": Regex,
    "choice": Choice, "citation": Citation, "program": Program,
}  # fmt: skip
KINDS = ("whole_number", *_KINDS)


def named(spec: str | Mapping[str, Any]) -> Verifier:
    """The verifier of a name, or of `{"kind": name, option: value, …}`.

    A data file names what Kweek has; it cannot name a Python function, because reading data must not run it.

    Args:
        spec: name and options.

    Raises:
        ConfigError: no such verifier or option, an option of another type, a library that is missing.
        SandboxError: programs are to be judged, and this machine enforces no sandbox.
    """
    options: dict[str, Any] = {} if isinstance(spec, str) else dict(spec)
    kind = spec if isinstance(spec, str) else str(options.pop("kind", ""))
    if kind == "whole_number" and not options:
        return whole_number
    make = _KINDS.get(kind)
    if make is None:
        raise ConfigError(f"there is no verifier {kind!r}", where="verifier", fix=_nearest(kind, list(KINDS)))
    if kind == "program":
        choose(programs=True)
    known = [option.name for option in dataclasses.fields(make) if option.name in _TYPES]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise ConfigError(f"{kind} has no option {name!r}", where="verifier", fix=_nearest(name, known))
    _check_types(kind, options)
    return make(**{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()})


_TYPES: dict[str, type | tuple[type, ...]] = {
    "reading": str, "absolute": (int, float), "relative": (int, float), "unit_required": bool, "normalise": bool,
    "many": bool, "relation": str, "options": list, "num_options": int, "documents": dict, "min_chars": int,
    "max_chars": int, "seconds": (int, float),
}  # fmt: skip
_VALUES = {"reading": ("whole", "boxed", "marked", "last"), "relation": ("equal", "holds")}


def _check_types(kind: str, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in _TYPES and not isinstance(value, _TYPES[name]):
            raise ConfigError(f"{value!r} is no value for {name} of {kind}", where="verifier")
        if name in _VALUES and value not in _VALUES[name]:
            raise ConfigError(
                f"{name} of {kind} is {value!r}",
                where="verifier",
                fix=f"choose one of {', '.join(_VALUES[name])}",
            )


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"write {near[0]!r}" if near else f"choose one of {', '.join(known)}"
