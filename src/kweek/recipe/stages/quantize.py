"""Stage `quantize`: a model in 4 bits, with what that saves and costs beside plain rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from kweek.align.verifier import whole_number
from kweek.compress.comparison import recovered_share
from kweek.compress.quantize import BITS_PER_WEIGHT, HESSIAN_TOKENS, Method, QuantizedModel, quantize_network
from kweek.data import stories
from kweek.data.packing import keyed_generator
from kweek.engine.engine import Engine
from kweek.engine.native import library as native
from kweek.errors import Interrupted
from kweek.evaluate.bits import BitsPerByte, compare, pool
from kweek.evaluate.problems import Asker, attempt
from kweek.model.network import Network
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.derive import MAX_LENGTH
from kweek.recipe.materials import TASKS, load, texts_by_source, validation_texts
from kweek.recipe.pretraining import evaluate_bits
from kweek.store.artifact import Artifact
from kweek.system.calculator import Calculator
from kweek.tokenize.chat import encode_chat
from kweek.tokenize.tokenizer import Tokenizer

WEIGHTS_FILE = "model.safetensors"
TOKENS_PER_CHAT = 80  # a low estimate, so that there are chats enough
TOKENS_PER_ANSWER = 110  # prompt and answer; for estimates only
METHOD_NAMES: Mapping[Method, str] = {
    "gptq": "gptq",
    "nearest": "rtn",
    "nearest_mse": "rtn, searched scales",
    "nearest_absmax": "rtn, absmax",
}


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model to compress"),
        "corpus": Role("documents to calibrate and to compare on"),
    }

    threads: Literal[1, "all"] = setting(
        1, doc="CPU threads: 1 or all", reason="seconds of work on small matrices; other stages use the rest"
    )
    method: Method = setting(
        "gptq",
        doc="gptq compensates errors; instant are nearest (Q4_0 rule), nearest_mse (searched), nearest_absmax",
        reason="recovers three fifths of what rounding to the nearest loses",
    )
    calibration_tokens: int = setting(
        40_960,
        doc="tokens of training documents and chats that gptq adjusts the model on",
        reason="ten seconds at 1.3M parameters; 32,768 to 65,536 tokens differ by a tenth of the share recovered",
        ge=512,
    )
    chat_share: float = setting(
        0.25,
        doc="share of the calibration tokens that are chats",
        reason="chats are easily predicted: at a quarter they recover four fifths, documents three",
        ge=0,
        le=1,
    )
    tune: bool = setting(
        True,
        doc="after gptq, tune scales, norms and embedding until predictions match the original's",
        reason="recovers a quarter of what gptq leaves",
    )
    comparison_bytes: int = setting(
        120_000,
        doc="bytes of validation documents to compare on",
        reason="resolves a tenth of the loss",
        gt=0,
    )
    problems: int = setting(
        200, doc="validation problems to compare accuracy on", reason="shows a loss of several points", ge=20
    )


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Reading, tuning (a teacher's and a pupil's pass with its gradient), and three models compared."""
    base = inputs["model"]
    forward = 2.2 * base["num_parameters"]
    tokens = config.calibration_tokens if config.method == "gptq" else 0
    work = forward * (min(tokens, HESSIAN_TOKENS) + 4 * tokens * config.tune)
    compared = 3 * forward * (0.6 * config.comparison_bytes + config.problems * TOKENS_PER_ANSWER)
    comparing = 0.7 if native.available() else 1.4  # measured, one thread in fp32
    seconds = (work + comparing * compared) / base["flop_per_second"] + 4.0
    return Estimate(work, seconds, 0.8e9, dict(base))


def run(ctx: StageContext) -> None:
    """Quantise, write the folder, then compare it with the original and with plain rounding."""
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)  # a killed attempt starts again: it takes seconds
    network, tokenizer = load(ctx.inputs["model"])

    def progress(done: float, total: float, note: str = "", **values: float) -> None:
        if ctx.should_stop():
            raise Interrupted
        ctx.progress(done, total, note, **values)

    sequences = (
        calibration(ctx.inputs["corpus"], tokenizer, config, ctx.seed) if config.method == "gptq" else []
    )
    ctx.progress(0, 1, "reading calibration text")
    chosen = quantize_network(
        network,
        sequences,
        config.method,
        row_length=MAX_LENGTH,
        tune_rest=config.tune,
        seed=ctx.seed,
        progress=progress,
    )
    ctx.ledger.add("quantize", chosen.flop, "fp32", tokens=chosen.num_tokens)
    chosen.save(ctx.out)
    tokenizer.save(ctx.out)
    for name, error in chosen.errors.items():
        ctx.records.append(
            "tensor", name=name, bits=BITS_PER_WEIGHT, error_rtn=error.nearest, error_gptq=error.gptq
        )
    num_parameters = network.config.num_parameters()["total"]
    num_bytes = (ctx.out.directory / WEIGHTS_FILE).stat().st_size
    bits = _compare(ctx, network, tokenizer, chosen, {"fp32": 4 * num_parameters, "4 bits": num_bytes})
    ctx.out.metrics.update(
        num_bytes=num_bytes,
        num_bytes_fp32=4 * num_parameters,
        num_parameters=num_parameters,
        bits_per_byte=bits,
    )


