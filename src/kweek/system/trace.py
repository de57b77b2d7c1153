"""Traces: everything that a run did, one JSON object per line, in the order in which it happened.

A line is {kind, time, id, parent, name, phase, data, cost, previous}. `id` says where in the run it happened, so that a
run that is resumed or replayed finds what it did before: "0.2.1" is the second thing in the third branch of the run.
What changes the world has two lines of one id: "begun", on the disk before it happens, and "done". `previous` is a hash
of the line before, so that a line that was changed or taken out shows. Inside `data`, names of OpenTelemetry's semantic
conventions for generative AI (`gen_ai.…`) are used where there are any.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from kweek.errors import KweekError, StoreError
from kweek.store import lock
from kweek.store.files import failures, file_ops
from kweek.store.records import Records, read_lines
from kweek.system.cost import Cost, total

Kind = Literal[
    "generate", "tool", "sandbox", "retrieve", "compress", "verify", "branch", "answer", "limit", "message"
]
Phase = Literal["begun", "done"]
ROOT = "0"  # the id of the run itself


@dataclass(frozen=True)
class Event:
    """One line.

    Attributes:
        id: where in the run.
        parent: id of the branch in which it happened, empty for the run itself.
        kind, name: what it was, and which: the role, the tool, the branch.
        phase: "begun" for what has only been announced.
        time: seconds since 1970.
        data: whatever there is to say of it.
        cost: of this alone, nothing of what is inside it.
    """

    id: str
    parent: str
    kind: Kind
    name: str
    phase: Phase = "done"
    time: float = 0.0
    data: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


class TraceError(KweekError):
    """A trace that is not whole, or a run that does not follow it."""


class Trace:
    """The events of a run. Safe to use from several threads.

    Args:
        path: of the file; what is there already is the past of the run. None keeps the events in memory.
        frozen: nothing may be added: for a replay.

    Raises:
        StoreError: another process writes it, or it cannot be read.
        TraceError: a line that is no event, or does not follow the one before it.
    """

    def __init__(self, path: Path | None = None, *, frozen: bool = False) -> None:
        self.path, self.frozen = path, frozen
        self._mutex = threading.Lock()
        self._lock: int | None = None
        self._records = None if path is None else Records(path)
        self._previous = ""
        self.events: list[Event] = []
        self._past: dict[str, list[Event]] = {}
        if path is None:
            return
        if not frozen:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock.acquire(self._lock_path, wait=False)
            if self._lock is None:
                raise StoreError(
                    "another process writes this trace", where=str(path), fix="wait until it ends"
                )
        try:
            self.events, self._previous = _read(path)
        except BaseException:
            self.close()
            raise
        for event in self.events:
            self._past.setdefault(event.id, []).append(event)

    @property
    def _lock_path(self) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.lock")

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write it."""
        if self._lock is not None:
            lock.release(self._lock_path, self._lock)
            self._lock = None

    def past(self, id: str) -> list[Event]:
        """What an earlier life of the run did there."""
        return self._past.get(id, [])

    def add(self, event: Event, *, durable: bool = False) -> None:
        """Append an event; its time is now.

        Args:
            event: to be written.
            durable: on the disk itself before this returns, so that a power cut does not take it back.

        Raises:
            TraceError: the trace is frozen: the run does something that it did not do.
            StoreError: the disk does not take it.
        """
        with self._mutex:
            if self.frozen:
                raise TraceError(
                    f"the run does what is not in its trace: {event.kind} {event.name}",
                    where=f"{self.path or 'trace'}, id {event.id}",
                    fix="replay it with the system that wrote it",
                )
            self.events.append(event)
            if self._records is None:
                return
            line = self._records.append(event.kind, **_fields(event), previous=self._previous)
            self._previous = _hash(line)
            if durable:
                with failures(self._records.path, "bring the trace to the disk"):
                    file_ops().fsync_path(self._records.path)

    @property
    def cost(self) -> Cost:
        """Of all events."""
        return total(event.cost for event in self.events)


def read_trace(path: Path) -> list[Event]:
    """The events of a trace; a last line cut off by a crash is left out. Raises as `Trace`."""
    if not path.is_file():
        raise StoreError("there is no such trace", where=str(path), fix="name the file trace.jsonl of a run")
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Event], str]:
    """All events, and the hash of the last line."""
    events, previous = [], ""
    for number, (line, record) in enumerate(read_lines(path), start=1):
        if record.get("previous") != previous:
            raise TraceError("this line does not follow the one before it", where=f"{path}:{number}")
        previous = _hash(line)
        try:
            events.append(_event(record))
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"this line is no event ({error})", where=f"{path}:{number}") from None
    return events, previous


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]


def _fields(event: Event) -> dict[str, Any]:
    named = {"id": event.id, "parent": event.parent, "name": event.name, "phase": event.phase}
    return {**named, "data": event.data, "cost": event.cost.to_dict()}


def _event(record: Mapping[str, Any]) -> Event:
    kind, phase = record["kind"], record["phase"]
    if kind not in get_args(Kind) or phase not in get_args(Phase) or not isinstance(record["data"], dict):
        raise ValueError(f"kind {kind!r}, phase {phase!r}")
    return Event(
        str(record["id"]), str(record["parent"]), kind, str(record["name"]), phase,
        float(record["time"]), record["data"], Cost.from_dict(record["cost"]),
    )  # fmt: skip
