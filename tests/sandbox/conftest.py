"""Tests that start programs in namespaces are skipped, with the kernel's reason, where it forbids them."""

from __future__ import annotations

import pytest

from kweek.sandbox import namespaces


@pytest.fixture(scope="session")
def spaces() -> None:
    refusal = namespaces.refusal()
    if refusal is not None:
        pytest.skip(str(refusal))
