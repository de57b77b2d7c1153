"""What the audit found, and the refusal that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kweek.errors import GuardError

#: What was tried: right answers; answers that ignore the question; the right answer with wrong ones beside it; the
#: right answer written otherwise, which is told and never refused; how the verifier behaves as a program.
Group = Literal["right", "ignorant", "hedged", "format", "behaviour"]


@dataclass(frozen=True)
class Finding:
    """One line of the audit.

    Attributes:
        attack: what was tried.
        score: the mean score it earned; of a behaviour the share of judgements concerned, unless `attack` names a unit.
        limit: the bound it had to keep.
        at_least: true when the score must reach the limit, false when it must stay below.
        example: an answer that earned most, or what went wrong.
        group: of attacks.
    """

    attack: str
    score: float
    limit: float
    at_least: bool
    example: str
    group: Group = "ignorant"

    @property
    def passed(self) -> bool:
        """Whether the score keeps its bound."""
        return self.score >= self.limit if self.at_least else self.score <= self.limit


def exploitability(findings: Sequence[Finding]) -> float:
    """The most that an answer earned which ignores the question."""
    return max((finding.score for finding in findings if finding.group == "ignorant"), default=0.0)


def require_sound(findings: Sequence[Finding]) -> None:
    """Refuse to train on a verifier that an attack has fooled.

    Raises:
        GuardError: a finding did not pass; names the first and its numbers.
    """
    # A verifier that raises also scores nothing on gold; the cause is named before its effects.
    failed = sorted((f for f in findings if not f.passed), key=lambda finding: finding.group != "behaviour")
    if not failed:
        return
    first = failed[0]
    bound = f"{'at least' if first.at_least else 'at most'} {first.limit:.2f} is allowed"
    if first.group == "behaviour":
        what = f"the verifier {first.attack}: {first.score:.3g} ({bound}), e.g. {first.example!r}"
    else:
        what = (
            f"the verifier scores {first.score:.2f} on {first.attack!r} ({bound}), "
            f"e.g. on the answer {first.example!r}"
        )
    others = f"; {len(failed) - 1} more findings do not pass" if len(failed) > 1 else ""
    raise GuardError(
        what + others, fix="mend the verifier: whatever it rewards is what training will produce"
    )
