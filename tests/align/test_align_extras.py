"""Extras that are missing are named with the way to get them."""

import pytest

from kweek.align.environments.gym import Gym
from kweek.align.verifiers import extras
from kweek.align.verifiers.mathematics import Mathematics
from kweek.align.verifiers.schema import Schema
from kweek.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gym("chain_sum"), r"the task chain_sum needs reasoning_gym.*kweek\[gym\]"),
        (Mathematics, r"sympy.*kweek\[verifiers\]"),
        (Schema, r"jsonschema.*kweek\[verifiers\]"),
    ],
)
def test_a_missing_library(monkeypatch, make, words):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=words):
        make()
