"""The system: models by role, tools, checks, a scaffold and limits, declared once.

The same object is chatted with, served, evaluated and retrained. It is itself a language model (chats in, answers out)
and a tool, so systems nest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from kweek.errors import ConfigError, DataError
from kweek.protocols import Completion, Request, ShouldStop, StopReason, never
from kweek.system.budget import Budget, BudgetExceeded, Limits
from kweek.system.chat_prompt import messages_of
from kweek.system.context import Context, Scaffold
from kweek.system.cost import Cost
from kweek.system.equipment import Check, Equipment, Searchable
from kweek.system.roles import Judge, Role, find
from kweek.system.task import Answer, Task
from kweek.system.tools.effects import Effect, denied
from kweek.system.tools.tool import ToolResult
from kweek.system.tools.toolbox import Toolbox
from kweek.system.trace import ROOT, Event, Trace, TraceError

CORE = "core"  # the role that answers where nothing else is said
_QUESTION = {
    "type": "object",
    "properties": {"question": {"type": "string", "description": "What is asked, complete in itself."}},
    "required": ["question"],
}


@dataclass(frozen=True)
class Solved:
    """An answer with all that it took.

    Attributes:
        answer: what came of the task.
        cost: of everything, tools and failed branches too.
        events: the trace.
        unknown: calls of tools of which nobody knows whether they were made, because the run was cut off meanwhile.
    """

    answer: Answer
    cost: Cost
    events: Sequence[Event]
    unknown: Sequence[str] = ()


class System:
    """A compound system. Answers to different tasks may be made at the same time where its models allow it.

    Args:
        roles: models by role; "core" is the one that a system is spoken to in.
        scaffold: joins their calls into an answer.
        tools: what may be called, and what is granted; each answer has a conversation of its own with them.
        memory: is searched.
        checks: judge answers, by name.
        limits: of one answer.
        name: of the system, as a tool and in traces; letters, digits and underscores.
        description: what it is good for, as a tool.

    Raises:
        ConfigError: no role "core".
    """

    def __init__(
        self,
        roles: Mapping[str, Role | Judge],
        scaffold: Scaffold,
        *,
        tools: Toolbox | None = None,
        memory: Searchable | None = None,
        checks: Mapping[str, Check] | None = None,
        limits: Limits | None = None,
        name: str = "system",
        description: str = "Answers a question.",
    ) -> None:
        if not isinstance(roles.get(CORE), Role):
            raise ConfigError("there is no language model in the role core", where="roles", fix="name one")
        self.roles, self.scaffold, self.tools, self.memory = dict(roles), scaffold, tools, memory
        self.checks, self.limits = dict(checks or {}), limits or Limits()
        self.name, self.description, self.parameters = name, description, _QUESTION

    @property
    def core(self) -> Role:
        """The model in the role "core"."""
        return find(self.roles, CORE, Role)

    @property
    def _is_trusted(self) -> bool:
        """Whether no stranger can have had a word in its answers: it has read nothing but the question."""
        return self.tools is None and self.memory is None

    @property
    def effects(self) -> frozenset[Effect]:
        """All that its tools may do, of what it grants them; searching a memory reads."""
        own = frozenset[Effect]() if self.memory is None else frozenset[Effect]({"read"})
        if self.tools is None:
            return own
        granted = [
            tool.effects for tool in self.tools.tools.values() if not denied(tool.effects, self.tools.grants)
        ]
        return own.union(*granted)

    def answer(
        self,
        task: Task,
        *,
        trace: Path | None = None,
        seed: int = 0,
        budget: Budget | None = None,
        should_stop: ShouldStop = never,
        private: bool = False,
    ) -> Solved:
        """Answer a task. Where the budget ends before the scaffold does, the answer is the best that it had by then.

        Args:
            task: what is asked.
            trace: file of the run. Where it is there already the run goes on from it, and does nothing twice.
            seed: of all sampling.
            budget: around the limits of the system.
            should_stop: asked before every effect.
            private: whether the task holds what must not leave.

        Raises:
            TraceError: the trace is that of another task, seed or scaffold.
            Interrupted: asked to stop; the trace holds what was done.
            KweekError: as the calls of `Context`.
        """
        with Trace(trace) as log:
            equipment = self._equipment(log, task, seed, should_stop=should_stop)
            if equipment.toolbox is not None:
                equipment.toolbox.seen.add(private=private)
            return self._run(task, equipment, seed, budget)

    def replay(self, trace: Path) -> Solved:
        """The run of a trace once more, without asking a model or calling a tool.

        Raises:
            TraceError: the scaffold does something else than it did, or comes to another answer.
        """
        log = Trace(trace, frozen=True)
        root = next(iter(log.past(ROOT)), None)
        if root is None:
            raise TraceError("there is no run in it", where=str(trace))
        task = Task.from_dict(root.data["task"])
        seed = int(root.data["seed"])
        return self._run(task, self._equipment(log, task, seed, replaying=True), seed, None)

    def answer_in(self, context: Context, arguments: Mapping[str, Any]) -> ToolResult:
        """Answer as a tool of the run of another system, within its budget and in its trace."""
        task = Task.of(str(arguments.get("question", "")))
        inner = context.nested(self._equipment(Trace(), task, 0), self.limits, self.name)
        answer = self._answer(inner, task)
        return ToolResult(
            answer.text,
            self._is_trusted,
            None if answer.finished else "cut short by its budget",
            answer.citations,
        )

    def __call__(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Answer as a tool, in a run of its own; nobody knows of whom the question tells."""
        solved = self.answer(Task.of(str(arguments.get("question", ""))), private=True)
        error = None if solved.answer.finished else "cut short by its budget"
        return ToolResult(
            solved.answer.text, self._is_trusted, error, solved.answer.citations, solved.cost.tool_cpu_seconds
        )

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Answer chats as a language model does; no token of an answer is marked as sampled, since none was as such.

        Raises:
            DataError: a prompt that is no chat, or a request for what only a network can do.
        """
        return [self._complete(index, request, on_token) for index, request in enumerate(requests)]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """What the model in the role "core" says."""
        return self.core.model.score(sequences)

    def _complete(
        self, index: int, request: Request, on_token: Callable[[int, int], None] | None
    ) -> Completion:
        if request.constraint is not None or request.prompt_logprobs or request.stop_texts:
            raise DataError(
                "a system takes no grammar, no stop texts and scores no prompt", fix="ask a model instead"
            )
        tokenizer = self.core.tokenizer
        task = Task(tuple(messages_of(tokenizer, request.prompt_ids)))
        budget = Budget("request", Limits(flop=request.max_flop))
        solved = self.answer(task, seed=request.seed, budget=budget)
        ids = [*tokenizer.encode(solved.answer.text), min(request.stop_ids, default=tokenizer.eos_id)]
        reason: StopReason = "stop" if solved.answer.finished else "budget"
        if len(ids) > request.max_new_tokens:
            ids, reason = ids[: request.max_new_tokens], "length"
        for token in ids if on_token is not None else ():
            assert on_token is not None
            on_token(index, token)
        flop = math.nan if solved.cost.num_unknown else solved.cost.flop
        nothing = [0.0] * len(ids)
        return Completion(
            ids, [False] * len(ids), nothing, reason, len(request.prompt_ids), flop, nothing, [1.0] * len(ids)
        )

    def _equipment(
        self,
        log: Trace,
        task: Task,
        seed: int,
        *,
        replaying: bool = False,
        should_stop: ShouldStop = never,
    ) -> Equipment:
        """What one answer is made with; its tools have read nothing yet."""
        toolbox = None if self.tools is None else self.tools.fresh()
        return Equipment(
            self.roles, toolbox, self.memory, self.checks, log, f"{seed}/{task.id}", replaying, should_stop
        )

    def _run(self, task: Task, equipment: Equipment, seed: int, budget: Budget | None) -> Solved:
        log = equipment.trace
        said = {"task": task.to_dict(), "seed": seed, "gen_ai.agent.name": self.name}
        past = log.past(ROOT)
        if past and (past[0].data.get("task"), past[0].data.get("seed")) != (said["task"], said["seed"]):
            raise TraceError(
                "this is the trace of another task or seed", where=str(log.path), fix="give another file"
            )
        if not past:
            limits = {one.name: getattr(self.limits, one.name) for one in fields(Limits)}
            log.add(Event(ROOT, "", "branch", self.name, data={**said, "limits": limits}))
        context = Context(equipment, Budget(self.name, self.limits, budget))
        answer = self._answer(context, task)
        self._conclude(log, answer)
        return Solved(answer, context.budget.spent, log.events, context.unknown)

    def _answer(self, context: Context, task: Task) -> Answer:
        """What the scaffold gives; its best so far where the budget ends first."""
        try:
            return self.scaffold(context, task)
        except BudgetExceeded as error:
            best = context.best or Answer("")
            return replace(best, finished=False, data={**best.data, "stopped_by": str(error)})

    def _conclude(self, log: Trace, answer: Answer) -> None:
        """Write the answer down; in a replay compare it with the one that is there."""
        id = f"{ROOT}.answer"
        data = asdict(answer)
        past = log.past(id)
        if not past:
            log.add(Event(id, ROOT, "answer", self.name, data=data))
        elif (past[-1].data["text"], past[-1].data["finished"]) != (answer.text, answer.finished):
            if log.frozen:
                raise TraceError("the replay comes to another answer", where=str(log.path))
            log.add(Event(id, ROOT, "answer", self.name, data=data))