def calibration(corpus: Artifact, tokenizer: Tokenizer, config: Config, seed: int) -> list[list[int]]:
    """Token ids to calibrate on: a piece each of keyed training documents and task texts, and whole chats."""
    chats: list[list[int]] = []
    num_chat_tokens = int(config.calibration_tokens * config.chat_share) if tokenizer.chat_template else 0
    for messages in stories.sample_chats(
        f"calibration/{seed}", 1 + num_chat_tokens // TOKENS_PER_CHAT, "train"
    ):
        if sum(map(len, chats)) < num_chat_tokens:
            if (
                not tokenizer.template.abilities.reasoning
            ):  # a foreign model's own template may have no place for it
                messages = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages]
            chats.append(encode_chat(tokenizer, messages).token_ids)
    wanted = config.calibration_tokens - sum(map(len, chats))
    sources = texts_by_source(corpus, "train")
    sources[TASKS] = stories.sample_texts(f"calibration/{seed}", wanted // 100 + 1, "train")
    documents: list[list[int]] = []
    for name, texts in sorted(sources.items()):
        generator = keyed_generator("calibration", seed, name)
        left = wanted // len(sources)
        for index in generator.permutation(len(texts)):
            if left <= 0:
                break
            ids = [tokenizer.eos_id, *tokenizer.encode(texts[int(index)])]
            start = int(generator.integers(max(1, len(ids) - MAX_LENGTH)))
            documents.append(ids[start : start + MAX_LENGTH + 1])
            left -= len(documents[-1])
    return chats + documents


@dataclass(frozen=True)
class _Measured:
    """A model on the comparison's text and problems."""

    bits: BitsPerByte
    correct: list[bool]


def _compare(
    ctx: StageContext,
    network: Network,
    tokenizer: Tokenizer,
    chosen: QuantizedModel,
    sizes: Mapping[str, int],
) -> float:
    """Record the original, plain rounding and the chosen method side by side; returns the latter's bits per byte."""
    config: Config = ctx.config
    texts = validation_texts(ctx.inputs["corpus"], config.comparison_bytes)
    items = stories.problems("quantize/validation", config.problems, "validation")
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    networks = {"fp32": network, "rtn": quantize_network(network, method="nearest").network}
    networks[METHOD_NAMES[config.method]] = chosen.network
    found: dict[str, _Measured] = {}
    for number, (name, candidate) in enumerate(networks.items()):
        if ctx.should_stop():
            raise Interrupted
        ctx.progress(number, len(networks), f"measuring {name}")
        by_source = evaluate_bits(candidate, tokenizer, texts)
        answers = attempt(Engine(candidate), asker, items)
        found[name] = _Measured(
            pool([bits for source, bits in by_source.items() if source != TASKS]),
            [o[0].correct for o in answers],
        )
        row: dict[str, Any] = {"bytes": sizes["fp32" if name == "fp32" else "4 bits"]}
        if name != "fp32":
            cost = compare(found[name].bits, found["fp32"].bits)
            row |= {"difference": cost.difference, "difference_lo": cost.lo, "difference_hi": cost.hi}
        if name == "gptq":
            share = recovered_share(*(found[key].bits for key in ("fp32", "rtn", "gptq")))
            row |= {"recovered": share.mid, "recovered_lo": share.lo, "recovered_hi": share.hi}
        interval, correct = found[name].bits.interval, found[name].correct
        ctx.records.append(
            "comparison", method=name, bits_per_byte=interval.mid, lo=interval.lo, hi=interval.hi,
            accuracy=sum(correct) / len(correct), n=len(correct), **row,
        )  # fmt: skip
    return found[METHOD_NAMES[config.method]].bits.value
