"""`kweek traces` (also `kweek trace`): what a run did, drawn as a tree."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kweek.cli.screen import harmless

if TYPE_CHECKING:
    from rich.tree import Tree

    from kweek.system.trace_tree import Node

verbs = typer.Typer(no_args_is_help=True, help="Look at what runs of a system did.")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line, under both of its names."""
    app.add_typer(verbs, name="traces")
    app.add_typer(verbs, name="trace", hidden=True)


@verbs.command("show")
def show(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", help="A trace, or the folder of a run that has one.")
    ],
    full: Annotated[bool, typer.Option("--full", help="Whole texts instead of their beginnings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw a run as a tree: calls of models and tools, branches, messages, limits, the answer, and what each cost.

    Examples: kweek trace show runs/agent · kweek trace show runs/agent/trace.jsonl --full
    """
    from kweek.system.trace import read_trace
    from kweek.system.trace_tree import tree_of

    path = trace / "trace.jsonl" if trace.is_dir() else trace
    root = tree_of(read_trace(path), full=full)
    if as_json:
        print(json.dumps(root.to_dict(), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=full).print(_drawn(root))


@verbs.callback()
def _verbs() -> None:
    """Keeps `show` a verb of its own while it is the only one."""


def _drawn(node: Node) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    drawn = Tree(Text(_line(node)))
    edge = [(drawn, node)]
    while edge:
        parent, one = edge.pop()
        edge += [(parent.add(Text(_line(child))), child) for child in one.children]
    return drawn


def _line(node: Node) -> str:
    text = f"{node.id}  {node.kind} {node.name}  {node.said}  {node.cost}".rstrip()
    return harmless(text) if sys.stdout.isatty() else text
