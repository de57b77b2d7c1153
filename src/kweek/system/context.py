"""The context of a run: the only door to effects, so that nothing escapes budget and trace.

What happens through it has an id, "0.2.1" for the second thing in the third branch of the run, which depends on nothing
but the scaffold. So a run that was killed goes on from its trace: what is in there is not done again. One thread at a
time uses a context; give each thread a branch of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from kweek.errors import Interrupted, KweekError
from kweek.protocols import Constraint, Message, Score
from kweek.store.files import encode_json
from kweek.system.budget import Budget, BudgetExceeded, Limits
from kweek.system.calling import HARMLESS, LEAST, Nested, as_data, from_data, unknown
from kweek.system.cost import Cost, total
from kweek.system.equipment import Equipment
from kweek.system.memory.passage import Passage
from kweek.system.roles import Ids, Judge, Role, find
from kweek.system.samples import Asking, Sample, cost_of, fitted, sample_data, sample_from, taken
from kweek.system.task import Answer, Task
from kweek.system.tools.calls import Call
from kweek.system.tools.effects import Effect
from kweek.system.tools.tool import ToolResult
from kweek.system.tools.toolbox import Toolbox
from kweek.system.trace import ROOT, Event, Kind, TraceError

Scaffold = Callable[["Context", Task], Answer]


class Context:
    """One branch of a run.

    Args:
        equipment: of the run.
        budget: what this branch may spend.
        id: of the branch.
    """

    def __init__(self, equipment: Equipment, budget: Budget, id: str = ROOT) -> None:
        self.budget, self.id = budget, id
        self._of = equipment
        self._count = 0

    def generate(
        self,
        role: str,
        prompt: Sequence[Message] | Ids,
        *,
        n: int = 1,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
        grammar: Callable[[], Constraint] | None = None,
        stop_texts: Sequence[str] = (),
        stop_ids: Collection[int] = (),
        think: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[Sample]:
        """Samples of a model; fewer than `n`, and the last cut short, where the budget ends. At least one.

        Args:
            role: which model.
            prompt: a chat, or token ids to continue.
            n: samples, each with a seed of its own.
            max_new_tokens, temperature: None takes those of the role.
            seed: tells calls of the same prompt apart; those of one context differ anyway.
            grammar: what may be said, such as the `start` of a compiled grammar.
            stop_texts, stop_ids: end a sample wherever they appear, besides the ends of a turn; they are part of it.
            think: true opens the thinking, false closes it, None leaves it to the model.
            tools: descriptions for templates that show them.

        Raises:
            BudgetExceeded: not even one token can be had.
            Interrupted: the run is to stop.
            KweekError: no such role, a prompt without room, or a generation that failed.
        """
        model = find(self._of.roles, role, Role)
        id = self._next()
        asking = Asking(
            model.encode(prompt, think, tools), n, max_new_tokens or model.max_new_tokens,
            model.temperature if temperature is None else temperature, f"{self._of.seed}/{id}/{seed}",
            tuple(text.encode() for text in stop_texts), frozenset(stop_ids), grammar,
        )  # fmt: skip
        if (event := self._before(id, "generate", role, asking.fingerprint)) is not None:
            return [sample_from(one, asking.prompt_ids) for one in event.data["samples"]]
        requests, ticket = self._within(id, lambda: fitted(model, asking, self.budget))
        started, cost = time.monotonic(), Cost()
        try:
            completions = model.model.generate(requests)
            cost = model.with_money(cost_of(model, completions), time.monotonic() - started)
        finally:
            self.budget.settle(ticket, cost)
        samples = taken(model, requests, completions)
        data = {
            "asked": asking.fingerprint,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.max_tokens": asking.max_new_tokens,
            "gen_ai.request.temperature": asking.temperature,
            "gen_ai.request.choice.count": n,
            "gen_ai.usage.input_tokens": cost.tokens_in,
            "gen_ai.usage.output_tokens": cost.tokens_out,
            "gen_ai.response.finish_reasons": [sample.stop_reason for sample in samples],
            "prompt_ids": list(asking.prompt_ids),
            "samples": [sample_data(sample) for sample in samples],
        }
        self._write(id, "generate", role, data, cost)
        return samples

    def score(
        self, role: str, prompt: Sequence[Message] | Ids, continuations: Sequence[Ids]
    ) -> list[list[float]]:
        """Natural-log probabilities of the tokens of some continuations of a prompt. Raises as `generate`."""
        model = find(self._of.roles, role, Role)
        prompt_ids = model.encode(prompt)
        sequences = [[*prompt_ids, *one] for one in continuations]

        def measure() -> list[list[float]]:
            return [values[len(prompt_ids) :] for values in model.model.score(sequences)]

        found: list[list[float]] = self._measured("verify", role, sequences, model.reading, measure)
        return found

    def judge(self, role: str, sequences: Sequence[Ids]) -> list[float]:
        """What a reward model, or a judge of steps, says of whole sequences in its own tokens. Raises as `generate`."""
        judge = find(self._of.roles, role, Judge)
        whole = [list(one) for one in sequences]
        found: list[float] = self._measured("verify", role, whole, judge.reading, lambda: judge.judge(whole))
        return found

    def verify(self, check: str, task: Task, answer: str) -> Score:
        """What a check of the system says of an answer.

        Raises:
            KweekError: there is no such check.
            Interrupted: the run is to stop.
        """
        if check not in self._of.checks:
            known = ", ".join(self._of.checks) or "none"
            raise KweekError(f"the system has no check {check!r}", fix=f"give it one; there are: {known}")
        id, asked = self._next(), _fingerprint([task.id, answer])
        if (event := self._before(id, "verify", check, asked)) is not None:
            return Score(**event.data["score"])
        started = time.process_time()
        score = self._of.checks[check](task, answer)
        cost = Cost(tool_cpu_seconds=time.process_time() - started)
        self.budget.settle(self._within(id, lambda: self.budget.reserve(Cost())), cost)
        values = {
            "value": score.value,
            "parsed": score.parsed,
            "error": score.error,
            "parts": dict(score.parts),
        }
        self._write(id, "verify", check, {"asked": asked, "score": values}, cost)
        return score

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Call one tool; see `call_all`."""
        return self.call_all([Call("", name, arguments)])[0]

    def call_all(self, calls: Sequence[Call]) -> list[ToolResult]:
        """Make the calls of one message: each once in the life of the run, however often it is resumed.

        A call that had begun when the run was cut off, and may have changed something, is not made again: its result
        says that nobody knows, and `unknown` names it.

        Raises:
            BudgetExceeded: no processor time of tools, or no time, is left.
            Interrupted: the run is to stop.
            KweekError: the system has no tools.
        """
        results: dict[str, ToolResult] = {}
        pending: dict[str, Call] = {}
        ids = [self._next() for _ in calls]
        for id, call in zip(ids, calls, strict=True):
            tool = self.toolbox.tools.get(call.name)
            if isinstance(tool, Nested):
                results[id] = self._nested(id, tool, call)
            elif (found := self._made_before(id, call)) is not None:
                results[id] = found
            else:
                pending[id] = call
        if pending:
            results |= self._make(pending)
        return [results[id] for id in ids]

    def _made_before(self, id: str, call: Call) -> ToolResult | None:
        """The result of a call in an earlier life of the run; None where it is to be made now."""
        if (event := self._before(id, self._kind(call), call.name, _asked(call))) is not None:
            if event.data.get("unknown"):
                self._of.unknown.append(f"{call.name} ({id})")
            result = from_data(event.data)
            self.toolbox.remember(call.name, result)
            return result
        if not self._has_begun(id) or self._effects(call) <= HARMLESS:
            return None
        self._of.unknown.append(f"{call.name} ({id})")
        result = unknown(call.name)
        said = {"asked": _asked(call), "gen_ai.tool.call.arguments": call.arguments, **as_data(result)}
        self._write(id, self._kind(call), call.name, {**said, "unknown": True}, Cost())
        return result

    def _has_begun(self, id: str) -> bool:
        """Whether an earlier life of the run announced a call, and died before it could say what came of it."""
        return any(event.phase == "begun" for event in self._of.trace.past(id))

    def _make(self, pending: Mapping[str, Call]) -> dict[str, ToolResult]:
        """Make calls, announced on the disk before."""
        ticket = self._within(next(iter(pending)), lambda: self.budget.reserve(LEAST))
        for id, call in pending.items():
            data = {
                "asked": _asked(call),
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.call.arguments": call.arguments,
                "effects": sorted(self._effects(call)),
            }
            if not self._has_begun(id):
                self._write(id, self._kind(call), call.name, data, Cost(), announced=True)
        started, costs = time.monotonic(), [Cost()]
        try:
            made = self.toolbox.call_all(list(pending.values()))
            seconds = (time.monotonic() - started) / len(made)
            costs = [Cost(seconds=seconds, tool_cpu_seconds=one.cpu_seconds) for one in made]
        finally:
            self.budget.settle(ticket, total(costs))
        for (id, call), result, cost in zip(pending.items(), made, costs, strict=True):
            said = {"asked": _asked(call), "gen_ai.tool.call.arguments": call.arguments, **as_data(result)}
            self._write(id, self._kind(call), call.name, said, cost)
        return dict(zip(pending, made, strict=True))

    def _nested(self, id: str, tool: Nested, call: Call) -> ToolResult:
        """Ask a system that is a tool of this one."""
        past = self._of.trace.past(id)
        if past and past[0].kind != "branch":  # an earlier life refused it
            return from_data(past[0].data)
        if not past and isinstance(refusal := self.toolbox.admitted(call), ToolResult):
            self._write(id, self._kind(call), call.name, {"asked": _asked(call), **as_data(refusal)}, Cost())
            return refusal
        result = tool.answer_in(self._branch(id, call.name, {}), call.arguments)
        self.toolbox.remember(call.name, result)
        return result

    def _effects(self, call: Call) -> frozenset[Effect]:
        tool = self.toolbox.tools.get(call.name)
        return frozenset() if tool is None else tool.effects

    def _kind(self, call: Call) -> Kind:
        return "sandbox" if "exec" in self._effects(call) else "tool"

    def search(self, query: str, k: int = 10) -> list[Passage]:
        """The passages of the system's memory that answer a query best, best first.

        Raises:
            KweekError: the system has no memory, or it is damaged.
            Interrupted: the run is to stop.
        """
        if self._of.memory is None:
            raise KweekError("the system has no memory", fix="give it one")
        id, asked = self._next(), _fingerprint([query, k])
        if (event := self._before(id, "retrieve", "memory", asked)) is not None:
            found = [Passage(**one) for one in event.data["passages"]]
        else:
            ticket = self._within(id, lambda: self.budget.reserve(LEAST))
            started, cpu = time.monotonic(), time.thread_time()
            found, cost = [], Cost()
            try:
                found = list(self._of.memory.search(query, k))
                cost = Cost(seconds=time.monotonic() - started, tool_cpu_seconds=time.thread_time() - cpu)
            finally:
                self.budget.settle(ticket, cost)
            passages = [asdict(one) for one in found]
            data = {"asked": asked, "gen_ai.operation.name": "retrieval", "query": query, "k": k}
            self._write(id, "retrieve", "memory", {**data, "passages": passages}, cost)
        if self._of.toolbox is not None and found:
            self._of.toolbox.seen.add(private=True, untrusted=not all(one.trusted for one in found))
        return found

    def branch(self, name: str, **limits: float) -> Context:
        """A part of the run with limits of its own (see `Limits`) inside those of this one."""
        return self._branch(self._next(), name, limits)

    def _branch(self, id: str, name: str, limits: Mapping[str, float]) -> Context:
        asked = _fingerprint(limits)
        if self._before(id, "branch", name, asked) is None:
            self._write(id, "branch", name, {"asked": asked, "limits": dict(limits)}, Cost())
        return Context(self._of, self.budget.scope(name, **limits), id)

    def nested(self, equipment: Equipment, limits: Limits, name: str) -> Context:
        """This branch for another system: its own equipment and limits, the same trace, seed and wish to stop.

        What this run has read may be in the question, so it counts as read there.
        """
        own = self._of
        if own.toolbox is not None and equipment.toolbox is not None:
            equipment.toolbox.inherit(own.toolbox)
        shared = replace(
            equipment, trace=own.trace, seed=own.seed, replaying=own.replaying, should_stop=own.should_stop,
            unknown=own.unknown,
        )  # fmt: skip
        return Context(shared, self.budget.scope(name, **vars(limits)), self.id)

    @property
    def best(self) -> Answer | None:
        """The best answer so far."""
        return self._of.best

    def offer(self, answer: Answer) -> None:
        """The best answer so far: what the system gives when the budget ends before the scaffold does."""
        self._of.best = answer

    def message(self, sender: str, to: str, content: str, **data: Any) -> None:
        """Put a message between parts of the system into the trace."""
        id, said = self._next(), {"from": sender, "to": to, "content": content, **data}
        asked = _fingerprint(said)
        if self._before(id, "message", sender, asked) is None:
            self._write(id, "message", sender, {"asked": asked, **said}, Cost())

    def encode(self, role: str, prompt: Sequence[Message] | Ids, think: bool | None = None) -> list[int]:
        """The ids of a prompt, to be continued by hand."""
        return find(self._of.roles, role, Role).encode(prompt, think)

    def role(self, name: str) -> Role:
        """A language model of the system. Raises KweekError naming those that there are."""
        return find(self._of.roles, name, Role)

    @property
    def has_tools(self) -> bool:
        """Whether the system has any."""
        return self._of.toolbox is not None

    @property
    def toolbox(self) -> Toolbox:
        """The tools of the run. Raises KweekError where the system has none."""
        if self._of.toolbox is None:
            raise KweekError("the system has no tools", fix="give it some")
        return self._of.toolbox

    @property
    def unknown(self) -> list[str]:
        """Calls of tools that had begun when an earlier life of the run ended; nobody knows whether they were made."""
        return list(self._of.unknown)

    def _next(self) -> str:
        """The id of what happens now."""
        if self._of.should_stop():
            raise Interrupted
        id = f"{self.id}.{self._count}"
        self._count += 1
        return id

    def _before(self, id: str, kind: Kind, name: str, asked: str) -> Event | None:
        """What an earlier life of the run did here; its cost counts as spent.

        Raises:
            TraceError: it did something else here.
            BudgetExceeded: in a replay, that it did nothing for want of budget.
        """
        where = f"{self._of.trace.path or 'trace'}, id {id}"
        limit = None
        for event in self._of.trace.past(id):
            if event.kind == "limit":
                limit = event
                continue
            if (event.kind, event.name, event.data.get("asked")) != (kind, name, asked):
                raise TraceError(
                    f"here the run did {event.kind} {event.name} before, now {kind} {name} or with other contents",
                    where=where,
                    fix="resume it with the system and settings that wrote it, or begin anew",
                )
            if event.phase == "done":
                self.budget.take_up(event.cost)
                return event
        if self._of.replaying and limit is not None:
            raise BudgetExceeded(limit.data["what"], where=limit.data["where"], fix=limit.data["fix"])
        if self._of.replaying:
            raise TraceError("the trace ends here", where=where)
        return None

    def _within(self, id: str, reserve: Callable[[], Any]) -> Any:
        """What `reserve` gives; that there is no budget is written down."""
        try:
            return reserve()
        except BudgetExceeded as error:
            data = {"what": error.what, "where": error.where, "fix": error.fix}
            self._write(id, "limit", self.budget.name, data, Cost())
            raise

    def _measured(
        self,
        kind: Kind,
        role: str,
        sequences: list[list[int]],
        reading: Callable[[Sequence[int]], Cost],
        measure: Callable[[], Any],
    ) -> Any:
        """What a model says of whole sequences."""
        id, asked = self._next(), _fingerprint(sequences)
        if (event := self._before(id, kind, role, asked)) is not None:
            return event.data["values"]
        price = reading([len(one) for one in sequences])
        ticket = self._within(id, lambda: self.budget.reserve(price))
        started, cost = time.monotonic(), Cost()
        try:
            values = measure()
            cost = price + Cost(seconds=time.monotonic() - started)
        finally:
            self.budget.settle(ticket, cost)
        self._write(id, kind, role, {"asked": asked, "sequences": sequences, "values": values}, cost)
        return values

    def _write(
        self, id: str, kind: Kind, name: str, data: Mapping[str, Any], cost: Cost, *, announced: bool = False
    ) -> None:
        event = Event(id, self.id, kind, name, "begun" if announced else "done", 0.0, data, cost)
        self._of.trace.add(event, durable=announced)


def _asked(call: Call) -> str:
    return _fingerprint([call.name, call.arguments, call.wrong])


def _fingerprint(value: Any) -> str:
    return hashlib.sha256(encode_json(value).encode()).hexdigest()[:32]
