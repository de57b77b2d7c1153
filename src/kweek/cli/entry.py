"""The way into the command `kweek`. `kweek stop RUN` goes straight to its work: it is typed when a run has the machine
on its knees, and then what every other verb imports would take longer than the two seconds it has.
"""

from __future__ import annotations

import sys

_WORDS = 2  # "stop" and the run; with options it goes the way of all verbs


def main() -> None:
    """Run the command line and exit, as `kweek.cli.main.main` does."""
    words = sys.argv[1:]
    if len(words) == _WORDS and words[0] == "stop" and not words[1].startswith("-"):
        sys.exit(_stop(words[1]))
    from kweek.cli.main import main as run

    run()


def _stop(run: str) -> int:
    """End a run and say so; returns the exit status."""
    from pathlib import Path

    from kweek.errors import KweekError
    from kweek.system.stop import stop

    try:
        print(stop(Path(run)).said)
    except KweekError as error:
        print(f"kweek: {error}", file=sys.stderr)
        return 2
    return 0
