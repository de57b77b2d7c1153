"""The process in which one stage runs: `python -m kweek.recipe.worker RUN STAGE`.

Events leave as JSON lines on standard output; the line "stop" on standard input, SIGINT or SIGTERM ask for a
stop at the next safe point; the end of standard input means that the parent is gone, and ends the worker.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kweek.compute.hardware import Peak, peak_memory_bytes
from kweek.compute.ledger import Ledger
from kweek.errors import Interrupted, KweekError, StoreError
from kweek.recipe.budget import Budget
from kweek.recipe.context import StageContext
from kweek.recipe.folder import RunFolder
from kweek.recipe.lifeline import die_with_parent
from kweek.recipe.process import PARENT_VARIABLE, STOP_WORD
from kweek.recipe.registry import load_kind
from kweek.recipe.schema import parse_stage
from kweek.recipe.text import Source
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.files import read_json, write_json
from kweek.store.records import Records

EXIT_DONE, EXIT_BUG, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 130
#: Seconds between two progress events: a face needs no more.
_PROGRESS_EVERY = 0.2
#: Seconds between two savings of the cost so far: what a kill may leave uncounted.
_LEDGER_EVERY = 5.0


class Channel:
    """Events to the parent. Takes standard output for itself; what else is printed goes to standard error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: str, **fields: Any) -> None:
        """Write one event as one line; a parent that is gone ends the process."""
        line = json.dumps({"event": event, **fields}, default=str).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except BrokenPipeError:
                os._exit(EXIT_BUG)


class Stop:
    """Whether a stop was asked for; the `ShouldStop` of the stage."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def listen(self) -> None:
        """Listen to signals, and to the parent where there is one."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._asked.set())
        if os.environ.get(PARENT_VARIABLE) is not None:
            threading.Thread(target=self._lifeline, name="lifeline", daemon=True).start()

    def _lifeline(self) -> None:
        heard = b""
        while chunk := os.read(0, 64):
            heard += chunk
            if STOP_WORD in heard:
                self._asked.set()
        os._exit(EXIT_BUG)


class Account:
    """The stage's ledger, saved now and then so that a killed attempt stays counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ledger = Ledger.from_dict(read_json(path)) if path.exists() else Ledger()
        self._saved = time.monotonic()
        self._timer: contextlib.AbstractContextManager[Any] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block, and save whatever way it ends."""
        self._timer = self.ledger.time()
        self._timer.__enter__()
        try:
            yield
        finally:
            self._timer.__exit__(None, None, None)
            self._timer = None
            write_json(self._path, self.ledger.to_dict())

    def save(self) -> None:
        """Save the cost so far when the last time is long enough ago."""
        if self._timer is None or time.monotonic() - self._saved < _LEDGER_EVERY:
            return
        self._timer.__exit__(None, None, None)
        write_json(self._path, self.ledger.to_dict())
        self._timer = self.ledger.time()
        self._timer.__enter__()
        self._saved = time.monotonic()


class Reporter:
    """The stage's `Progress`: throttled, numbers that JSON has no word for left out."""

    def __init__(self, channel: Channel, account: Account) -> None:
        self._channel, self._account = channel, account
        self._last = -math.inf
        self._note = ""

    def __call__(self, done: float, total: float, note: str = "", **values: float) -> None:
        now = time.monotonic()
        if now - self._last < _PROGRESS_EVERY and done < total and note == self._note:
            return
        self._last, self._note = now, note
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        self._channel.send("progress", done=float(done), total=float(total), note=note, values=finite)
        self._account.save()


def run_stage(folder: RunFolder, name: str, channel: Channel, should_stop: Stop) -> None:
    """Run one stage of a prepared run folder to its artifact.

    Raises:
        Interrupted: it was asked to stop and has saved its state.
        KweekError: the input's or the machine's fault.
    """
    plain = read_json(folder.run_json)
    prints: dict[str, str] = plain["fingerprints"]
    stage = parse_stage(name, plain["recipe"]["stages"][name], Source({}, str(folder.run_json)))
    kind = load_kind(stage.kind)
    inputs: dict[str, Artifact] = {}
    for role, upstream in stage.inputs.items():
        found = folder.finished(upstream, prints[upstream])
        if found is None:
            raise StoreError(
                "not the artifact expected here", where=str(folder.artifact(upstream)), fix="run again"
            )
        inputs[role] = found
    started = folder.started(name)
    budget = Budget.parse(plain["recipe"]["budget"]) if plain["recipe"]["budget"] else Budget()
    budget = budget if kind.config.uses_budget else Budget()
    account = Account(folder.ledger_json(name))
    lineage = {role: artifact.fingerprint for role, artifact in inputs.items()}
    writer = ArtifactWriter(folder.artifact(name), kind=stage.kind, fingerprint=prints[name], lineage=lineage)
    with writer as out:
        with account.running():
            kind.run(
                StageContext(
                    name=name,
                    config=stage.config,
                    inputs=inputs,
                    out=out,
                    records=Records(folder.records(name)),
                    state=folder.state(name),
                    progress=Reporter(channel, account),
                    should_stop=should_stop,
                    ledger=account.ledger,
                    seed=plain["recipe"]["seed"],
                    threads=started["threads"],
                    budget_seconds=budget.seconds,
                    budget_flop=budget.flop,
                    machine_peak=Peak(**started["peak"]),
                )
            )
        out.ledger.update(account.ledger.to_dict(), peak_memory_bytes=peak_memory_bytes())


def main(arguments: list[str]) -> int:
    """Run the stage named on the command line; the exit status says how it ended."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with_parent(int(parent))
    channel, stop = Channel(), Stop()
    stop.listen()
    folder, name = RunFolder(Path(arguments[0])), arguments[1]
    try:
        run_stage(folder, name, channel, stop)
    except Interrupted:
        return EXIT_STOPPED
    except KweekError as error:
        traceback.print_exc()
        channel.send("error", kind=type(error).__name__, what=error.what, where=error.where, fix=error.fix)
        return EXIT_USER
    except Exception as error:
        traceback.print_exc()
        what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        channel.send("error", kind=None, what=what, where=None, fix=None)
        return EXIT_BUG
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
