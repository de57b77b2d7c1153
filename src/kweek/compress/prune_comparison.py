"""Before and after pruning: size, bits per byte, and how near the predictions are to the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kweek.compress.fidelity import Reference
from kweek.data.batches import Batch, collate, segment
from kweek.errors import Interrupted
from kweek.evaluate.bits import BitsPerByte, bits_per_byte, compare
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.stats.intervals import Interval
from kweek.tokenize.tokenizer import Tokenizer

_SOURCE = "text"
_ROWS_PER_BATCH = 8


@dataclass(frozen=True)
class Row:
    """A model in the comparison.

    Attributes:
        name: of the model.
        num_parameters: of the network.
        num_bytes: of its values as they are stored.
        flop_per_token: to read a token of a full row.
        bits_per_byte: on the held-out documents, with its 95% interval.
        difference: paired, to the first model's bits per byte, with its interval; None for the first.
        divergence: KL from the first model's predictions, nats per token, likewise.
        same_choice: share of tokens whose likeliest successor is the first model's, likewise.
    """

    name: str
    num_parameters: int
    num_bytes: int
    flop_per_token: float
    bits_per_byte: Interval
    difference: Interval | None = None
    divergence: Interval | None = None
    same_choice: Interval | None = None


def compare_networks(
    networks: Mapping[str, Network],
    num_bytes: Mapping[str, int],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    row_length: int,
    *,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> list[Row]:
    """Measure networks of one tokenizer on the same documents; all are compared with the first.

    Args:
        num_bytes: of each network as stored, by name.
        texts: held-out documents.
        row_length: tokens of context.

    Raises:
        Interrupted: asked to stop.
    """
    rows: list[Row] = []
    first: BitsPerByte | None = None
    reference: Reference | None = None
    for name, network in networks.items():
        if should_stop():
            raise Interrupted
        progress(len(rows), len(networks), f"measuring the {name} model")
        bits = bits_per_byte(network, tokenizer, {_SOURCE: texts}, context_length=row_length)[_SOURCE]
        cost = network.config.num_flops_per_token(row_length)
        size = network.config.num_parameters()["total"]
        row = Row(name, size, num_bytes[name], cost, bits.interval)
        if first is None or reference is None:
            first, reference = bits, Reference(network, _rows(tokenizer, texts, row_length))
        else:
            near = reference.fidelity(network)
            row = replace(
                row,
                difference=_difference(bits, first),
                divergence=near.divergence,
                same_choice=near.agreement,
            )
        rows.append(row)
    return rows


def _difference(bits: BitsPerByte, first: BitsPerByte) -> Interval | None:
    """Bits per byte above the first model's, with its interval; a single document has none."""
    if len(bits.document_bits) < 2:
        return None
    found = compare(bits, first)
    return Interval(found.difference, found.lo, found.hi)


def _rows(tokenizer: Tokenizer, texts: Sequence[str], row_length: int) -> list[Batch]:
    """Documents as rows of at most `row_length` predictions, a batch for rows of like length."""
    pieces = [
        segment(ids[start : start + row_length + 1])
        for ids in ([tokenizer.eos_id, *row] for row in tokenizer.encode_batch(texts))
        for start in range(0, len(ids) - 1, row_length)
    ]
    pieces.sort(key=len)
    return [
        collate([[piece] for piece in pieces[at : at + _ROWS_PER_BATCH]])
        for at in range(0, len(pieces), _ROWS_PER_BATCH)
    ]
