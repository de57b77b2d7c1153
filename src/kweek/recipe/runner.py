"""Running a recipe: what is cached stays, what was killed goes on, what is ready runs side by side."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kweek
from kweek import errors
from kweek.errors import Interrupted, KweekError
from kweek.recipe.folder import RunFolder
from kweek.recipe.machine import machine_peaks
from kweek.recipe.plan import Plan, make_plan
from kweek.recipe.process import StageProcess
from kweek.recipe.schedule import pick, urgency
from kweek.recipe.schema import Recipe
from kweek.recipe.summary import write_summary
from kweek.store.files import write_json
from kweek.store.lock import RunLock

#: What stays of a stage's state when the stage is done: it no longer needs anything to resume from.
KEPT_STATE = ("stage.json", "stderr.txt")
#: Receives events: {"event": "run"|"stage"|"progress"|"stopping"|"summary", ...}; see `Runner.run`.
Listener = Callable[[dict[str, Any]], None]


class StageFailed(Exception):
    """A stage ended in a way that is no user's fault: a bug, or killed from outside."""

    def __init__(self, stage: str, what: str, log: Path) -> None:
        self.stage, self.what, self.log = stage, what, log
        super().__init__(f"stage {stage} failed: {what}. The whole story is in {log}.")


def _ignore(event: dict[str, Any]) -> None:
    """A `Listener` that listens to nothing."""


