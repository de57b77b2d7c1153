"""`kweek label`: a person judges pairs of answers without knowing whose they are."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kweek.cli.screen import harmless

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kweek.cli.keys import Keys
    from kweek.data.chats import Messages
    from kweek.system.answers import Answerer
    from kweek.system.blind import Choice, Pair
    from kweek.system.labels import Answers, Contest, Labels, Summary

#: Keys and what they mean.
_KEYS = {"1": "1", "2": "2", "t": "tie", "=": "tie", "s": "skip", "u": "undo", "q": "quit"}
_HELP = "1 or 2: the better one   t: tie   s: pass over   u: undo   q: leave"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("label")(label)


def label(
    a: Annotated[Path, typer.Argument(help="A run, model folder or GGUF file; or, alone, a file of pairs.")],
    b: Annotated[Path | None, typer.Argument(help="The other model.")] = None,
    out: Annotated[
        Path, typer.Option("--out", help="File for the judgements; an existing one is gone on with.")
    ] = Path("prefs.jsonl"),
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="What both models are asked; without it you ask yourself."),
    ] = None,
    form: Annotated[str | None, typer.Option("--format", help="Format of the pairs or prompts.")] = None,
    temperature: Annotated[
        float, typer.Option(help="0: the most likely answer, the same every time.", min=0)
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of sampling.")] = 0,
    backend: Annotated[
        str, typer.Option("--backend", help="What computes: auto, native, torch, llama.cpp or vllm.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Choose the better of two answers, blind; what you say is kept as preference data.

    The sides are drawn by chance, some pairs come again the other way round, and every judgement is kept at once, so
    that you can leave and go on whenever you like. The result is told at the end only.

    Examples: kweek label runs/a runs/b --prompts questions.jsonl --out prefs.jsonl · kweek label pairs.jsonl --out
    mine.jsonl · kweek label runs/a runs/b --out prefs.jsonl
    """
    from kweek.errors import ConfigError
    from kweek.store.records import Records

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("judging needs a person at a terminal", where="kweek label", fix="start it in one")
    records = Records(out)
    if b is not None and prompts is None:
        if as_json:
            raise ConfigError(
                "--json needs prompts or a file of pairs", where="--json", fix="add --prompts FILE"
            )
        from kweek.cli.blind import hold
        from kweek.cli.chat import blind_trial

        hold(blind_trial((a, b), records, temperature, max_tokens, seed, backend), out)
        return
    if b is None:
        if prompts is not None:
            raise ConfigError(
                "prompts need two models to answer them", where="--prompts", fix="name the other one"
            )
        labels = _of_file(a, form, records)
    else:
        assert prompts is not None
        answerers = {str(path): _answerer(path, temperature, max_tokens, seed, backend) for path in (a, b)}
        labels = _of_models(answerers, prompts, form, records)
    _session(labels)
    _tell(labels.summary(), labels.names, out, as_json)


def _of_file(path: Path, form: str | None, records: Any) -> Labels:
    """The pairs of a file of preferences; the person sees neither which was preferred nor by whom."""
    from kweek.data.chats import Preference
    from kweek.data.chats_reading import read_chats, require
    from kweek.data.chats_report import Report
    from kweek.system.labels import Contest, Labels

    report = Report()
    rows = require(read_chats(path, report, format=form), Preference)
    contests = [Contest(row.prompt, {"chosen": row.chosen, "rejected": row.rejected}) for row in rows]
    _say_skipped(report)
    return Labels(("chosen", "rejected"), contests, records)


def _of_models(answerers: dict[str, Answerer], prompts: Path, form: str | None, records: Any) -> Labels:
    """Pairs of what two models answer to the prompts of a file."""
    from kweek.data.chats_reading import read_chats
    from kweek.data.chats_report import Report
    from kweek.errors import ConfigError
    from kweek.system.labels import Contest, Labels

    if len(answerers) != 2:
        raise ConfigError("both are the same model", where="kweek label", fix="name two")

    def answer(asked: Sequence[Messages]) -> list[Answers]:
        print("both answer ...", flush=True)
        made = {name: answerer.answer(asked) for name, answerer in answerers.items()}
        return [{name: answers[i] for name, answers in made.items()} for i in range(len(asked))]

    report = Report()
    contests: list[Contest] = [Contest(row.prompt) for row in read_chats(prompts, report, format=form)]
    _say_skipped(report)
    first, second = answerers
    return Labels((first, second), contests, records, answer)


