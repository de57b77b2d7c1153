"""A model folder in few bits, with a table of what that saved and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kweek.compress.fidelity import Reference
from kweek.compress.finish import ROWS_PER_BATCH, finish
from kweek.compress.order import METHODS, Dealt, Order, deal
from kweek.compress.pace import NEW_TOKENS, PROMPT_TOKENS, paces
from kweek.compress.quantize import QuantizedModel, calibration_batches, quantize_network
from kweek.compute.ledger import Ledger
from kweek.engine.engine import Engine
from kweek.engine.native.pack import WeightFormat
from kweek.evaluate.bits import BitsPerByte, bits_per_byte, compare, pool
from kweek.model.network import Network
from kweek.model.tensors import SINGLE_FILE
from kweek.protocols import LanguageModel, Progress, silent
from kweek.stats.paired import paired_difference
from kweek.store.artifact import ArtifactWriter, fingerprint
from kweek.tokenize.tokenizer import Tokenizer

#: Arithmetic that a command may spend on tuning, and on comparing: some minutes of a core each.
TUNING_FLOP, COMPARING_FLOP = 2e13, 1e13
#: Tokens to calibrate on where that is not the limit, and the least that make sense; as the stage has them.
MAX_TOKENS, MIN_TOKENS = 40_960, 4_096
#: Bytes of held-out text to compare on, likewise.
MAX_BYTES, MIN_BYTES = 120_000, 20_000
_BYTES_PER_TOKEN = 3.5  # a low estimate for vocabularies of some thousand words and more
_CODE = "1"  # raised when the same order would give another folder
ORIGINAL, QUANTIZED = "original", "quantized"


@dataclass(frozen=True)
class Material:
    """Text for one quantisation.

    Attributes:
        calibration: token ids of documents and chats.
        finishing: likewise, as many more as finishing reads; empty without it.
        held_out: texts by source, which the model is measured on.
        about: which text that is, in words.
        mark: fingerprint of it.
        ask: answers the model's own tasks with a language model, right or wrong one by one; None where it has none.
    """

    calibration: list[list[int]]
    held_out: Mapping[str, list[str]]
    about: str
    mark: str
    ask: Callable[[LanguageModel], list[bool]] | None = None
    finishing: Sequence[list[int]] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        rows: a row of the table for the original and for the result, as plain data (see `_row`).
        dealt: bits of every tensor and why.
        metrics: what the artifact says of itself.
    """

    rows: list[dict[str, Any]]
    dealt: Dealt
    metrics: dict[str, Any] = field(default_factory=dict)


def tokens_for(network: Network, row_length: int) -> int:
    """Tokens to calibrate on: fewer for large networks, so that tuning stays within `TUNING_FLOP`."""
    allowed = TUNING_FLOP / (4 * network.config.num_flops_per_token(row_length))
    return int(min(MAX_TOKENS, max(MIN_TOKENS, allowed)))


def finishing_tokens(num_steps: int, row_length: int) -> int:
    """Tokens that so many steps of finishing read once."""
    return num_steps * ROWS_PER_BATCH * row_length


def bytes_for(network: Network, row_length: int) -> int:
    """Bytes of text to compare on, likewise: two networks read it twice each."""
    allowed = _BYTES_PER_TOKEN * COMPARING_FLOP / (4 * network.config.num_flops_per_token(row_length))
    return int(min(MAX_BYTES, max(MIN_BYTES, allowed)))


def quantize_folder(
    network: Network,
    tokenizer: Tokenizer,
    material: Material,
    order: Order,
    out: Path,
    *,
    origin: Mapping[str, str],
    row_length: int = 256,
    progress: Progress = silent,
) -> Outcome:
    """Quantise a network, write its folder, compare it with the original.

    Args:
        network: the original, fp32.
        tokenizer: of the network, stored beside it.
        material: what to calibrate and to compare on.
        order: what is asked for.
        out: the folder to write.
        origin: what the model was made from, by name, with its fingerprint.
        row_length: tokens of a row, no more than the network was trained for.
        progress: counts pieces of work within each phase, which its note names.

    Raises:
        ConfigError: an order that cannot be met.
        DataError: no text where it is needed.
        StoreError: `out` holds something else, or the disk refuses.
    """
    ledger = Ledger()
    mark = fingerprint("quantize", {"order": vars(order), "text": material.mark}, dict(origin), _CODE)
    with ArtifactWriter(out, kind="quantize", fingerprint=mark, lineage=dict(origin)) as writer:
        with ledger.time():
            dealt = deal(network, order, material.calibration, row_length, progress)
            made = _quantize(network, material, order, dealt, row_length, progress)
        ledger.add("quantize", made.flop, "fp32", tokens=made.num_tokens)
        made.save(writer)
        tokenizer.save(writer)
        sizes = {
            ORIGINAL: 4 * network.config.num_parameters()["total"],
            QUANTIZED: writer.path(SINGLE_FILE).stat().st_size,
        }
        rows = _rows(network, made, tokenizer, material, sizes, row_length, progress)
        metrics = {
            "num_bytes": sizes[QUANTIZED],
            "num_bytes_fp32": sizes[ORIGINAL],
            "num_parameters": network.config.num_parameters()["total"],
            "bits_per_byte": rows[1]["bits_per_byte"][0],
            "rows": rows,
            "text": material.about,
            "widths": dealt.widths,
            "checked": dealt.checked,
        }
        writer.metrics.update(metrics)
        writer.ledger.update(ledger.to_dict())
    return Outcome(rows, dealt, metrics)


