"""`kweek stop`: end a run with every process, tool and queued call of it, within two seconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("stop")(stop)


def stop(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """End a run at once. It is not asked: what it had not yet saved is lost, and its trace says how far it came.

    Examples: kweek stop runs/assistant · kweek stop runs/agent --json
    """
    from kweek.system.stop import stop as end

    done = end(run)
    if as_json:
        print(json.dumps(asdict(done)))
    else:
        print(f"Ended within {done.seconds:.2f} s.")
        if not done.supervised:
            print("It ran without a supervisor: what it had started and let go of may still run.")
