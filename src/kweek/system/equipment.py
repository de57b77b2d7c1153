"""What a run has: models, tools, memory, checks, a trace; made anew for each answer of a system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kweek.protocols import Score, ShouldStop, never
from kweek.system.memory.passage import Passage
from kweek.system.roles import Judge, Role
from kweek.system.task import Answer, Task
from kweek.system.tools.toolbox import Toolbox
from kweek.system.trace import Trace

#: Judges an answer to a task without knowing the right one, unless the task's data hold it.
Check = Callable[[Task, str], Score]


class Searchable(Protocol):
    """A memory, as far as a run sees it."""

    def search(self, query: str, k: int = 10) -> Sequence[Passage]:
        """The passages that answer a query best, best first."""
        ...


@dataclass
class Equipment:
    """What a run has: made by `System` for each of its answers.

    Attributes:
        roles: models by role.
        toolbox: the tools, None for a system without any.
        memory: is searched; None for a system without one.
        checks: by name.
        trace: of the run.
        seed: of all sampling: that of the run, and the task, so that no two tasks share their luck.
        replaying: nothing is done that is not in the trace.
        should_stop: asked before every effect.
        best: the best answer so far.
        unknown: calls of tools of which an earlier life of the run does not know whether they were made.
    """

    roles: Mapping[str, Role | Judge]
    toolbox: Toolbox | None
    memory: Searchable | None
    checks: Mapping[str, Check]
    trace: Trace
    seed: str = ""
    replaying: bool = False
    should_stop: ShouldStop = never
    best: Answer | None = None
    unknown: list[str] = field(default_factory=list)
