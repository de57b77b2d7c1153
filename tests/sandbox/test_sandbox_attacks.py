"""Every attack, as the superuser and as an ordinary user, in the sandbox, in the guard."""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any

import guard
import pytest
from attack_runner import all_attacks

from kweek.sandbox import namespaces

SECONDS = 900.0  # for all attacks on a busy machine; they take half a minute
USERS: tuple[guard.User, ...] = ("root", "ordinary")
KNOWN = platform.machine() in ("x86_64", "aarch64")
NAMES = [f"{attack.kind}: {attack.name}" for attack in all_attacks()] if KNOWN else []


@pytest.fixture(scope="module", params=USERS)
def outcomes(request: pytest.FixtureRequest) -> dict[str, str]:
    """What got through, by attack."""
    if refusal := guard.refusal(request.param) or str(namespaces.refusal() or ""):
        pytest.skip(f"attacks are not tried without a guard: {refusal}")
    found: list[dict[str, Any]] = guard.run_guarded(request.param, ["ns"], SECONDS)
    return {f"{one['kind']}: {one['name']}": one["wrong"] for one in found}


@pytest.mark.parametrize("name", NAMES)
def test_blocked(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == ""


def test_there_are_enough_attacks_of_every_kind() -> None:
    kinds = Counter(name.partition(":")[0] for name in NAMES)
    wanted = {
        "network",
        "reads",
        "writes",
        "environment",
        "memory",
        "cpu",
        "forks",
        "orphans",
        "disk",
        "output",
        "calls",
    }
    assert not KNOWN or (len(NAMES) == len(set(NAMES)) >= 60 and wanted <= set(kinds))


@pytest.mark.parametrize("user", USERS)
def test_programs_in_a_row_leave_nothing(user: guard.User) -> None:
    if refusal := guard.refusal(user) or str(namespaces.refusal() or ""):
        pytest.skip(refusal)
    (found,) = guard.run_guarded(user, ["many", "20"], SECONDS)
    assert found["wrong"] == 0 and not found["left"] and len(found["took"]) == 20
