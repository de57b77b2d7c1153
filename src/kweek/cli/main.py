"""The command `kweek`: all verbs, and the one place where an error becomes a line and an exit status.

Start-up matters (`kweek --help` in half a second): verbs import what they need when they are called.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from kweek import __version__
from kweek.cli import (
    chat,
    data,
    export,
    flops,
    get,
    index,
    label,
    mcp,
    model,
    plan,
    prune,
    quantize,
    recipe,
    run,
    sandbox,
    serve,
    shrink,
    stop,
    traces,
)  # fmt: skip
from kweek.errors import Interrupted, KweekError, is_out_of_memory

EXIT_BUG, EXIT_USER, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="kweek",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the decorated help takes a quarter of a second to import
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Grow a language model from raw documents to an aligned, tool-using, 4-bit model.",
)


def _version(value: bool) -> None:
    if value:
        print(f"kweek {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the verb; `main` has seen them already."""


for _verb in (
    run, plan, chat, serve, get, data, index, label, mcp, model, export, flops, prune, quantize, recipe,
    sandbox, shrink, stop, traces,
):  # fmt: skip
    _verb.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a fault of Kweek, 2 a user error, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    # Accepted anywhere, because an error is seen after the command was typed.
    words = [word for word in words if word != "--debug"]
    try:
        app(words)
        status, line = 0, ""
    except KweekError as error:
        status, line = _told(debug, EXIT_USER, str(error))
    except (Interrupted, KeyboardInterrupt):
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: a Ctrl-C that once reached an `exec`, as when a dataclass is imported, makes Python end
        # with SIGINT at its exit, whatever status is asked for.
        os._exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe (`| head`) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status, line = 0, ""
    except Exception as error:
        line = " ".join(str(error).split())
        if is_out_of_memory(error):
            fix = "Take a smaller model, shorter texts or fewer at once, or give this process more memory."
            status, line = _told(debug, EXIT_USER, f"not enough memory. {fix}")
        elif not type(error).__module__.startswith("kweek."):  # those say everything in their text
            line = f"{type(error).__name__}: {line} (a fault of Kweek; --debug shows where)"
            status, line = _told(debug, EXIT_BUG, line)
        else:
            status, line = _told(debug, EXIT_BUG, line)
    if line:
        print(f"kweek: {line}", file=sys.stderr)
    sys.exit(status)


def _told(debug: bool, status: int, line: str) -> tuple[int, str]:
    """Status and line of the error being handled; prints its traceback first when asked to."""
    if debug:
        traceback.print_exc()
    return status, line
