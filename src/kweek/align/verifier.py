"""Verifiers, and the audit that every verifier passes before it may train anything.

A verifier that can be fooled will be fooled: in the field's most used suite of verifiable tasks, any string
satisfied one verifier and a constant scored 0.95 under another. The audit tries the cheap ways first.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.errors import GuardError
from kweek.protocols import Score, Verifier

MAX_EXPLOITABILITY = 0.2  # the most that an answer which ignores the question may score on average
NUMBER = re.compile(r"-?\d{1,12}")


def whole_number(answer: str, gold: str) -> Score:
    """1 when the answer is exactly the gold whole number and nothing else; parsed when it is a number at all."""
    text = answer.strip()
    if NUMBER.fullmatch(text) is None:
        return Score(0.0, parsed=False)
    return Score(1.0 if int(text) == int(gold) else 0.0, parsed=True)


@dataclass(frozen=True)
class Finding:
    """One attack of the audit: its mean score, the limit it had to keep, and whether it did."""

    attack: str
    score: float
    limit: float
    at_least: bool  # true when the score must reach the limit, false when it must stay below
    example: str

    @property
    def passed(self) -> bool:
        return self.score >= self.limit if self.at_least else self.score <= self.limit


Attack = Callable[[str, str], str]  # (question, gold) -> an answer


def attacks(golds: Sequence[str]) -> list[tuple[str, Attack, float, bool]]:
    """Name, answer, limit, and whether the limit is a floor (gold) or a ceiling (everything else)."""
    constant, _ = Counter(golds).most_common(1)[0]
    shotgun = " ".join(str(n) for n in range(1000))
    return [
        ("gold", lambda q, g: g, 1.0, True),
        ("gold between blanks", lambda q, g: f"  {g}\n", 1.0, True),
        ("best constant", lambda q, g: constant, MAX_EXPLOITABILITY, False),
        ("empty", lambda q, g: "", 0.0, False),
        ("the question itself", lambda q, g: q, 0.0, False),
        ("every number in turn", lambda q, g: shotgun, 0.0, False),
        ("gold among others", lambda q, g: f"{int(g) + 1} {g} {int(g) - 1}", 0.0, False),
        ("gold and an afterthought", lambda q, g: f"{g} or perhaps {int(g) + 1}", 0.0, False),
        ("off by one", lambda q, g: str(int(g) + 1), 0.0, False),
        ("first digits only", lambda q, g: g[:-1], 0.0, False),
        ("malformed markup", lambda q, g: f"<result>{g}", 0.0, False),
        ("words", lambda q, g: "the answer is what you expect", 0.0, False),
        ("very long", lambda q, g: g * 10_000, 0.0, False),
        ("control characters", lambda q, g: f"\x00{g}\ufffd", 0.0, False),
    ]


def audit(verifier: Verifier, questions: Sequence[str], golds: Sequence[str]) -> list[Finding]:
    """Try to fool a verifier on real items: gold must pass, everything that ignores the question must not.

    Raises:
        GuardError: the verifier raised, judged the same answer twice differently, or took over 50 ms for one.
    """
    findings = []
    for name, answer_for, limit, at_least in attacks(golds):
        answers = [answer_for(question, gold) for question, gold in zip(questions, golds, strict=True)]
        values = [_judge(verifier, answer, gold, name) for answer, gold in zip(answers, golds, strict=True)]
        findings.append(Finding(name, sum(values) / len(values), limit, at_least, answers[0][:60]))
    return findings


def require_sound(findings: Sequence[Finding]) -> None:
    """Refuse to train on a verifier that an attack has fooled."""
    if failed := [finding for finding in findings if not finding.passed]:
        first = failed[0]
        bound = "at least" if first.at_least else "at most"
        raise GuardError(
            f"the verifier scores {first.score:.2f} on {first.attack!r} ({bound} {first.limit:.2f} is allowed), "
            f"e.g. on the answer {first.example!r}",
            fix="mend the verifier: whatever it rewards is what training will produce",
        )


def _judge(verifier: Verifier, answer: str, gold: str, attack: str) -> float:
    started = time.perf_counter()
    try:
        first, second = verifier(answer, gold), verifier(answer, gold)
    except Exception as error:
        raise GuardError(
            f"the verifier raised {type(error).__name__} on {attack!r}: {error}",
            fix="let it return Score(0.0, parsed=False, error=...) instead",
        ) from error
    if first != second:
        raise GuardError(
            f"the verifier judged one answer twice differently ({attack!r})", fix="make it deterministic"
        )
    if time.perf_counter() - started > 0.1:
        raise GuardError(
            f"the verifier took over 50 ms on {attack!r}", fix="bound its work by the answer's length"
        )
    if not 0.0 <= first.value <= 1.0:
        raise GuardError(f"the verifier gave {first.value}, outside 0 to 1", fix="scale its value")
    return first.value
