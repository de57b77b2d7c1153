"""Runs within the guard, as the user it was given: `attack_runner.py ns`, `... wasm` (attacks) or `... many COUNT`.

Prints one JSON object per attack, or one for all programs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from attack import Attack
from attacks_calls import kernel
from attacks_leftover import LEFT_OVER
from attacks_outside import OUTSIDE
from attacks_taking import TAKING
from attacks_wasm import WASM

from kweek.sandbox import Limits, SandboxError, Tier, run
from kweek.sandbox.limits import MIB

_SETTLE_SECONDS = 5.0  # for the kernel to forget what was killed


def all_attacks() -> list[Attack]:
    """Every attack for this processor."""
    return [*OUTSIDE, *TAKING, *LEFT_OVER, *kernel(platform.machine())]


def traces() -> dict[str, list[str]]:
    """What can be left behind: processes, mounts and files, all of the guard and none of the machine."""
    return {
        "processes": sorted(entry for entry in os.listdir("/proc") if entry.isdigit()),
        "mounts": Path("/proc/self/mountinfo").read_text().splitlines(),
        "files": sorted(str(path) for path in Path("/tmp").rglob("*")),
    }


def left(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is there now and was not before, once the kernel has had time."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        now = traces()
        found = {kind: sorted(set(now[kind]) - set(before[kind])) for kind in before}
        if not any(found.values()) or time.monotonic() > deadline:
            return {kind: names for kind, names in found.items() if names}
        time.sleep(0.01)


def attempt(attack: Attack, before: dict[str, list[str]], tier: Tier) -> dict[str, Any]:
    """One attack, and what got through."""
    started = time.monotonic()
    try:
        wrong = attack.judge(run(attack.program(tier), limits=attack.bounds(), tier=tier))
    except SandboxError as error:
        wrong = f"did not run: {error}"
    seconds = time.monotonic() - started
    remains = left(before)
    if remains:
        wrong += f" left behind: {remains}"
    return {"kind": attack.kind, "name": attack.name, "wrong": wrong, "seconds": round(seconds, 2)}


def many(count: int) -> dict[str, Any]:
    """So many small programs one after another: how long each took, and what they left."""
    before, took, wrong = traces(), list[float](), 0
    limits = Limits(seconds=60.0, memory_bytes=64 * MIB, disk_bytes=MIB)
    for number in range(count):
        started = time.monotonic()
        done = run(f"print({number})\nopen('file', 'w').write('x')", limits=limits, tier="ns")
        took.append(time.monotonic() - started)
        wrong += done.stdout != f"{number}\n".encode() or done.files != {"file": b"x"}
    return {"took": took, "wrong": wrong, "left": left(before)}


def main() -> None:
    """What the command line says."""
    if sys.argv[1] == "many":
        run("pass", tier="ns")  # what is done once, is done
        print(json.dumps(many(int(sys.argv[2]))), flush=True)
        return
    tier: Tier = "wasm" if sys.argv[1] == "wasm" else "ns"
    run("pass", tier=tier)
    before = traces()
    if tier == "wasm":  # its host is kept for the next program, or replaced
        del before["processes"]
    for attack in WASM if tier == "wasm" else all_attacks():
        print(json.dumps(attempt(attack, before, tier)), flush=True)


if __name__ == "__main__":
    main()
