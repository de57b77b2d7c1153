"""Any Python function as a verifier: whatever it does, training goes on and the fault is counted."""

from __future__ import annotations

import hashlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from kweek.align.verifiers.verdict import failed
from kweek.compute.isolation import SECONDS, Failure, Isolated
from kweek.compute.isolation_worker import Function
from kweek.errors import ConfigError
from kweek.protocols import Score, Verifier

REPEAT_EVERY = (
    8  # of the answers one in so many is judged twice: a tenth more time finds a coin that is tossed
)
Fault = Literal["raised", "hung", "died", "returned nonsense", "changed its mind", "own error"]

#: What a user may give: `(answer, gold)` to a truth, a number from 0 to 1, or a Score.
Judge = Callable[[str, str], Any]


class FunctionVerifier:
    """A user's function behind the promises of a verifier.

    It runs in a process of its own, so that one that hangs, crashes or eats memory is ended. What it does wrong
    becomes `Score.error` and is counted: it is never a reward of 0 in silence.

    Args:
        function: the judge. A truth or number counts as parsed; return a Score to tell wrong from unreadable.
        seconds: of one judgement.

    Attributes:
        function: as it was given.
        calls: judgements so far.
        faults: how many of them failed, by kind.
    """

    def __init__(self, function: Judge, *, seconds: float = SECONDS) -> None:
        if not callable(function):
            raise ConfigError(f"a verifier must be a function, not {type(function).__name__}")
        self.function = function
        self.calls = 0
        self.faults: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        self._judge = Isolated(function, adaptor=as_json, seconds=seconds)

    def __call__(self, answer: str, gold: str) -> Score:
        times = 2 if _draw(answer, gold) % REPEAT_EVERY == 0 else 1
        fault, score = self._judged(answer, gold, times)
        with self._lock:
            self.calls += 1
            if fault is not None:
                self.faults[fault] += 1
        return score

    def _judged(self, answer: str, gold: str, times: int) -> tuple[Fault | None, Score]:
        try:
            results = self._judge([answer, gold, times])
        except Failure as error:
            return error.kind, failed(str(error))
        except ConfigError as error:
            return "died", failed(str(error))
        first = results[0]
        if any(result != first for result in results[1:]) and first.get("value") == first.get("value"):
            return "changed its mind", failed("it judged one answer twice differently")
        score = as_score(first)
        if score.error is None:
            return None, score
        return ("own error" if first.get("error") else "returned nonsense"), score


def as_json(function: Judge) -> Function:
    """The function as the worker runs it: `[answer, gold, times]` to a list of JSON judgements."""

    def judged(job: Any) -> Any:
        answer, gold, times = job
        return [plain(function(answer, gold)) for _ in range(times)]

    return judged


def plain(result: Any) -> dict[str, Any]:
    """A judgement as JSON.

    Raises:
        TypeError, ValueError: it is neither a Score nor a truth nor a number.
    """
    if isinstance(result, Score):
        return {
            "value": float(result.value),
            "parsed": bool(result.parsed),
            "error": None if result.error is None else str(result.error),
            "parts": {str(name): float(value) for name, value in result.parts.items()},
        }
    if result is None or isinstance(result, str | bytes | Mapping | list | tuple):
        raise TypeError(f"it returned {type(result).__name__}, not a truth, a number or a Score")
    return {"value": float(result), "parsed": True}  # also of what numpy and torch call a number or a truth


def as_score(result: Mapping[str, Any]) -> Score:
    """The Score of a judgement in JSON, with an error where its value is no value."""
    value, error = result["value"], result.get("error")
    if error is not None:
        return failed(error, parsed=result["parsed"])
    if not math.isfinite(value):
        return failed(f"it returned {value}")
    if not 0.0 <= value <= 1.0:
        return failed(f"it returned {value:g}, outside 0 to 1")
    return Score(value, result["parsed"], parts=dict(result.get("parts", {})))


def is_own(function: object) -> bool:
    """Whether a verifier is one of Kweek's, bounded and tested as such; it needs no process of its own."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.split(".")[0] == "kweek"


def as_verifier(function: Judge, *, seconds: float = SECONDS) -> Verifier:
    """A verifier that keeps the promises: Kweek's own as they are, any other function wrapped."""
    return cast(Verifier, function) if is_own(function) else FunctionVerifier(function, seconds=seconds)


def _draw(answer: str, gold: str) -> int:
    """A number that depends on the pair alone, so that the same answers are judged twice in every run."""
    digest = hashlib.blake2b(f"{answer}\x1f{gold}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
