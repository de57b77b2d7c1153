"""The usual measures of a panel: text by source, tasks of earlier stages, and whether confidence means anything."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from kweek.align.environment import Environment, Item
from kweek.align.guards.panel import Measure
from kweek.align.rollout import Group
from kweek.align.sampling import Drawing, sample
from kweek.evaluate.bits import bits_per_byte
from kweek.model.network import Network
from kweek.protocols import LanguageModel
from kweek.stats.calibration import brier
from kweek.tokenize.tokenizer import Tokenizer

BITS = 0.05  # bits per byte: a fortieth of what a small model needs, and twice what a stage with replay costs
SOLVED = 0.05  # share of the items: what a reader of answers would notice
TRUST = 0.05  # of the Brier score, which is 0.25 for confidences that say nothing
TEXT_OF, SOLVED_IN = (
    "bits per byte, ",
    "solved, ",
)  # begin the names of measures, a source or an environment follows
SAMPLES = 8  # votes per item: a confidence in eighths


def text_measures(
    network: Network,
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    *,
    context_length: int,
    tolerance: float = BITS,
) -> list[Measure]:
    """Bits per byte of held-out documents, one measure per source.

    Args:
        texts: by source; empty ones are left out.
        context_length: tokens that are read at once.
        tolerance: bits per byte that may be lost.
    """

    def reader(source: str, documents: Sequence[str]) -> Callable[[], Sequence[float]]:
        def read() -> list[float]:
            found = bits_per_byte(network, tokenizer, {source: documents}, context_length=context_length)[
                source
            ]
            return [float(value) for value in found.document_bits / found.document_bytes]

        return read

    full = {source: [text for text in group if text] for source, group in texts.items()}
    return [
        Measure(
            f"{TEXT_OF}{source}", reader(source, documents), "lower", tolerance,
            tuple(float(len(text.encode())) for text in documents), _key(context_length, *documents),
        )
        for source, documents in full.items() if documents
    ]  # fmt: skip


def task_measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    tolerance: float = SOLVED,
) -> Measure:
    """Greedy scores on held-out items of an earlier stage's task."""

    def read() -> list[float]:
        return [
            group[0].score.value for group in sample(model, tokenizer, environment, items, samples=1, key="")
        ]

    return Measure(f"{SOLVED_IN}{environment.name}", read, "higher", tolerance, key=_asked(items))


def trust_measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    environment: Environment,
    items: Sequence[Item],
    *,
    samples: int = SAMPLES,
    tolerance: float = TRUST,
) -> Measure:
    """Calibration: Brier's score of the share of samples that agree on the most frequent answer.

    How often a model agrees with itself is its confidence (Wang et al. 2023, arXiv 2203.11171, section 3.5); whether
    that answer is right, the judge says.
    """

    def read() -> list[float]:
        groups = sample(model, tokenizer, environment, items, samples=samples, key="trust", drawing=Drawing())
        votes = [agreement(group) for group in groups]
        return [float(v) for v in brier([share for share, _ in votes], [right for _, right in votes])]

    key = _key(samples, _asked(items))
    return Measure(f"calibration, {environment.name}", read, "lower", tolerance, key=key)


def _asked(items: Sequence[Item]) -> str:
    return _key(*(part for item in items for part in (item.id, item.gold)))


def _key(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def agreement(group: Group) -> tuple[float, float]:
    """Share of the attempts that give the most frequent answer, the first among equals, and 1 if it is right."""
    said = [str(rollout.messages[-1].get("content")) for rollout in group]
    answer, count = Counter(said).most_common(1)[0]
    return count / len(group), float(group[said.index(answer)].score.value == 1.0)
