"""The accessibility tree of a page as text: what a screen reader says, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What can be clicked or typed into.
_ACTIVE = frozenset(
    {"link", "button", "textbox", "searchbox", "combobox", "checkbox", "radio", "switch", "tab", "menuitem"}
    | {"option", "slider", "spinbutton", "listbox", "PopUpButton"}
)
#: Roles whose name is said by what is in them, or that only arrange others.
_SILENT = frozenset(
    {"none", "generic", "InlineTextBox", "LineBreak", "RootWebArea", "presentation", "paragraph", "LabelText"}
    | {"group", "Section", "strong", "emphasis", "list", "ListMarker"}
)
_MAX_DEPTH = 40  # levels that are indented or walked; pages that nest deeper do it to break readers
_MAX_NAME = 500  # characters of one name


@dataclass(frozen=True)
class Tree:
    """A page as text, and by number the nodes of the document that can be clicked or typed into."""

    text: str
    nodes: Mapping[int, int]


def tree_of(nodes: Sequence[Mapping[str, Any]]) -> Tree:
    """The tree of the nodes that Chromium lists (`Accessibility.getFullAXTree`)."""
    by_id = {str(node.get("nodeId")): node for node in nodes}
    lines: list[str] = []
    numbers: dict[int, int] = {}
    stack = [(str(nodes[0].get("nodeId")), 0, "")] if nodes else []
    seen: set[str] = set()
    while stack:
        identity, depth, above = stack.pop()
        node = by_id.get(identity)
        if node is None or identity in seen or depth > _MAX_DEPTH:
            continue
        seen.add(identity)
        line = "" if node.get("ignored") else _line(node, above, numbers)
        if line:
            lines.append("  " * depth + line)
        name = (_text(node, "value") or _text(node, "name")) if line else above
        inner = [(str(child), depth + bool(line), name) for child in node.get("childIds", ())]
        stack.extend(reversed(inner))
    return Tree("\n".join(lines), numbers)


def _line(node: Mapping[str, Any], above: str, numbers: dict[int, int]) -> str:
    role, name, value = _text(node, "role"), _text(node, "name"), _text(node, "value")
    if role == "StaticText":
        return "" if name == above else name
    if role in _SILENT:
        return ""
    words = [role]
    if role in _ACTIVE and isinstance(handle := node.get("backendDOMNodeId"), int):
        number = len(numbers) + 1
        numbers[number] = handle
        words = [f"[{number}] {role}"]
    if name:
        words.append(repr(name))
    if value and value != name:
        words.append(f"= {value!r}")
    for one in node.get("properties", ()):
        if one.get("name") in ("checked", "selected", "disabled", "expanded") and _truth(one):
            words.append(f"({one['name']})")
    return " ".join(words)


def _truth(entry: Mapping[str, Any]) -> bool:
    return entry.get("value", {}).get("value") in (True, "true", "mixed")


def _text(node: Mapping[str, Any], key: str) -> str:
    value = node.get(key, {}).get("value", "")
    return " ".join(str(value).split())[:_MAX_NAME]
