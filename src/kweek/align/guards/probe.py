"""Named probes of a run that has no rewards: looked at now and then, and one beyond its limit halts the run.

A probe is any function of the model as it is now. The built-in ones see a loss that comes apart, a language that goes
round in circles, and a text that is known by heart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kweek.align.guards.detectors import repeated
from kweek.errors import GuardError
from kweek.evaluate.bits import bits_per_byte, pool
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Request
from kweek.stats.intervals import Numbers
from kweek.tokenize.tokenizer import Tokenizer

SAMPLE = 48  # tokens of one sample: a circle shows within some ten
OTHERS = 63  # texts that a canary is held against: mean and spread are then known to an eighth


@dataclass(frozen=True)
class Probe:
    """Something that must not rise.

    Attributes:
        name: for records and messages.
        measure: of the model as it is now.
        limit: a value above it halts the run.
        rise: whether the limit is on the rise above the lowest value so far, and not on the value itself.
    """

    name: str
    measure: Callable[[], float]
    limit: float
    rise: bool = False


class Probes:
    """Several probes of one run.

    Args:
        probes: with names of their own.
        lowest: lowest value of each so far, for a run that goes on.
    """

    def __init__(self, probes: Sequence[Probe], lowest: Mapping[str, float] | None = None) -> None:
        self.probes = probes
        self.lowest = dict(lowest or {})

    def look(self, step: int, tell: Callable[[Probe, float], None]) -> None:
        """Measure all, tell every value, and then judge.

        Raises:
            GuardError: a value is above its limit, or no number.
        """
        wrong = []
        for probe in self.probes:
            value = probe.measure()
            tell(probe, value)
            self.lowest[probe.name] = min(value, self.lowest.get(probe.name, math.inf))
            over = value - (self.lowest[probe.name] if probe.rise else 0.0)
            if not over <= probe.limit:
                rose = f"rose by {over:.3g} to {value:.3g}" if probe.rise else f"is {value:.3g}"
                wrong.append(f"the probe {probe.name!r} {rose} at step {step}, limit {probe.limit:.3g}")
        if wrong:
            raise GuardError(
                "; ".join(wrong),
                fix="look at the data and the learning rate, or raise the limit of the probe",
            )


def loss_probe(
    network: Network,
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    *,
    context_length: int,
    limit: float,
) -> Probe:
    """Bits per byte of held-out documents, which should only ever fall."""

    def measure() -> float:
        found = bits_per_byte(network, tokenizer, texts, context_length=context_length)
        return pool(list(found.values())).value

    return Probe("loss", measure, limit, rise=True)


def repetition_probe(
    model: Callable[[], LanguageModel], prompts: Sequence[Sequence[int]], *, limit: float
) -> Probe:
    """Share of runs of four tokens that were said before, in samples at temperature 1.

    Greedy answers of a healthy small model go round in circles too; samples do not.

    Args:
        model: over the network as it is now.
        prompts: token ids, one sample for each.
    """

    def measure() -> float:
        requests = [Request(ids, SAMPLE, 1.0, seed) for seed, ids in enumerate(prompts)]
        said = [done.token_ids for done in model().generate(requests)]
        return sum(repeated(ids) for ids in said) / len(said)

    return Probe("repetition", measure, limit)


def memory_probe(
    model: Callable[[], LanguageModel],
    tokenizer: Tokenizer,
    canary: str,
    *,
    limit: float,
    name: str = "memory",
) -> Probe:
    """How much likelier a secret text is than the same with other digits and letters, in standard deviations of these.

    A text that was never read is one among them; one that is known by heart stands far out (Carlini et al. 2019,
    arXiv 1802.08232, whose exposure is the rank; the distance tells more with fewer texts).

    Args:
        canary: with some digits or letters in it, say "my number is 281-06-9017".

    Raises:
        GuardError: at the first look, for a canary that has no digits or letters to change.
    """

    def measure() -> float:
        others = alternatives(canary, OTHERS)
        start = tokenizer.eos_id
        scored = model().score([[start, *tokenizer.encode(text)] for text in (canary, *others)])
        return distance([sum(logprobs) for logprobs in scored])

    return Probe(name, measure, limit)


def alternatives(canary: str, count: int) -> list[str]:
    """The same text with every digit drawn anew; one without digits has its letters drawn anew."""
    draw = random.Random(canary)  # noqa: S311 - the same ones at every look; nothing is kept secret by them
    digits = any(c.isdigit() for c in canary)
    if not digits and not any(c.isalpha() for c in canary):
        raise GuardError(
            f"the canary {canary!r} has nothing in it that could be otherwise", fix="give it some digits"
        )

    def other(character: str) -> str:
        if character.isdigit():
            return draw.choice("0123456789")
        return draw.choice("abcdefghijklmnopqrstuvwxyz") if character.isalpha() and not digits else character

    return ["".join(map(other, canary)) for _ in range(count)]


def distance(values: Numbers) -> float:
    """Of the first value above the mean of the others, in their standard deviations."""
    first, *others = (float(value) for value in values)
    middle = sum(others) / len(others)
    spread = math.sqrt(sum((value - middle) ** 2 for value in others) / (len(others) - 1))
    return (first - middle) / spread if spread else 0.0
