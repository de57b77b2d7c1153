"""A judge under test, in a process that can be killed: the audit calls it thousands of times, with the worst there is.

Judgements are asked for in batches and come back with what they took; where a batch hangs or dies, its judgements are
made one by one until the culprit is found.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from kweek.align.environment import Item
from kweek.align.verifiers.function import as_score, plain
from kweek.compute.isolation import Failure, Isolated
from kweek.protocols import Message

#: An answer as text, an assistant's message that is more than text, or texts for one turn after another.
Answer = str | Message | Sequence[str]
#: Judges an answer to an item; raises, returns nonsense or hangs as it likes.
Judge = Callable[[Item, Answer], Any]
#: Number of an item, and an answer to it.
Call = tuple[int, Answer]

_BATCH = 50
_BATCH_SECONDS = 3.0  # more than twice what a batch is made to take
_BATCH_WORK = 2.0  # seconds that a batch is made to take at most
_FAST = 2e-3  # seconds of a judgement; up to here every one is made twice, beyond it one in so many
_REPEAT_EVERY = 8
SECONDS = 2.0  # of a judgement, as in training
_MAX_HANGS = 3  # then the verifier is known to hang, and the rest is not tried
_NUM_THREADS = 4
_GIVE_WAY = 0.05  # share of Python's steps after which a thread lets another one run, to meet what they share


@dataclass(frozen=True)
class Judgement:
    """One judgement. `value` is NaN where there is none; then `fault` says why.

    Attributes:
        value: 0 to 1.
        error: that the verifier itself reported.
        fault: "raised", "hung", "died" or "returned nonsense", with a text.
        same: whether a second judgement of the same answer agreed, where one was made.
        seconds: of the faster of the two.
    """

    value: float
    error: str | None = None
    fault: tuple[str, str] | None = None
    same: bool = True
    seconds: float = 0.0


@dataclass
class Bench:
    """Items and their judge.

    Attributes:
        judge: what is tested.
        items: what it is tested on.
        limit: seconds of a judgement; then it hangs.
        judgements: all that were made, for the audit's view of the whole.
    """

    judge: Judge
    items: Sequence[Item]
    limit: float = SECONDS
    judgements: list[Judgement] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._hangs = 0
        self._size, self._repeat_every = _BATCH, 1
        self.restart()

    def pace(self, seconds: float) -> None:
        """Take in what a judgement usually takes: slow ones come in smaller batches and are seldom made twice."""
        self._repeat_every = 1 if seconds <= _FAST else _REPEAT_EVERY
        self._size = max(1, min(_BATCH, int(_BATCH_WORK / (2 * seconds)) if seconds > 0 else _BATCH))

    def restart(self) -> None:
        """Forget all that the judge may have remembered: it starts anew in a fresh process."""
        work = _Work(self.judge, self.items)
        self._batch: Callable[[Any], Any] = work
        self._single: Callable[[Any], Any] = work
        if hasattr(os, "fork"):
            self._batch = Isolated(work, seconds=max(_BATCH_SECONDS, 2 * self.limit))
            self._single = Isolated(work, seconds=self.limit)

    @property
    def hopeless(self) -> bool:
        """Whether it has hung so often that no more is tried."""
        return self._hangs >= _MAX_HANGS

    def judged(self, calls: Sequence[Call]) -> list[Judgement]:
        """A judgement for each call; faults where it hung or is not tried any more."""
        found: list[Judgement] = []
        for start in range(0, len(calls), self._size):
            found += self._judged_batch(calls[start : start + self._size])
        self.judgements += found
        return found

    def _judged_batch(self, calls: Sequence[Call]) -> list[Judgement]:
        if not self.hopeless:
            with contextlib.suppress(Failure):
                return [_read(result) for result in self._batch(["judge", list(calls), self._repeat_every])]
        return [self._judged_alone(call) for call in calls]

    def _judged_alone(self, call: Call) -> Judgement:
        if self.hopeless:
            return Judgement(float("nan"), fault=("hung", "not tried after others hung"))
        try:
            return _read(self._single(["judge", [call], 1])[0])
        except Failure as error:
            self._hangs += error.kind != "raised"
            return Judgement(float("nan"), fault=(error.kind, str(error)))

    def seconds(self, call: Call, times: int) -> float | None:
        """Processor time of the fastest of several judgements; None where it hung, died or raised.

        What a judge leaves to other processes is not in it; that it ends is all that is then known.
        """
        if self.hopeless:
            return None
        try:
            return float(self._single(["time", call, times]))
        except Failure as error:
            self._hangs += error.kind != "raised"
            return None

    def among_threads(self, calls: Sequence[Call]) -> float:
        """Share of judgements that differ when four threads ask at once. Calls that fail alone are left to others."""
        if self.hopeless:
            return 0.0
        try:
            return float(self._batch(["threads", list(calls)]))
        except Failure:
            return 1.0


def _read(result: Mapping[str, Any]) -> Judgement:
    if "raised" in result:
        return Judgement(float("nan"), fault=("raised", result["raised"]))
    score = as_score(result["first"])
    own = result["first"].get("error")
    if score.error is not None and own is None:
        return Judgement(float("nan"), fault=("returned nonsense", score.error))
    return Judgement(score.value, own, None, result["same"], result["seconds"])


class _Work:
    """What the process does: JSON in, JSON out."""

    def __init__(self, judge: Judge, items: Sequence[Item]) -> None:
        self._judge, self._items = judge, items

    def __call__(self, job: Any) -> Any:
        kind, *rest = job
        if kind == "judge":
            return [self._judged(call, again=i % rest[1] == 0) for i, call in enumerate(rest[0])]
        if kind == "time":
            return min(self._processor_seconds(rest[0]) for _ in range(rest[1]))
        return self._among_threads(rest[0])

    def _timed(self, call: Sequence[Any]) -> tuple[dict[str, Any], float]:
        number, answer = call
        started = time.perf_counter()
        result = self._judge(self._items[number], answer)
        return plain(result), time.perf_counter() - started

    def _processor_seconds(self, call: Sequence[Any]) -> float:
        started = time.process_time()
        self._timed(call)
        return time.process_time() - started

    def _judged(self, call: Sequence[Any], again: bool) -> dict[str, Any]:
        try:
            first, a = self._timed(call)
            second, b = self._timed(call) if again else (first, a)
        except Exception as error:
            return {"raised": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
        same = first == second or (first["value"] != first["value"] and second["value"] != second["value"])
        return {"first": first, "same": same, "seconds": min(a, b)}

    def _outcome(self, call: Sequence[Any]) -> str:
        try:
            return repr(self._timed(call)[0])
        except Exception as error:
            return type(error).__name__

    def _among_threads(self, calls: Sequence[Sequence[Any]]) -> float:
        expected = [self._outcome(call) for call in calls]
        different: set[int] = set()

        def work(seed: int) -> None:
            draw = random.Random(seed)  # noqa: S311 (not for cryptography)
            order = list(range(len(calls)))
            draw.shuffle(order)

            def give_way(frame: FrameType, event: str, argument: Any) -> Any:
                frame.f_trace_opcodes = True
                if draw.random() < _GIVE_WAY:
                    time.sleep(0)  # lets another thread run in the middle of anything
                return give_way

            sys.settrace(give_way)
            different.update(i for i in order if self._outcome(calls[i]) != expected[i])

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(_NUM_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(different) / max(1, len(calls))
