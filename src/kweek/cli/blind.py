"""The blind trial of `kweek chat --blind A B`: ask, read two answers, choose, see the result at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kweek.cli.screen import harmless

if TYPE_CHECKING:
    from kweek.system.blind import BlindTrial, Choice, Tally

#: What may be typed, and what it means.
_CHOICES: dict[str, Choice] = {"1": "1", "2": "2", "t": "tie", "tie": "tie", "=": "tie"}


def hold(trial: BlindTrial, record: Path, ask: Callable[[str], str] = input) -> None:
    """Ask for questions and choices until the end of input, then tell.

    Args:
        trial: of two models.
        record: the file that pairs go to, to be named at the end.
        ask: shows a prompt and returns a line; raises EOFError or KeyboardInterrupt at the end.
    """
    from kweek.errors import KweekError

    print(
        "Two models answer in random order. Choose 1, 2 or t (tie). An empty line or Ctrl-D ends and tells."
    )
    while question := _line(ask, "\n> "):
        try:
            pair = trial.ask(question)
        except KweekError as error:
            print(error)
            continue
        if pair.same:
            print(f"\nboth: {harmless(pair.shown[0])}\n(the same to the letter; counted as such)")
            trial.judge(pair, "tie")
            continue
        print(f"\n1: {harmless(pair.shown[0])}\n\n2: {harmless(pair.shown[1])}")
        choice = _choice(ask)
        if choice is None:
            break
        trial.judge(pair, choice)
    print(f"\n{verdict(trial.tally(), trial.names)}\nkept in {record}")


def verdict(tally: Tally, names: tuple[str, ...]) -> str:
    """The result in words."""
    wins = ", ".join(f"{name} {tally.won[name]}" for name in names)
    said = f"preferred: {wins}; ties {tally.ties}, equal answers {tally.same}"
    if tally.share is None:
        return f"{said}\nNo pair was decided, so nothing can be said."
    share = f"{tally.share.mid:.0%} of the decided pairs for {names[0]} ({tally.share.lo:.0%} to {tally.share.hi:.0%})"
    end = "You can tell them apart." if tally.told_apart else "That is no more than chance would do."
    return f"{said}\n{share}. {end}"


def _choice(ask: Callable[[str], str]) -> Choice | None:
    """One of the choices, asked for until it is one; None at the end of input."""
    while (said := _line(ask, "\n1, 2 or t? ")) is not None:
        if said.lower() in _CHOICES:
            return _CHOICES[said.lower()]
    return None


def _line(ask: Callable[[str], str], prompt: str) -> str | None:
    try:
        return ask(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None