def _quantize(
    network: Network, material: Material, order: Order, dealt: Dealt, row_length: int, progress: Progress
) -> QuantizedModel:
    made = quantize_network(
        network,
        material.calibration,
        METHODS[order.method],
        widths=dealt.widths,
        row_length=row_length,
        tune_rest=order.tune,
        seed=order.seed,
        progress=progress,
    )
    if not order.finish_steps:
        return made
    batches = calibration_batches(material.finishing, row_length, order.seed, ROWS_PER_BATCH)
    return finish(network, made, batches, order.finish_steps, progress)


def weight_format(made: QuantizedModel) -> WeightFormat:
    """How the engine may hold the matrices without losing what was chosen: 4 bits if none has more, else 8."""
    most = max((tensor.num_bits for tensor in made.tensors.values()), default=16)
    return "q4" if most <= 4 else "q8"


def _rows(
    network: Network,
    made: QuantizedModel,
    tokenizer: Tokenizer,
    material: Material,
    sizes: Mapping[str, int],
    row_length: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The table: original and result side by side, as plain data.

    `bits_per_byte` and `accuracy` are [value, low, high]; so are the paired differences to the original,
    `bits_lost` and `accuracy_change`; `divergence` (nats per token) and `agreement` likewise.
    """
    progress(0, 4, "comparing: bits per byte")
    bits: dict[str, BitsPerByte] = {}
    networks = {ORIGINAL: network, QUANTIZED: made.network}
    for name, candidate in networks.items():
        found = bits_per_byte(candidate, tokenizer, material.held_out, context_length=row_length)
        bits[name] = pool(list(found.values()))
    progress(1, 4, "comparing: predictions")
    texts = [text for group in material.held_out.values() for text in group]
    sequences = [[tokenizer.eos_id, *ids] for ids in tokenizer.encode_batch(texts)]
    near = Reference(network, calibration_batches(sequences, row_length, 0)).fidelity(made.network)
    correct: dict[str, list[bool]] = {}
    if material.ask is not None:
        progress(2, 4, "comparing: tasks")
        correct = {name: material.ask(Engine(candidate)) for name, candidate in networks.items()}
    progress(3, 4, "comparing: speed")
    form = weight_format(made)
    engines: dict[str, LanguageModel] = {
        ORIGINAL: Engine(network),
        QUANTIZED: Engine(made.network, weights=form),
    }
    speed = paces(engines, _prompts(sequences, network.config.max_positions))
    rows = []
    for name in networks:
        row: dict[str, Any] = {
            "name": name,
            "num_bytes": sizes[name],
            "bits_per_byte": list(bits[name].interval),
            "engine": "f32" if name == ORIGINAL else form,
            "speed": vars(speed[name]),
        }
        if correct:
            row["accuracy"], row["problems"] = sum(correct[name]) / len(correct[name]), len(correct[name])
        if name == QUANTIZED:
            row["bits_lost"] = list(compare(bits[name], bits[ORIGINAL])[:3])
            row["divergence"], row["agreement"] = list(near.divergence), list(near.agreement)
            if correct:
                right, was = (list(map(float, correct[key])) for key in (QUANTIZED, ORIGINAL))
                row["accuracy_change"] = list(paired_difference(right, was)[:3])
        rows.append(row)
    return rows


def _prompts(sequences: Sequence[Sequence[int]], max_positions: int) -> list[list[int]]:
    """Pieces of the text to measure speed on, a handful, as long as the network allows."""
    stream = [token for ids in sequences for token in ids]
    size = min(PROMPT_TOKENS, max_positions - NEW_TOKENS)
    while len(stream) < 2 * size:
        stream += stream
    step = max(1, (len(stream) - size) // 6)
    return [stream[start : start + size] for start in range(0, len(stream) - size, step)][:6]
