"""`kweek data audit`: try to fool the judge of an environment before anything is trained on it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kweek.align.audit.finding import Finding

_TITLES = {
    "right": "Right answers",
    "ignorant": "Answers that ignore the question",
    "hedged": "Right answers among wrong ones",
    "behaviour": "The verifier as a program",
    "format": "Right answers written otherwise (told, not judged)",
}


def register(app: typer.Typer) -> None:
    """Add the verb to the group `data`."""
    app.command("audit")(audit)


def audit(
    where: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="A file or folder of prompts with verifiers (JSONL, Parquet, ...), an environment, or module:name.",
        ),
    ],
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="For lines of the file that name none, such as number.")
    ] = None,
    count: Annotated[int, typer.Option("--count", help="Items to try it on.", min=10)] = 60,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="Another bound for a finding, as 'best constant=0.5'. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Try to fool a verifier or an environment, and to break it; ends with status 2 where that succeeds.

    Examples: kweek data audit prompts.jsonl · kweek data audit prompts.jsonl --verifier number --limit 'best
    constant=0.3' · kweek data audit gym:chain_sum · kweek data audit mine:Riddles --json
    """
    from rich.console import Console

    from kweek.align.audit.environment import audit_environment
    from kweek.align.audit.finding import exploitability, require_sound
    from kweek.align.environments.named import environment

    limits = dict(_limit(text) for text in limit or [])
    made = environment(where, verifier=verifier)
    with Console(stderr=True).status("") as status:

        def show(done: float, total: float, note: str = "", **values: float) -> None:
            status.update(f"{note} ({done:g} of {total:g})")

        findings = audit_environment(made, count=count, limits=limits, progress=show)
    if as_json:
        rows = [dataclasses.asdict(finding) | {"passed": finding.passed} for finding in findings]
        print(json.dumps({"exploitability": exploitability(findings), "findings": rows}))
    else:
        _draw(findings, exploitability(findings))
    require_sound(findings)


def _limit(text: str) -> tuple[str, float]:
    from kweek.errors import ConfigError

    name, _, value = text.rpartition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ConfigError(f"{text!r} is no limit", where="--limit", fix="write 'best constant=0.5'") from None


def _draw(findings: Sequence[Finding], exploitability: float) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table("", "score", "allowed", "", "example", box=None)
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row(f"[bold]{_TITLES[group]}[/bold]")
        allowed = "" if group == "format" else f"{'≥' if finding.at_least else '≤'} {finding.limit:g}"
        mark = "" if group == "format" else "ok" if finding.passed else "[red]FAILS[/red]"
        example = escape(finding.example.encode("unicode_escape").decode()[:60])
        table.add_row(escape(finding.attack), f"{finding.score:.3g}", allowed, mark, example)
    console.print(table)
    console.print(f"Most that an answer earned which ignores the question: {exploitability:.2f}")
