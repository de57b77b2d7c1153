"""Attacks on the sandbox, inside an outer guard; how fast programs start; what a thousand of them leave behind."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import Any

from harness import ROOT, evidence

sys.path.insert(0, str(ROOT / "tests" / "sandbox"))

import guard

from kweek.sandbox.wasm import build

USERS: tuple[guard.User, ...] = ("root", "ordinary")
START_SECONDS = 0.1
PROGRAMS, QUICK_PROGRAMS = 1000, 100
TIME_OUT = 3600.0


def attacks(user: guard.User) -> dict[str, Any]:
    """How many attacks were tried as this user, and what got through."""
    outcomes = guard.run_guarded(user, ["ns"], TIME_OUT)
    return {
        "tried": len(outcomes),
        "kinds": dict(Counter(one["kind"] for one in outcomes)),
        "through": {f"{one['kind']}: {one['name']}": one["wrong"] for one in outcomes if one["wrong"]},
    }


def programs(user: guard.User, count: int) -> dict[str, Any]:
    """So many programs in a row: time from the call to the result, and what is left."""
    (found,) = guard.run_guarded(user, ["many", str(count)], TIME_OUT)
    took = sorted(found["took"])
    return {
        "programs": count,
        "median_seconds": round(took[len(took) // 2], 4),
        "percentile_95_seconds": round(took[int(0.95 * len(took))], 4),
        "wrong": found["wrong"],
        "left_behind": found["left"],
    }


def portable() -> dict[str, Any] | str:
    """The attacks on the tier wasm, where it is installed; no part of the claim."""
    if not build.is_installed():
        return "not installed"
    build.guest()
    outcomes = guard.run_guarded("ordinary", ["wasm"], TIME_OUT, wasm=True)
    return {
        "tried": len(outcomes),
        "through": {one["name"]: one["wrong"] for one in outcomes if one["wrong"]},
    }


def run(quick: bool) -> dict[str, Any]:
    """All attacks in both versions; the quick one starts fewer programs."""
    if reasons := [reason for user in USERS if (reason := guard.refusal(user))]:
        return {
            "ours": 0,
            "reference": 60,
            "unit": "attacks blocked",
            "passed": False,
            "waits": f"for: {reasons[0]}",
        }
    tried = {user: attacks(user) for user in USERS}
    rows = {user: programs(user, QUICK_PROGRAMS if quick else PROGRAMS) for user in USERS}
    blocked = {user: one["tried"] - len(one["through"]) for user, one in tried.items()}
    all_tried = sum(one["tried"] for one in tried.values())
    return {
        "ours": sum(blocked.values()),
        "reference": all_tried,
        "unit": "attacks blocked, as root and as an ordinary user",
        "ratio": sum(blocked.values()) / all_tried,
        "interval": None,
        "n": all_tried,
        "seeds": [0],
        "passed": all(
            blocked[user] == tried[user]["tried"] >= 60
            and rows[user]["median_seconds"] < START_SECONDS
            and not rows[user]["wrong"]
            and not rows[user]["left_behind"]
            for user in USERS
        ),
        "details": {
            "attacks": tried,
            "programs_in_a_row": rows,
            "tier_wasm": portable(),
            "memory_of_the_guard_bytes": guard.MEMORY_BYTES,
            "kernel": os.uname().release,
        },
    }


evidence(
    "system/sandbox",
    claim="at least 60 attacks are blocked of all that are tried, as root and as an ordinary user; a program starts "
    "and ends in under 100 ms (median); 1,000 in a row leave no process, mount or file",
    run=run,
)