def _answerer(where: Path, temperature: float, max_tokens: int, seed: int, backend: str) -> Answerer:
    from kweek.cli.chat import open_session
    from kweek.system.answers import Answerer

    session = open_session(where, temperature, max_tokens, seed, backend)
    return Answerer(
        session.model,
        session.tokenizer,
        session.max_positions,
        session.interceptor,
        temperature,
        max_tokens,
        seed,
    )


def _say_skipped(report: Any) -> None:
    if report.num_skipped:
        print(f"left out: {report.num_skipped:,} ({report.commonest()})")


def _session(labels: Labels) -> None:
    """Show pairs and take keys until all are judged or the person leaves."""
    from kweek.cli.keys import Keys

    print(f"{labels.num_done} of {labels.num_pairs} judged. {_HELP}")
    # Ctrl-C may come between two keys as well: what was judged is kept, so it is only another way to leave.
    with Keys() as keys, suppress(KeyboardInterrupt):
        while (pair := labels.next()) is not None:
            keys.forget()
            _draw(pair, labels.num_done + 1, labels.num_pairs)
            shown = time.monotonic()
            said = _said(keys)
            while said == "undo" and not labels.undo():
                print("there is nothing to take back")  # and the pair stays as it is shown
                said = _said(keys)
            if said == "quit":
                return
            if said == "undo":
                print("taken back")
                continue
            labels.judge(pair, cast("Choice", said), time.monotonic() - shown)
            print({"tie": "tie", "skip": "passed over"}.get(said, f"{said} is better"))
        print("All pairs are judged.")


def _said(keys: Keys) -> str:
    """What the next key that means something means."""
    while True:
        try:
            key = keys.read().lower()
        except EOFError:
            return "quit"
        if key in _KEYS:
            return _KEYS[key]
        print(_HELP)


def _draw(pair: Pair, number: int, total: int) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(highlight=False)
    console.rule(f"{min(number, total)} of {total}")
    for message in pair.prompt:
        content = harmless(str(message.get("content") or ""))
        console.print(Text.assemble((f"{message['role']}: ", "bold"), content))
    for number, answer in enumerate(pair.shown, 1):
        console.print(Panel(Text(harmless(answer)), title=str(number), title_align="left"))
    console.print(Text(_HELP, "dim"))


def _tell(summary: Summary, names: tuple[str, str], out: Path, as_json: bool) -> None:
    """The result, which nobody was told before."""
    from kweek.cli.blind import verdict

    if as_json:
        print(json.dumps({"out": str(out), "names": names, **_plain(summary)}, indent=1))
        return
    print(f"\n{verdict(summary.tally, names)}")
    if summary.skipped:
        print(f"passed over: {summary.skipped}")
    if summary.agreement is not None:
        mid, lo, hi = summary.agreement
        print(f"judged as before when shown again: {mid:.0%} of {summary.num_repeats} ({lo:.0%} to {hi:.0%})")
    if summary.median_seconds is not None:
        print(f"median time per pair: {summary.median_seconds:.1f} s")
    if summary.first is not None and summary.position_p is not None:
        mid, lo, hi = summary.first
        leans = "the place mattered" if summary.position_p < 0.05 else "no sign that the place mattered"
        print(f"the first shown was preferred {mid:.0%} of the time ({lo:.0%} to {hi:.0%}): {leans}")
    print(f"kept in {out}")


def _plain(summary: Summary) -> dict[str, Any]:
    """A summary as JSON."""
    from dataclasses import asdict

    return {**asdict(summary), "told_apart": summary.tally.told_apart}
