"""`kweek data`: look at data before anything is learnt from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kweek.cli import data_audit
from kweek.cli.screen import harmless

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from kweek.align.preview import Preview, Sample
    from kweek.data.chats_report import Report
    from kweek.tokenize.tokenizer import Tokenizer

commands = typer.Typer(help="Look at data before anything is learnt from it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    data_audit.register(commands)
    app.add_typer(commands, name="data")


@commands.callback()
def _group() -> None:
    """Look at data before anything is learnt from it."""


@commands.command("show")
def show(
    file: Annotated[
        Path,
        typer.Argument(help="Chats or judgements: .jsonl, .json, .parquet, .arrow, or a folder of them."),
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="Run, model folder or GGUF file whose tokenizer and template to use."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Format of the records; found out when not named.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Which split, where there are several.")
    ] = None,
    count: Annotated[int, typer.Option("-n", help="Samples to print.", min=0)] = 3,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", help="Longest sequence; longer ones are counted as left out."),
    ] = None,
    measured: Annotated[
        int, typer.Option("--measure", help="Rows to encode for lengths and masks.", min=1)
    ] = 1000,
    boundaries: Annotated[bool, typer.Option("--tokens", help="Show where each token ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Print samples as a model would see them, what is learnt in colour, and what is left out and why.

    Examples: kweek data show chats.jsonl --model models/smollm2-135m · kweek data show prefs.parquet --model
    runs/laptop -n 1 --tokens · kweek data show saved_dataset --split test --format sharegpt --model m --json
    """
    from rich.console import Console

    from kweek.align.preview import preview
    from kweek.errors import ConfigError

    if model is None:
        raise ConfigError(
            "every model has its own chat template and tokens, so one has to be named",
            where="--model",
            fix="give a run, a model folder or a GGUF file; kweek get brings one",
        )
    found = preview(
        file,
        _tokenizer(model),
        format=form,
        split=split,
        num_samples=count,
        num_measured=measured,
        **({} if max_tokens is None else {"max_tokens": max_tokens}),
    )
    if as_json:
        print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    for sample in found.samples:
        drawn = _drawn(sample, boundaries, colours=console.color_system is not None)
        console.print(drawn, end="\n" if drawn.plain.endswith("\n") else "\n\n")
    _say(found, console)


def _tokenizer(where: Path) -> Tokenizer:
    """The tokenizer of a run, a model folder or a GGUF file."""
    from kweek.cli.chat import find_model
    from kweek.model.gguf_file import GGUFFile
    from kweek.tokenize.tokenizer import Tokenizer

    folder, _ = find_model(where, None)
    if folder.is_file():
        with GGUFFile(folder) as file:
            return Tokenizer.from_gguf(file.fields, name=str(folder))
    return Tokenizer.load(folder)


def _drawn(sample: Sample, boundaries: bool, *, colours: bool) -> Text:
    """A sample: what is learnt in green, or between brackets where there are no colours; control tokens underlined."""
    from rich.text import Text

    learnt = sum(weight != 0 for _, weight, _ in sample.tokens)
    text = Text.assemble((f"{sample.origin}  {sample.title}", "bold"))
    if sample.tokens:
        text.append(f"  {len(sample.tokens)} tokens, {learnt} learnt\n", "dim")
    runs: list[tuple[str, float, bool]] = []
    for piece, weight, special in sample.tokens:
        if not boundaries and runs and runs[-1][1:] == (weight, special):
            runs[-1] = (runs[-1][0] + piece, weight, special)
        else:
            runs.append((piece, weight, special))
    before = 0.0
    for piece, weight, special in [*runs, ("", 0.0, False)]:
        if weight != before:
            closing = "⟧" if before and not colours else ""
            opening = "⟦" if weight and not colours else ""
            text.append(
                closing + opening + (f"(weight {weight:g}) " if weight not in (0.0, 1.0) else ""), "yellow"
            )
        before = weight
        text.append(harmless(piece), ("green" if weight else "default") + (" underline" if special else ""))
        if boundaries and piece:
            text.append("·", "dim")
    if sample.gold:
        text.append(f"\nright answer: {harmless(sample.gold)}", "dim")
    return text


def _say(found: Preview, console: Console) -> None:
    """Counts, lengths, and what was left out or changed."""
    report = found.report
    how = "recognised" if report.detected else "named"
    console.print(
        f"{report.source}: {report.num_records:,} records of the format {report.format!r} ({how}), "
        f"{report.num_rows:,} used, {report.num_skipped:,} left out",
        markup=False,
    )
    _list_skipped(report, console)
    for note, times in report.notes.most_common():
        console.print(f"  {times:,} x {note}", style="dim", markup=False)
    if found.unfit.num_skipped:
        console.print(
            f"of {found.num_measured:,} rows looked at, {found.unfit.num_skipped:,} cannot be encoded:"
        )
        _list_skipped(found.unfit, console)
    if found.lengths:
        for name, of in (("tokens", found.lengths), ("learnt", found.learnt)):
            marks = ", ".join(f"{key} {value:,}" for key, value in found.quantiles(of).items())
            console.print(
                f"{name} per sequence (sequences: {len(of):,}, of {found.num_measured:,} rows): {marks}"
            )
    if (audit := found.audit) is not None:
        first, last = (", ".join(f"{text!r} {n:,}" for text, n in ends) for ends in (audit.first, audit.last))
        console.print(
            f"in the loss: {audit.share:.1%} of all tokens, {audit.num_turns:,} turns; they begin with {first} "
            f"and end with {last}",
            markup=False,
        )
    for fault in found.faults:
        console.print(f"training would refuse this: {fault}", style="red", markup=False)


def _list_skipped(report: Report, console: Console) -> None:
    for reason, times in report.skipped.most_common():
        places = "; ".join(report.examples[reason])
        console.print(f"  {times:,} x {reason} ({places})", markup=False)
