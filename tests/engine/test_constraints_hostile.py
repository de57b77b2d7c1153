"""Hostile grammars: every one ends in a clear error or in a grammar that works, in bounded time."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kweek.engine.constraints import GrammarError, Limits, Vocabulary, compile_json_schema, compile_regex

sys.path.insert(0, str(Path(__file__).parents[2] / "evidence"))
from hostile_grammars import EXPRESSIONS, SCHEMAS, hostile

LIMITS = Limits(seconds=3.0, memory_bytes=256 << 20)
TOKENS = [bytes([byte]) for byte in range(256)] + [b'": "', b'{"', b"aa", b"ab"]


@pytest.fixture(scope="module")
def vocabulary():
    found = Vocabulary([*TOKENS, b"</s>"], [len(TOKENS)])
    compile_regex("a", found)  # the worker's start is not what is timed
    yield found
    found.workers.close()


@pytest.mark.parametrize("provider", ["auto", "llguidance"])
def test_hostile_grammars(vocabulary, provider):
    outcomes = {"refused": 0, "usable": 0}
    for seed in range(2 * max(len(EXPRESSIONS), len(SCHEMAS)) * 2):
        kind, source = hostile(seed)
        make = compile_regex if kind == "regex" else compile_json_schema
        before = time.monotonic()
        try:
            constraint = make(source, vocabulary, provider=provider, limits=LIMITS).start()
        except GrammarError as error:
            outcomes["refused"] += 1
            assert len(str(error)) < 600 and "\n" not in str(error)
            assert "broke down" not in str(error) or kind == "schema"
        else:
            outcomes["usable"] += 1
            random = np.random.default_rng(seed)
            for _ in range(12):
                allowed = np.flatnonzero(constraint.allowed())
                constraint.advance(int(random.choice(allowed)))
        assert time.monotonic() - before < 30, (kind, seed)
    assert min(outcomes.values()) > 5
