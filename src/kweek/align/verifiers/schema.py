"""JSON that is valid under a schema, judged by `jsonschema` in a process of its own.

A schema's patterns are Python's regular expressions, whose time has no bound; and references to other files are not
followed, because that would open a socket.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from kweek.align.verifiers.extras import require
from kweek.align.verifiers.json_value import NotJson, read_json
from kweek.align.verifiers.verdict import UNREADABLE, failed, judged
from kweek.compute.isolation import Failure, Isolated
from kweek.protocols import Score

_SECONDS = 2.0  # a schema takes milliseconds


@dataclass(frozen=True)
class Schema:
    """1 when the answer is JSON that is valid under the gold schema (draft 2020-12, or as its $schema says).

    A schema that many values satisfy is satisfied by one that has nothing to do with the question: the audit finds
    it, with a right answer given beside the gold.

    Raises:
        ConfigError: jsonschema is not installed.
    """

    def __post_init__(self) -> None:
        require("jsonschema", "verifiers", "judging by a JSON Schema")

    def __call__(self, answer: str, gold: str) -> Score:
        try:
            schema = read_json(gold)
        except NotJson as error:
            return failed(f"the gold answer is no JSON Schema: {error}")
        if not isinstance(schema, dict) or not schema:
            return failed("the gold answer is no JSON Schema that asks for anything")
        try:
            said = read_json(answer)
        except NotJson:
            return UNREADABLE
        try:
            found = _validation()([said, schema])
        except Failure as error:
            return failed(str(error), parsed=True)
        return judged(found["valid"]) if "valid" in found else failed(found["wrong"], parsed=True)


@functools.cache
def _validation() -> Isolated:
    """One worker for all schemas of the process."""
    return Isolated(validate, seconds=_SECONDS)


def validate(pair: list[Any]) -> dict[str, Any]:
    """Whether a value is valid under a schema: `{"valid": bool}`, or `{"wrong": text}` about the schema itself."""
    from jsonschema import SchemaError, validators
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    value, schema = pair
    try:
        kind = validators.validator_for(schema, default=validators.Draft202012Validator)
        kind.check_schema(schema)
        return {"valid": kind(schema, registry=Registry()).is_valid(value)}
    except SchemaError as error:
        return {"wrong": f"the gold answer is no JSON Schema: {error.message[:120]}"}
    except Unresolvable as error:
        return {"wrong": f"the gold schema refers to what it does not hold: {json.dumps(str(error))[:120]}"}
