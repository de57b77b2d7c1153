"""Asks the person at the terminal whether a tool may be called."""

from __future__ import annotations

import json
from collections.abc import Callable

import typer

from kweek.cli.screen import harmless
from kweek.system.tools.effects import Question, Verdict

_MAX_SHOWN = 2_000  # characters of the arguments; a person does not read more of a screen
_KEYS: dict[str, Verdict] = {"y": "once", "a": "always", "n": "deny", "": "deny"}


def ask(question: Question, read: Callable[[str], str] = input) -> Verdict:
    """Show a call and take y (once), a (always), or n; no answer, or no terminal, is no.

    Args:
        question: what is asked.
        read: shows a prompt and gives a line.
    """
    effects = ", ".join(sorted(question.effects)) or "nothing but computing"
    typer.echo(f"\nThe model wants to call {_shown(question.tool)} ({effects}): {question.why}.", err=True)
    typer.echo(_shown(json.dumps(question.arguments, ensure_ascii=False, indent=2)), err=True)
    while True:
        try:
            said = read("Call it? [y] once  [a] always  [n] no: ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            return "deny"
        if said in _KEYS:
            return _KEYS[said]


def _shown(text: str) -> str:
    """A text as a terminal can show it, and not more than a person reads."""
    left_out = len(text) - _MAX_SHOWN
    shown = harmless(text[:_MAX_SHOWN])
    return f"{shown}\n[{left_out:,} more characters not shown]" if left_out > 0 else shown
