"""`kweek serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kweek.cli import proxy
from kweek.errors import ConfigError, KweekError

if TYPE_CHECKING:
    from kweek.serve.model import ServedModel
    from kweek.serve.worker import Worker

_HOST = "127.0.0.1"  # nobody but this machine, because there is no password
_PORT = 8000  # where clients of local servers look first
_Weights = Literal["auto", "f32", "f16", "q8", "q4"]
_WEIGHTS: _Weights = "auto"  # the numbers of the checkpoint, whatever they are
_Kv = Literal["f32", "f16", "q8"]
_MAX_ACTIVE = 256  # two of the largest requests; more would only wait


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("serve")(serve)


def serve(
    where: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL|RUN",
            help="A model folder, GGUF file or run folder; with --upstream what counts tokens and judges words.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but this machine's own is a risk.")
    ] = _HOST,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = _PORT,
    name: Annotated[
        str | None,
        typer.Option(
            help="What clients call the model; the folder's name if left out. With --upstream the model there "
            "that the examples are put to."
        ),
    ] = None,
    max_active: Annotated[
        int, typer.Option(help="Generations queued and running at once; more are told to try again.", min=1)
    ] = _MAX_ACTIVE,
    backend: Annotated[
        str, typer.Option("--backend", help="What computes: auto, native, torch, llama.cpp or vllm.")
    ] = "auto",
    weights: Annotated[
        _Weights,
        typer.Option(
            help="How the engine holds the weights: f32 is exact, q8 and q4 are faster and smaller; "
            "auto is q4 for a 4-bit model, else f32."
        ),
    ] = _WEIGHTS,
    kv: Annotated[
        _Kv | None,
        typer.Option(help="How it holds keys and values of the context; f32, the exact one, if left out."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the native engine; 1 if left out.", min=1, max=256)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it listens as JSON.")] = False,
    upstream: proxy.UpstreamOption = None,
    compress: proxy.RatioOption = None,
    by: proxy.MethodOption = "extract",
    examples: proxy.ExamplesOption = None,
    tolerance: proxy.ToleranceOption = proxy.TOLERANCE,
    measured: proxy.MeasuredOption = None,
    judge: proxy.JudgeOption = "text",
    unmeasured: proxy.UnmeasuredOption = False,
    key_env: proxy.KeyOption = None,
    price: proxy.PriceOption = None,
    kwh: proxy.KwhOption = None,
) -> None:
    """Serve a model with OpenAI's API until Ctrl-C: chats, text completions, log-probabilities, tokens. Or, with
    --upstream, send chats with less context on to someone else's model.

    Examples: kweek serve runs/laptop · kweek serve models/smollm2-135m --port 0 --json · kweek serve model.gguf
    --backend llama.cpp · kweek serve --upstream https://host/v1 --compress 4 --examples questions.jsonl --price 2.5
    """
    _check_installed()
    if upstream is not None:
        options = proxy.ProxyOptions(
            upstream,
            compress,
            by,
            examples,
            tolerance,
            measured,
            judge,
            unmeasured,
            name,
            key_env,
            price,
            kwh,
        )
        proxy.serve_upstream(options, where, host, port, as_json)
    elif where is None or compress is not None:
        what = "what is to be served is missing" if where is None else "only a proxy compresses"
        raise ConfigError(what, where="kweek serve", fix="name a model folder, or give --upstream URL")
    else:
        how = (where, name, max_active, backend, weights, kv, threads)
        _serve_model(host, port, as_json, lambda: _load(*how))


def _check_installed() -> None:
    try:
        import kweek.serve.app
        import kweek.serve.listener  # noqa: F401
    except ImportError as error:
        raise KweekError(
            f"the server needs a package that is not installed ({error.name})",
            fix="pip install 'kweek[serve]'",
        ) from error


def _serve_model(
    host: str, port: int, as_json: bool, load: Callable[[], tuple[ServedModel, Worker, str]]
) -> None:
    from kweek.serve.app import make_app
    from kweek.serve.guard import is_loopback
    from kweek.serve.listener import Listener, bind, url

    listening = bind(host, port)  # before the model: an address that is taken is found at once
    try:
        model, worker, said = load()
        private = is_loopback(listening.getsockname()[0])
        if not private:
            print(
                f"Warning: {host} can be reached from other machines and there is no password: whoever reaches it "
                "can use this model.",
                file=sys.stderr,
            )
        app = make_app(model, worker, loopback_only=private)
        address = url(listening)
        if as_json:
            line = json.dumps(
                {"url": address, "model": model.name, "max_model_len": model.max_positions, "backend": said}
            )
        else:
            line = f"{model.name} at {address} (context {model.max_positions} tokens). {said} Ctrl-C stops."
        Listener(app, listening).run(lambda: print(line, flush=True))
    finally:
        listening.close()


def _load(
    where: Path,
    name: str | None,
    max_active: int,
    backend: str,
    weights: _Weights,
    kv: _Kv | None,
    threads: int | None,
) -> tuple[ServedModel, Worker, str]:
    """What is to be served, the thread that computes it, and a line on what computes."""
    from kweek.cli.chat import find_model
    from kweek.engine.constraints import Vocabulary
    from kweek.engine.open import open_model
    from kweek.serve.model import ServedModel
    from kweek.serve.worker import Worker
    from kweek.system.interceptors import interceptor_of

    path = where if where.is_file() else find_model(where, None)[0]
    opened = open_model(path, backend, weights, kv, threads)
    tokenizer = opened.tokenizer
    tool = interceptor_of(path, tokenizer)
    model = ServedModel(
        name or where.resolve().name.removesuffix(".gguf"),
        tokenizer,
        opened.max_positions,
        Vocabulary.of(tokenizer, opened.vocab_size),
        tool,
    )
    return model, Worker(opened.model, max_active=max_active), opened.said
