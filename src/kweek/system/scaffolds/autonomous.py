"""An agent left to itself: a list of tasks, notes, tools, a budget, and an end.

In every step the model sees the goal, its list, its notes and what it did last, and calls something: a tool of the
system, or one of the four that belong to the agent itself. It ends with an answer, with its budget, after so many
steps, or where it goes in circles; whichever it was is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kweek.protocols import Constraint, Message
from kweek.system.context import Context
from kweek.system.scaffolds.asking import Way, filled, fits
from kweek.system.task import Answer, Task
from kweek.system.tools.calls import CLOSING, OPENING, Call, calls_of

MAX_STEPS = 30  # a task of many parts; who goes further has lost the way or wants a larger budget
CIRCLES = 3  # the same call so often in a row, with the same result, is going in circles
_SHOWN = 6  # results shown again: the last ones; what matters longer is noted
_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_NUMBER = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
#: Name, parameters, description of what the agent does with itself.
OWN: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    ("add_task", _TEXT, "Put a task on the list."),
    ("finish_task", _NUMBER, "Tick off the task of this number."),
    ("note", _TEXT, "Keep something in mind until the end."),
    ("answer", _TEXT, "End with this answer, once the goal is reached or cannot be."),
)
ASK = (
    "Goal: {goal}\n\nTasks:\n{tasks}\n\nNotes:\n{notes}\n\nDone lately:\n{done}\n\nYou may call:\n{tools}\n\n"
    f'Call one of them: {OPENING}{{"name": "...", "arguments": {{...}}}}{CLOSING}'
)


@dataclass
class Agenda:
    """What the agent has before it.

    Attributes:
        tasks: each with whether it is done.
        notes: kept until the end.
        done: calls with what came of them.
        failed: messages without a call that could be read.
    """

    tasks: list[tuple[str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: int = 0

    def own(self, call: Call) -> str | None:
        """Do what the agent does with itself and say what came of it; None where the call is another's."""
        text, number = str(call.arguments.get("text", "")), call.arguments.get("number")
        if call.name == "add_task" and text:
            self.tasks.append((text, False))
            return f"task {len(self.tasks)} is on the list"
        if call.name == "note" and text:
            self.notes.append(text)
            return "noted"
        if call.name == "finish_task":
            if not isinstance(number, int) or not 1 <= number <= len(self.tasks):
                return f"error: there are tasks 1 to {len(self.tasks)}"
            self.tasks[number - 1] = (self.tasks[number - 1][0], True)
            return f"task {number} is done"
        return "error: the text is empty" if call.name in ("add_task", "note", "answer") else None

    def shown(self, goal: str, tools: str, lately: int) -> str:
        """The whole of it as the model sees it, with so many of the last results."""
        tasks = "\n".join(
            f"{n}. [{'x' if done else ' '}] {text}" for n, (text, done) in enumerate(self.tasks, start=1)
        )
        notes = "\n".join(f"- {note}" for note in self.notes)
        done = "\n".join(self.done[max(0, len(self.done) - lately) :])
        return filled(
            ASK, goal=goal, tasks=tasks or "none yet", notes=notes or "none yet", done=done or "nothing yet",
            tools=tools,
        )  # fmt: skip

    def report(self, ended: str, steps: int) -> dict[str, Any]:
        """As JSON data."""
        tasks = [{"text": text, "done": done} for text, done in self.tasks]
        return {
            "ended": ended, "steps": steps, "tasks": tasks, "notes": list(self.notes), "unreadable": self.failed,
        }  # fmt: skip


def autonomous(
    context: Context,
    task: Task,
    *,
    max_steps: int = MAX_STEPS,
    way: Way | None = None,
    grammar: Callable[[], Constraint] | None = None,
) -> Answer:
    """Work on a goal until it is reached, the budget ends, or nothing moves any more.

    Args:
        context, task: as for every scaffold; the system's tools are the agent's.
        max_steps: calls of the model.
        way: how to ask.
        grammar: of calls, so that none can be written that cannot be read; None lets the model write freely.
    """
    way, agenda = way or Way(temperature=0.0), Agenda()
    tools = _tools(context)
    for step in range(max_steps):
        prompt = _prompt(context, way, task, agenda, tools)
        sample = context.generate(
            way.role, prompt, max_new_tokens=way.max_new_tokens, temperature=way.temperature, think=way.think,
            grammar=grammar,
        )[0]  # fmt: skip
        calls = calls_of({"role": "assistant", "content": sample.text})
        if not calls:
            agenda.failed += 1
            agenda.done.append("error: nothing was called")
        for call in calls:
            if call.name == "answer" and call.arguments.get("text"):
                return Answer(str(call.arguments["text"]), data=agenda.report("answered", step + 1))
            agenda.failed += bool(call.wrong)
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            agenda.done.append(f"{call.name}({arguments}): {_made(context, way, agenda, call)}")
        context.offer(Answer(_so_far(agenda), finished=False, data=agenda.report("budget", step + 1)))
        if len(agenda.done) >= CIRCLES and len(set(agenda.done[-CIRCLES:])) == 1:
            return Answer(_so_far(agenda), finished=False, data=agenda.report("going in circles", step + 1))
    return Answer(_so_far(agenda), finished=False, data=agenda.report("out of steps", max_steps))


def _prompt(context: Context, way: Way, task: Task, agenda: Agenda, tools: str) -> list[Message]:
    """What the model sees, with as many of the last results as fit."""
    messages: list[Message] = []
    for lately in range(_SHOWN, -1, -1):
        shown = agenda.shown(task.question, tools, lately)
        messages = [*task.messages[:-1], {"role": "user", "content": shown}]
        if fits(context, way, messages):
            break
    return messages


def _made(context: Context, way: Way, agenda: Agenda, call: Call) -> str:
    """What came of a call, in words; no more than about a quarter of the context."""
    said = agenda.own(call) if not call.wrong else None
    if said is not None:
        return said
    if not context.has_tools:
        return f"error: {call.wrong or 'there is no such tool'}"
    result = context.call_all([call])[0]
    if result.error:
        return f"error: {result.error}"
    most = context.role(way.role).max_positions  # characters, of which a token has about four
    return result.content if len(result.content) <= most else f"{result.content[:most]} … (cut)"


def _tools(context: Context) -> str:
    """The descriptions of all that may be called."""
    own = [{"name": name, "description": said, "parameters": dict(shape)} for name, shape, said in OWN]
    theirs = [one["function"] for one in context.toolbox.described()] if context.has_tools else []
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in [*own, *theirs])


def _so_far(agenda: Agenda) -> str:
    """The best answer without an end: what was noted."""
    return "\n".join(agenda.notes)
