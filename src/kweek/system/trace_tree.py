"""A trace as a tree for people: what happened inside what, in words, with what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kweek.compute.flops import format_seconds
from kweek.errors import DataError
from kweek.system.cost import Cost
from kweek.system.trace import Event

_MOST_CHARS = 72  # of a text that is not wanted whole: one line of a terminal


@dataclass
class Node:
    """An event with what happened inside it.

    Attributes:
        id, kind, name: of the event.
        said: what there is to say of it.
        own: its cost, without what is inside.
        children: in their order.
    """

    id: str
    kind: str
    name: str
    said: str
    own: Cost
    children: list[Node] = field(default_factory=list)

    @property
    def whole(self) -> Cost:
        """Its cost with all that is inside."""
        return sum((child.whole for child in self.children), start=self.own)

    @property
    def cost(self) -> str:
        """The whole cost in words; empty for what costs nothing."""
        cost = self.whole
        parts = []
        if cost.tokens:
            parts.append(f"{cost.tokens_in:,} + {cost.tokens_out:,} tokens")
        if cost.flop or cost.num_unknown:
            parts.append(cost.flop_said)
        if cost.seconds:
            parts.append(format_seconds(cost.seconds))
        if cost.money:
            parts.append(f"{cost.money:.4g} of money")
        return f"[{', '.join(parts)}]" if parts else ""

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON data."""
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "said": self.said,
            "cost": self.whole.to_dict(),
            "children": [child.to_dict() for child in self.children],
        }


def tree_of(events: Sequence[Event], *, full: bool = False) -> Node:
    """The tree of a trace.

    Args:
        events: of one run.
        full: whole texts instead of their beginnings.

    Raises:
        DataError: no events, or one inside something that is not there.
    """
    ended = {event.id for event in events if event.phase == "done"}
    nodes: dict[str, Node] = {}
    root: Node | None = None
    for event in events:
        if event.phase == "begun" and event.id in ended:
            continue
        node = Node(event.id, event.kind, event.name, _said(event, full), event.cost)
        if event.kind == "branch":
            nodes[event.id] = node
        if not event.parent:
            root = root or node
            continue
        if event.parent not in nodes:
            raise DataError(f"event {event.id} lies in {event.parent}, which is not there")
        nodes[event.parent].children.append(node)
    if root is None:
        raise DataError("the trace is empty", fix="look whether the run has begun")
    return root


def _said(event: Event, full: bool) -> str:
    data = event.data
    if event.phase == "begun":
        return "begun, and not ended"
    if event.kind == "generate":
        samples = [_short(f"{one['reasoning']} {one['text']}".strip(), full) for one in data["samples"]]
        return " | ".join(samples)
    if event.kind in ("tool", "sandbox"):
        found = f"error: {data['error']}" if data.get("error") else data.get("gen_ai.tool.call.result", "")
        return _short(f"{data.get('gen_ai.tool.call.arguments', '')} -> {found}", full)
    if event.kind == "retrieve":
        sources = ", ".join(str(one["source"]) for one in data["passages"]) or "nothing"
        return _short(f"{data['query']} -> {sources}", full)
    if event.kind == "message":
        return _short(f"to {data['to']}: {data['content']}", full)
    if event.kind == "limit":
        return _short(str(data["what"]), full)
    if event.kind == "answer":
        return _short(str(data["text"]), full) + ("" if data["finished"] else " (cut short)")
    if event.kind == "verify":
        return _short(str(data.get("score") or data.get("values")), full)
    task = data.get("task")
    return _short(str(task["messages"][-1].get("content", "")), full) if task else ""


def _short(text: str, full: bool) -> str:
    line = " ".join(text.split())
    return line if full or len(line) <= _MOST_CHARS else f"{line[: _MOST_CHARS - 1]}…"
