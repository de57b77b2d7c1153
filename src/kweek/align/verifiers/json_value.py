"""JSON: equal to a value, holding what a value holds, or valid under a schema."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from kweek.align.verifiers.verdict import UNREADABLE, failed, judged
from kweek.protocols import Score

MAX_CHARS = 100_000  # of an answer; the largest function calls in use have some 10,000
MAX_DEPTH = 64  # the stack of Python holds some hundreds, and nobody asks for more than ten
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


class NotJson(Exception):
    """A text that is no JSON, or means different things to different readers."""


@dataclass(frozen=True)
class Json:
    """1 when the answer is one JSON value that stands in the right relation to the gold one.

    The answer may stand in a code fence, with nothing around it. A key given twice, NaN and numbers beyond a double
    are refused: readers disagree about them.

    Attributes:
        relation: "equal" to the gold value, whatever the order of keys (the default, for it is the strictest);
            "holds" at least its keys and values, lists in full; see `kweek.align.verifiers.schema` for schemas.
    """

    relation: Literal["equal", "holds"] = "equal"

    def __call__(self, answer: str, gold: str) -> Score:
        try:
            wanted = read_json(gold)
        except NotJson as error:
            return failed(f"the gold answer is no JSON: {error}")
        if self.relation == "holds" and wanted == {}:
            return failed("the gold answer {} is held by every object")
        try:
            said = read_json(answer)
        except NotJson:
            return UNREADABLE
        return judged(equal(said, wanted) if self.relation == "equal" else holds(said, wanted))


def read_json(text: str) -> Any:
    """The value of a text, in a code fence or not.

    Raises:
        NotJson: it is no JSON, too long, nested too deep, or ambiguous.
    """
    if len(text) > MAX_CHARS:
        raise NotJson(f"over {MAX_CHARS:,} characters")
    text = text.strip()
    if text.startswith("```") and (fence := _FENCE.fullmatch(text)):
        text = fence[1]
    depth = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if depth > MAX_DEPTH:
            raise NotJson(f"nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)[:120]) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise NotJson("a key is given twice")
    return found


def _refuse(constant: str) -> Any:
    raise NotJson(f"{constant} is no JSON")


def _number(written: str) -> float:
    value = float(written)
    if abs(value) == float("inf"):
        raise NotJson("a number beyond a double")
    return value


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; 1 is 1.0 but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def holds(one: Any, other: Any) -> bool:
    """Whether `one` has all keys of `other` with values that hold theirs; what is no object must be equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(key in one and holds(one[key], other[key]) for key in other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(holds, one, other))
    return equal(one, other)
