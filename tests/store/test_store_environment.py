"""The environment written into every artifact."""

from __future__ import annotations

import platform

import kweek
from kweek.store.environment import describe_environment


def test_it_says_what_made_an_artifact() -> None:
    found = describe_environment()
    assert found["kweek"] == kweek.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"]
    assert found["cpu"]
    assert found["threads"] >= 1
