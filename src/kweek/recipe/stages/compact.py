"""Stage `compact`: a specialist in 4 bits, calibrated on its own exercises and on general text, as folder and as file.

Records: "tensor" {name, bits, error_rtn, error_gptq}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from kweek.align.domain import Domain, load_domain
from kweek.compress.export import export_gguf
from kweek.compress.prune_text import read_text
from kweek.compress.quantize import Method, quantize_network
from kweek.compress.widths import uniform
from kweek.compute.hardware import Peak
from kweek.data.packing import keyed_generator
from kweek.errors import Interrupted
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.materials import load
from kweek.system.interceptors import say_inline_calculator
from kweek.tokenize.tokenizer import Tokenizer

FILE = "model.gguf"


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {
        "model": Role("the model to compress"),
        "domain": Role("exercises to calibrate on"),
    }

    bits: int = setting(
        4, doc="of every matrix, 2 to 8", reason="llama.cpp has blocks of that, and little is lost"
    )
    embedding_bits: int = setting(
        8,
        doc="of the embedding and a head tied to it, or 16",
        reason="a fifth of a small model, for nothing lost",
    )
    method: Method = setting(
        "gptq", doc="gptq, or an instant one: nearest, nearest_mse, nearest_absmax", reason="loses least"
    )
    calibration_tokens: int = setting(
        12_288, doc="tokens to calibrate on", reason="some minutes of a core at 135M parameters", ge=512
    )
    exercise_share: float = setting(
        0.5, doc="of these tokens, the share that are exercises", reason="half keeps the rest of the language",
        ge=0, le=1,
    )  # fmt: skip
    tune: bool = setting(
        True, doc="after gptq, tune scales and norms", reason="recovers a quarter of what gptq leaves"
    )
    row_length: int = setting(
        256, doc="tokens of a row of calibration text", reason="holds an exercise", ge=32
    )


def estimate(config: Config, machine_peak: Peak, inputs: Mapping[str, Any]) -> Estimate:
    """Reading, and tuning: a teacher's and a pupil's pass with its gradient."""
    base = inputs["model"]
    tokens = config.calibration_tokens if config.method == "gptq" else 0
    flop = 2.2 * base["num_parameters"] * tokens * (1 + 4 * config.tune)
    return Estimate(
        flop, flop / base["flop_per_second"] + 25.0, 12.0 * base["num_parameters"] + 1e9, dict(base)
    )


def run(ctx: StageContext) -> None:
    """Quantise, write folder and file."""
    config: Config = ctx.config
    ctx.records.rewind(lambda record: False)  # a killed attempt starts again: it takes minutes
    network, tokenizer = load(ctx.inputs["model"])

    def progress(done: float, total: float, note: str = "", **values: float) -> None:
        if ctx.should_stop():
            raise Interrupted
        ctx.progress(done, total, note, **values)

    domain = load_domain(ctx.inputs["domain"].path)
    text = calibration(domain, tokenizer, config, ctx.seed)
    made = quantize_network(
        network,
        text if config.method == "gptq" else [],
        config.method,
        widths=uniform(network.config, config.bits, config.embedding_bits),
        row_length=config.row_length,
        tune_rest=config.tune,
        seed=ctx.seed,
        progress=progress,
    )
    ctx.ledger.add("quantize", made.flop, "fp32", tokens=made.num_tokens)
    made.save(ctx.out)
    tokenizer.save(ctx.out)
    if domain.calculator:
        say_inline_calculator(ctx.out)
    for name, error in made.errors.items():
        ctx.records.append(
            "tensor", name=name, bits=config.bits, error_rtn=error.nearest, error_gptq=error.gptq
        )
    exported = export_gguf(ctx.out.directory, ctx.out.path(FILE), "stored", progress)
    ctx.out.metrics.update(
        num_parameters=network.config.num_parameters()["total"],
        num_bytes=exported.num_bytes,
        bits=config.bits,
        embedding_bits=config.embedding_bits,
        lost=exported.errors,
    )


def calibration(domain: Domain, tokenizer: Tokenizer, config: Config, seed: int) -> list[list[int]]:
    """Token ids to calibrate on: whole exercises with their answers, and pieces of Python's documentation."""
    chosen: list[list[int]] = []
    wanted = config.calibration_tokens * config.exercise_share
    if any(one.answer is not None for one in domain.exercises["train"]):
        exercises = domain.segments(tokenizer, "train", config.row_length)
        for number in keyed_generator("calibration", seed, "exercises").permutation(len(exercises)):
            if sum(map(len, chosen)) >= wanted:
                break
            part = exercises[int(number)]
            chosen.append([int(part.ids[0]), *map(int, part.targets)])
    documents = read_text(None, tokenizer, max_eval_bytes=1).training
    for row in documents:  # they come in keyed order
        if sum(map(len, chosen)) >= config.calibration_tokens:
            break
        chosen.append([tokenizer.eos_id, *map(int, row[: config.row_length])])
    return chosen
