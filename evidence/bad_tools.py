"""Tools and calls that are bad: what a model writes that is no call, and tools that hang, raise or flood."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from functools import partial

from kweek.system.tools import CallLimits, Toolbox, ToolResult, calls_of, tool
from kweek.system.tools.calls import CLOSING, OPENING

SECONDS = 1.0  # that a call may take here
PATIENCE = 5.0  # more than that, and it was not held to it
FLOOD = 100_000_000
MEMORY = 1 << 30  # that a flood may add at most: the result itself some times over

MALFORMED = {
    "no JSON": "{",
    "an unquoted key": '{name: "double", "arguments": {"n": 1}}',
    "a name cut off": '{"name": "doub',
    "a comma too many": '{"name": "double", "arguments": {"n": 1,}}',
    "a list": '["double", 1]',
    "no name": '{"arguments": {"n": 1}}',
    "a name that is none": '{"name": 7, "arguments": {}}',
    "arguments as text": '{"name": "double", "arguments": "n=1"}',
    "arguments missing": '{"name": "double"}',
    "an argument of another type": '{"name": "double", "arguments": {"n": "1"}}',
    "an argument too many": '{"name": "double", "arguments": {"n": 1, "m": 2}}',
    "no number": '{"name": "double", "arguments": {"n": NaN}}',
    "nested without end": '{"name": "double", "arguments": ' + '{"n": ' * 50_000,
    "a megabyte": '{"name": "double", "arguments": {"n": "' + "x" * 3_000_000 + '"}}',
    "two in one": '{"name": "double", "arguments": {"n": 1}} {"name": "double", "arguments": {"n": 1}}',
    "half a character": '{"name": "double", "arguments": {"n": "\\ud800"}}',
    "nothing": "",
    "zero bytes": "\x00\x00",
}


@tool
def double(n: int) -> int:
    """Twice a number."""
    return 2 * n


@tool
def sleeps() -> str:
    """Does not come back for a long time."""
    time.sleep(60)
    return "late"


@tool
def spins() -> str:
    """Computes for a long time."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pass
    return "late"


@tool
def raises(what: str) -> str:
    """Fails."""
    errors: dict[str, BaseException] = {
        "ValueError": ValueError("x" * 1_000_000),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "SystemExit": SystemExit(1),
        "MemoryError": MemoryError(),
        "RecursionError": RecursionError("deep"),
        "GeneratorExit": GeneratorExit(),
    }
    raise errors[what]


@tool
def floods(kind: str) -> object:
    """Returns 100 MB."""
    if kind == "text":
        return "x" * FLOOD
    return ["y" * 1000] * (FLOOD // 1000)


@tool
def nonsense() -> object:
    """Returns what is no JSON."""
    return threading.Lock()


def tool_cases() -> dict[str, str]:
    """What was wrong with each case, empty where nothing was: one error that the model sees, in time."""
    box = Toolbox([double, sleeps, spins, raises, floods, nonsense], limits=CallLimits(seconds=SECONDS))
    cases: dict[str, str] = {}
    for name, text in MALFORMED.items():
        calls = calls_of({"role": "assistant", "content": f"{OPENING}\n{text}\n{CLOSING}"})
        cases[f"call: {name}"] = _seen(partial(lambda read: box.call_all(read)[0], calls))
    cases["unknown tool"] = _seen(lambda: box.call("triple", {"n": 1}), "triple", "double")
    cases["tool hangs: sleeping"] = _seen(lambda: box.call("sleeps", {}), "within 1 s")
    cases["tool hangs: computing"] = _seen(lambda: box.call("spins", {}), "within 1 s")
    for what in (
        "ValueError",
        "KeyboardInterrupt",
        "SystemExit",
        "MemoryError",
        "RecursionError",
        "GeneratorExit",
    ):
        cases[f"tool raises: {what}"] = _seen(partial(box.call, "raises", {"what": what}), what)
    cases["tool returns what is no JSON"] = _seen(lambda: box.call("nonsense", {}), "TypeError")
    for kind in ("text", "list"):
        patient = Toolbox([floods], limits=CallLimits(seconds=60))
        cases[f"tool returns 100 MB: {kind}"] = _flooded(patient, kind)
    return cases | {
        "afterwards": "" if box.call("double", {"n": 4}).content == "8" else "tools no longer work"
    }


def _seen(make: Callable[[], ToolResult], *words: str) -> str:
    """What is wrong with a call that had to be an error that the model sees."""
    started = time.monotonic()
    try:
        result = make()
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    if (took := time.monotonic() - started) > SECONDS + PATIENCE:
        return f"took {took:.1f} s"
    if result.error is None or result.content:
        return f"no error but {result.content[:60]!r}"
    if len(result.error) > 1000 or "\n" in result.error:
        return f"an error of {len(result.error)} characters"
    missing = [word for word in words if word not in result.error]
    return f"the error lacks {missing}: {result.error}" if missing else ""


def _flooded(box: Toolbox, kind: str) -> str:
    """What is wrong with a result of 100 MB: it must come short, say so, and not take many times its size."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    result = box.call("floods", {"kind": kind})
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    if result.error is not None or len(result.content) > box.limits.result_chars + 100:
        return f"{len(result.content):,} characters, error {result.error}"
    if "more characters left out" not in result.content:
        return "it does not say that something was left out"
    return f"{added >> 20} MiB of memory" if added > MEMORY else ""
