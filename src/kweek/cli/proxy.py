"""What `kweek serve --upstream` does: check the compression, then stand in front of someone else's model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kweek.errors import ConfigError, KweekError

if TYPE_CHECKING:
    from kweek.compute.money import Prices
    from kweek.engine.endpoint.client import EndpointClient
    from kweek.serve.savings import Saving
    from kweek.system.compression.compressor import Compressor
    from kweek.system.compression.fidelity import Fidelity


Method = Literal["extract", "perplexity"]
TOLERANCE = 0.03  # three points, what Kweek's own claim of compression allows

UpstreamOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Stand in front of this API instead, with its version: https://host/v1."
    ),
]
RatioOption = Annotated[
    float | None, typer.Option(metavar="RATIO", help="Send on so many times fewer tokens of a chat.")
]
MethodOption = Annotated[
    Method,
    typer.Option(help="How: extract keeps whole sentences; perplexity also drops words that MODEL foresees."),
]
ExamplesOption = Annotated[
    Path | None,
    typer.Option(help="Chats with right answers: asked whole and compressed before anything is served."),
]
ToleranceOption = Annotated[
    float,
    typer.Option(help="Loss of accuracy that may not be ruled out on them; above it nothing is served."),
]
MeasuredOption = Annotated[
    Path | None, typer.Option(help="Where that measurement is kept, so that it is made once.")
]
JudgeOption = Annotated[
    str, typer.Option(help="Verifier of the examples' answers: text, number, choice, ...")
]
UnmeasuredOption = Annotated[
    bool, typer.Option("--unmeasured", help="Compress although nobody knows what it does to the answers.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(help="Environment variable with the key for the API; the client's own is sent if left out."),
]
PriceOption = Annotated[
    float | None, typer.Option(help="Price of a million tokens read there; without it no money is counted.")
]
KwhOption = Annotated[float | None, typer.Option(help="Price of a kilowatt-hour here; 0.30 if left out.")]


@dataclass(frozen=True)
class ProxyOptions:
    """The options of `kweek serve` that concern a proxy; see there."""

    upstream: str
    compress: float | None
    method: Method
    examples: Path | None
    tolerance: float
    measured: Path | None
    judge: str
    unmeasured: bool
    model_name: str | None
    key_env: str | None
    price: float | None
    kwh: float | None


def serve_upstream(options: ProxyOptions, model: Path | None, host: str, port: int, as_json: bool) -> None:
    """Listen until Ctrl-C.

    Raises:
        KweekError: an option is missing, the compression is not proven, the address is not this machine's own.
    """
    if options.compress is None:
        raise ConfigError("there is nothing to do on the way", where="--upstream", fix="add --compress 4")
    if options.examples is None and not options.unmeasured:
        raise ConfigError(
            "what compression does to the answers has not been measured",
            where="--compress",
            fix="give --examples FILE with some hundred of your own questions and answers, or say --unmeasured",
        )
    if options.key_env is not None and not os.environ.get(options.key_env):
        raise ConfigError(f"the variable {options.key_env} is not set", where="--key-env", fix="set it")
    from kweek.serve.guard import is_loopback
    from kweek.serve.listener import Listener, bind, url
    from kweek.serve.proxy import make_proxy
    from kweek.serve.upstream import Upstream

    key = os.environ[options.key_env] if options.key_env else None
    upstream = Upstream(options.upstream, key)
    listening = bind(host, port)
    try:
        if not is_loopback(listening.getsockname()[0]):
            raise ConfigError(
                "a proxy answers on this machine only", where="--host", fix="leave it out, or use 127.0.0.1"
            )
        compressor = _compressor(options, model)
        fidelity = _proven(options, compressor, key)
        app = make_proxy(upstream, compressor, _prices(options), fidelity, _log(as_json))
        line = _greeting(options, url(listening), fidelity, as_json)
        Listener(app, listening).run(lambda: print(line, flush=True))
    finally:
        listening.close()


def _compressor(options: ProxyOptions, model: Path | None) -> Compressor:
    from kweek.system.compression.compressor import Compressor, Settings

    assert options.compress is not None
    settings = Settings(options.compress, options.method)
    if model is None:
        if options.method == "perplexity":
            raise ConfigError(
                "it needs a small model", where="--by perplexity", fix="name one: kweek serve MODEL"
            )
        return Compressor(settings)
    from kweek.cli.chat import find_model

    path = model if model.is_file() else find_model(model, None)[0]
    if options.method == "extract" and path.is_dir():
        from kweek.tokenize.tokenizer import Tokenizer

        return Compressor(settings, Tokenizer.load(path))
    from kweek.engine.open import open_model

    opened = open_model(path)
    return Compressor(settings, opened.tokenizer, opened.model, max_positions=opened.max_positions)


def _proven(options: ProxyOptions, compressor: Compressor, key: str | None) -> Fidelity | None:
    """What was measured on the examples; None where there are none."""
    if options.examples is None:
        return None
    from kweek.align.verifiers.named import named
    from kweek.engine.endpoint.client import EndpointClient
    from kweek.serve.proven import Proof, prove

    client = EndpointClient(options.upstream, api_key=key)
    try:
        name = options.model_name or _only(client)
        proof = Proof(options.examples, options.measured, name, options.judge)

        def progress(done: float, total: float, note: str = "", **values: float) -> None:
            if note:
                print(f"{note} ({name})", file=sys.stderr)

        return prove(proof, compressor, client, named(options.judge), options.tolerance, progress)
    finally:
        client.close()


def _only(client: EndpointClient) -> str:
    from kweek.engine.endpoint.model import only_model

    try:
        return only_model(client)
    except KweekError as error:
        raise KweekError(error.what, where=error.where, fix="name the model with --name") from error


def _prices(options: ProxyOptions) -> Prices:
    from kweek.compute.money import Prices

    kwh = Prices().kwh if options.kwh is None else options.kwh
    return Prices(kwh, million_read=options.price, million_written=None if options.price is None else 0.0)


def _log(as_json: bool) -> Callable[[Saving, int], None]:
    """A line for every chat."""

    def log(saving: Saving, status: int) -> None:
        if as_json:
            print(json.dumps(saving.to_dict() | {"status": status}), flush=True)
            return
        about = "" if saving.counted else "about "
        tokens = f"{about}{saving.tokens_before} to {saving.tokens_after} tokens"
        money = "" if saving.money is None else f", saved {saving.money:.6f}"
        why = f" ({saving.reason})" if saving.reason else ""
        print(f"{status} {saving.method}{why}: {tokens} in {saving.seconds:.3f} s{money}", flush=True)

    return log


def _greeting(options: ProxyOptions, address: str, fidelity: Fidelity | None, as_json: bool) -> str:
    if as_json:
        measured = None if fidelity is None else fidelity.to_dict()
        return json.dumps(
            {"url": address, "upstream": options.upstream, "ratio": options.compress, "fidelity": measured}
        )
    if fidelity is None:
        known = "What that does to the answers is not known."
    else:
        change = fidelity.change
        known = (
            f"On {fidelity.n} examples, {fidelity.ratio:.1f} times fewer tokens changed accuracy by "
            f"{100 * change.difference:+.1f} points ({100 * change.lo:+.1f} to {100 * change.hi:+.1f})."
        )
    return (
        f"{options.upstream} at {address}, chats compressed {options.compress:g} times. {known} Ctrl-C stops."
    )
