"""What compression costs in answers: measured on examples of the user's own, and refused above a tolerated loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.errors import ConfigError, DataError, GuardError
from kweek.protocols import Message, Progress, Verifier, silent
from kweek.stats.intervals import Interval, wilson
from kweek.stats.paired import Paired, paired_difference
from kweek.system.compression.chat import CompressedChat, compress_chat
from kweek.system.compression.compressor import Compressor
from kweek.system.compression.report import Compressed

TOLERANCE = 0.03  # three points: what Kweek's own claim of compression allows
Ask = Callable[[Sequence[Sequence[Message]]], Sequence[str]]
"""The answers of the model that reads, one to each chat."""


@dataclass(frozen=True)
class Example:
    """A chat of the user's own, and the right answer to it."""

    messages: Sequence[Message]
    gold: str


@dataclass(frozen=True)
class Fidelity:
    """Answers after compression beside those before, on the same examples.

    Attributes:
        fingerprint: of the settings that were measured.
        accuracy_before, accuracy_after: shares of right answers.
        change: accuracy after less accuracy before, with its 95% interval.
        agreement: share of answers that stayed the same to the verifier: each judged with the other as the right one.
        ratio: tokens of all chats before over those after.
        protected: by kind, how many were kept, and how many there were.
        flop: of compressing; nan where nobody knows.
        compressed: how many of the examples were compressed at all.
    """

    fingerprint: str
    n: int
    accuracy_before: Interval
    accuracy_after: Interval
    change: Paired
    agreement: Interval
    ratio: float
    protected: Mapping[str, tuple[int, int]]
    flop: float
    compressed: int

    def require(self, compressor: Compressor, tolerance: float = TOLERANCE) -> None:
        """Raises:
        GuardError: these are other settings than were measured, or the loss may be larger than is tolerated: the lower
            end of its interval counts.
        """
        if self.fingerprint != compressor.settings.fingerprint():
            raise GuardError("the settings are not those that were measured", fix="measure them")
        if self.change.lo >= -tolerance:
            return
        loss = f"{-100 * self.change.lo:.1f} points"
        if least_examples(tolerance) > self.n:
            raise GuardError(
                f"with {self.n} examples a loss of up to {loss} cannot be ruled out, tolerated are "
                f"{100 * tolerance:g}",
                fix=f"give at least {least_examples(tolerance)} examples, or tolerate more",
            )
        raise GuardError(
            f"compressing {self.ratio:.1f} times changes accuracy by {100 * self.change.difference:+.1f} points, and a "
            f"loss of {loss} cannot be ruled out ({self.n} examples); tolerated are {100 * tolerance:g}",
            fix="compress less, or tolerate more",
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; unknown FLOP are None, never 0."""
        return {
            "fingerprint": self.fingerprint,
            "n": self.n,
            "compressed": self.compressed,
            "accuracy_before": list(self.accuracy_before),
            "accuracy_after": list(self.accuracy_after),
            "change": self.change._asdict(),
            "agreement": list(self.agreement),
            "ratio": self.ratio,
            "protected": {kind: list(pair) for kind, pair in self.protected.items()},
            "flop": None if math.isnan(self.flop) else self.flop,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fidelity:
        """What `to_dict` described. Raises DataError where it is not that."""
        try:
            flop = data["flop"]
            return cls(
                str(data["fingerprint"]), int(data["n"]), Interval(*data["accuracy_before"]),
                Interval(*data["accuracy_after"]), Paired(**data["change"]), Interval(*data["agreement"]),
                float(data["ratio"]), {kind: (pair[0], pair[1]) for kind, pair in data["protected"].items()},
                math.nan if flop is None else float(flop), int(data["compressed"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"this is no measurement of compression ({error!r})", fix="measure anew"
            ) from None


def measure(
    compressor: Compressor,
    ask: Ask,
    verify: Verifier,
    examples: Sequence[Example],
    progress: Progress = silent,
) -> Fidelity:
    """Ask every example as it is and compressed.

    Raises:
        DataError: fewer than two examples.
        KweekError: the compressor's or the asked model failed.
    """
    if len(examples) < 2:
        raise DataError("fidelity is measured on two examples at least", fix="give more")
    done = [compress_chat(compressor, example.messages) for example in examples]
    progress(0, 2, "asking the whole")
    before = ask([example.messages for example in examples])
    progress(1, 2, "asking what is left")
    after = ask([chat.messages for chat in done])
    progress(2, 2)
    return compared(compressor, verify, [example.gold for example in examples], done, before, after)


def compared(
    compressor: Compressor,
    verify: Verifier,
    golds: Sequence[str],
    done: Sequence[CompressedChat],
    before: Sequence[str],
    after: Sequence[str],
) -> Fidelity:
    """The measurement that answers make."""
    right_before = [
        float(verify(answer, gold).value == 1) for answer, gold in zip(before, golds, strict=True)
    ]
    right_after = [float(verify(answer, gold).value == 1) for answer, gold in zip(after, golds, strict=True)]
    n = len(golds)
    same = sum(old == new or verify(new, old).value == 1 for old, new in zip(before, after, strict=True))
    tokens = [sum(chat.num_tokens_before for chat in done), sum(chat.num_tokens_after for chat in done)]
    return Fidelity(
        compressor.settings.fingerprint(),
        n,
        wilson(round(sum(right_before)), n),
        wilson(round(sum(right_after)), n),
        paired_difference(right_after, right_before),
        wilson(same, n),
        tokens[0] / max(1, tokens[1]),
        together([chat.context for chat in done]),
        math.fsum(chat.context.flop for chat in done),
        sum(chat.context.method is not None for chat in done),
    )


def together(uses: Sequence[Compressed]) -> dict[str, tuple[int, int]]:
    """Protected spans of several uses, by kind: kept, and there."""
    total: dict[str, tuple[int, int]] = {}
    for use in uses:
        for kind, (kept, there) in use.protected.items():
            before = total.get(kind, (0, 0))
            total[kind] = (before[0] + kept, before[1] + there)
    return total


def least_examples(tolerance: float) -> int:
    """How many examples rule out such a loss at 95% when no answer changes at all, by the interval of
    `paired_difference`: its half-width is then z sqrt(2) / (n + 2).

    Raises:
        ConfigError: a tolerance that no number of examples can show.
    """
    if not 0 < tolerance <= 1:
        raise ConfigError(
            f"{tolerance:g} is no tolerance", where="tolerance", fix="give a share above 0, as 0.03"
        )
    return max(2, math.ceil(1.959964 * math.sqrt(2) / tolerance - 2))


def with_fidelity(use: Compressed, fidelity: Fidelity | None) -> dict[str, Any]:
    """The report of one use: its own figures, and what the settings were measured to do to answers."""
    return use.to_dict() | {"fidelity": None if fidelity is None else fidelity.to_dict()}