class Runner:
    """One run of a recipe in a run folder. Use `run_recipe`."""

    def __init__(self, recipe: Recipe, folder: RunFolder, plan: Plan, listen: Listener, command: str) -> None:
        self.recipe, self.folder, self.plan, self.command = recipe, folder, plan, command
        self._listen = listen
        self._prints = {stage.name: stage.fingerprint for stage in plan.stages}
        self._planned = {stage.name: stage.seconds for stage in plan.stages}
        self._statuses = dict.fromkeys(self._prints, "waiting")
        # SimpleQueue, because a signal handler may put while the main thread gets.
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._running: dict[str, StageProcess] = {}
        self._errors: dict[str, dict[str, Any]] = {}
        self._failure: Exception | None = None
        self._interrupts = 0
        self._stopping = False

    def run(self) -> dict[str, Any]:
        """Run to the end and return the summary. Events, in order of time:

        {"event": "run", "recipe", "out", "threads", "stages": [names]}
        {"event": "stage", "stage", "kind", "status": cached|running|done|stopped|failed, "seconds"}
        {"event": "progress", "stage", "done", "total", "note", "values": {name: number}}
        {"event": "stopping"}
        {"event": "summary", "summary": {...}}

        Raises:
            Interrupted, KweekError, StageFailed: after everything that ran has stopped.
        """
        self._begin()
        try:
            with self._signals():
                self._loop()
        except BaseException as error:
            self._failure = error if isinstance(error, Exception) else Interrupted()
            self._finish("interrupted")
            raise
        finally:
            for child in self._running.values():
                child.close()
        if self._failure is not None:
            self._finish("interrupted" if isinstance(self._failure, Interrupted) else "failed")
            raise self._failure
        return self._finish("done")

    def _begin(self) -> None:
        recipe = self.recipe
        write_json(
            self.folder.run_json,
            {
                "recipe": recipe.to_dict(),
                "fingerprints": self._prints,
                "threads": self.plan.threads,
                "command": self.command,
                "kweek": kweek.__version__,
                "time": time.time(),
            },
        )
        self._listen(
            {
                "event": "run",
                "recipe": recipe.name,
                "out": str(self.folder.path),
                "threads": self.plan.threads,
                "stages": list(self._prints),
            }
        )
        for stage in self.plan.stages:
            if stage.cached:
                self.folder.clear_state(stage.name, keep=KEPT_STATE)
                self._become(stage.name, "cached")
        self._summarise("running")

    def _loop(self) -> None:
        urgent = urgency(self.recipe, self._planned)
        while True:
            if not self._stopping:
                waiting = [name for name, status in self._statuses.items() if status == "waiting"]
                done = [name for name, status in self._statuses.items() if status in ("done", "cached")]
                free = self.plan.threads - sum(child.threads for child in self._running.values())
                for name in pick(self.recipe, waiting, done, free, self.plan.threads, urgent):
                    self._start(name)
            if not self._running:
                return
            self._handle(self._events.get())

    def _start(self, name: str) -> None:
        """Prepare the stage's folders and start its process.

        State and records of another fingerprint are discarded first and `stage.json` is written after, so
        that a kill in between discards them again.
        """
        folder = self.folder
        planned = next(stage for stage in self.plan.stages if stage.name == name)
        started = folder.started(name)
        if started.get("fingerprint") != planned.fingerprint:
            folder.clear_state(name)
            folder.state(name).mkdir(parents=True, exist_ok=True)
            folder.records(name).parent.mkdir(parents=True, exist_ok=True)
            folder.records(name).unlink(missing_ok=True)
            started = {"peak": asdict(machine_peaks(folder, self.plan.threads)[planned.threads])}
            started["planned_seconds"] = planned.seconds
        started.update(fingerprint=planned.fingerprint, threads=planned.threads)
        write_json(folder.stage_json(name), started)
        self._errors.pop(name, None)
        self._running[name] = StageProcess(folder, name, planned.threads, self._events.put)
        self._become(name, "running", planned_seconds=planned.seconds)

    def _handle(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "interrupt":
            self._interrupted()
        elif kind == "error":
            self._errors[event["stage"]] = event
        elif kind == "exit":
            self._ended(event["stage"], event["code"])
        else:
            self._listen(event)

    def _interrupted(self) -> None:
        self._interrupts += 1
        self._failure = self._failure or Interrupted()
        if self._interrupts == 1:
            self._listen({"event": "stopping"})
            self._stop_all()
            return
        for child in self._running.values():
            child.kill()

    def _stop_all(self) -> None:
        self._stopping = True
        for child in self._running.values():
            child.ask_to_stop()

    def _ended(self, name: str, code: int) -> None:
        child = self._running.pop(name)
        child.close()
        artifact = self.folder.finished(name, self._prints[name])
        if artifact is not None:
            self.folder.clear_state(name, keep=KEPT_STATE)
            self._become(name, "done", seconds=artifact.ledger.get("seconds"))
        elif code == 130 or (self._stopping and code < 0):
            self._become(name, "stopped")
        else:
            self._failure = self._failure or self._why(name, code)
            self._become(name, "failed")
            self._stop_all()
        self._summarise("running")

    def _why(self, name: str, code: int) -> Exception:
        """The exception for a stage that failed: the error it sent, else the last line of its log."""
        sent = self._errors.get(name)
        log = self.folder.stderr(name)
        if sent and sent["kind"]:
            family = getattr(errors, sent["kind"], KweekError)
            where = sent["where"] or f"stage {name}"
            error: Exception = family(sent["what"], where=where, fix=sent["fix"])
            return error
        if sent:
            return StageFailed(name, sent["what"], log)
        if code < 0:
            signal_name = signal.Signals(-code).name
            hint = "; most often the machine was out of memory" if signal_name == "SIGKILL" else ""
            return StageFailed(name, f"its process was ended by {signal_name}{hint}", log)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
        what = lines[-1][:500] if lines else "it ended without its artifact"
        return StageFailed(name, what, log)

    def _become(self, name: str, status: str, **fields: Any) -> None:
        self._statuses[name] = status
        kind = self.recipe.stages[name].kind
        self._listen({"event": "stage", "stage": name, "kind": kind, "status": status, **fields})

    def _summarise(self, status: str) -> dict[str, Any]:
        return write_summary(self.folder, self.recipe, self._prints, self._statuses, status, self.command)

    def _finish(self, status: str) -> dict[str, Any]:
        for name, state in self._statuses.items():
            if state == "running":
                self._statuses[name] = "stopped"
        summary = self._summarise(status)
        self._listen({"event": "summary", "summary": summary})
        return summary

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into events, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(n, lambda *_: self._events.put({"event": "interrupt"})) for n in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    threads: int,
    listen: Listener = _ignore,
    command: str = "",
    show_plan: Callable[[Plan], None] | None = None,
) -> dict[str, Any]:
    """Run a recipe in the folder `out`, or the rest of it; returns the summary.

    Args:
        recipe: what to run.
        out: the run folder, made when missing.
        threads: CPU threads that the stages share.
        listen: receives the events of `Runner.run`.
        command: what a user types to go on after a stop.
        show_plan: called with the plan before the first stage starts.

    Raises:
        Interrupted: asked to stop; everything needed to go on is saved.
        KweekError: the input's or the machine's fault; StoreError when another process holds the folder.
        StageFailed: a stage failed otherwise.
    """
    folder = RunFolder(out)
    out.mkdir(parents=True, exist_ok=True)
    with RunLock(out):
        plan = make_plan(recipe, folder, threads, verify="hash")
        if show_plan is not None:
            show_plan(plan)
        return Runner(recipe, folder, plan, listen, command).run()
