"""Verifiers, and the audit that every verifier passes before it may train anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kweek.align.audit.audit import audit_items
from kweek.align.audit.bench import SECONDS
from kweek.align.audit.finding import Finding, require_sound
from kweek.align.environment import Item
from kweek.align.verifiers.function import FunctionVerifier
from kweek.protocols import Progress, Score, silent

__all__ = ["Finding", "audit", "require_sound", "whole_number"]

NUMBER = re.compile(r"-?\d{1,12}")


def whole_number(answer: str, gold: str) -> Score:
    """1 when the answer is exactly the gold whole number and nothing else; parsed when it is a number at all."""
    if NUMBER.fullmatch(gold.strip()) is None:
        return Score(0.0, parsed=False, error=f"the gold answer {gold[:40]!r} is no whole number")
    text = answer.strip()
    if NUMBER.fullmatch(text) is None:
        return Score(0.0, parsed=False)
    return Score(1.0 if int(text) == int(gold) else 0.0, parsed=True)


def audit(
    verifier: Callable[[str, str], Any],
    questions: Sequence[str],
    golds: Sequence[str],
    *,
    references: Sequence[str] | None = None,
    limits: Mapping[str, float] | None = None,
    seconds: float = SECONDS,
    progress: Progress = silent,
) -> list[Finding]:
    """Try to fool a verifier on real items: gold must pass, everything that ignores the question must not.

    Args:
        verifier: any function `(answer, gold)` to a truth, a number or a Score.
        questions: what is asked.
        golds: what the verifier is given to judge by.
        references: right answers, where the golds are not such themselves (schemas, tests, expressions).
        limits: other bounds than the stated ones, by the name of a finding.
        seconds: of one judgement; then it hangs.
        progress: told what is tried.

    Raises:
        DataError: fewer than ten items.
        ConfigError: a limit for something that is not tried.
    """
    # What protects training from a function would here only stand between it and the audit.
    function = verifier.function if isinstance(verifier, FunctionVerifier) else verifier
    data = [{} for _ in golds] if references is None else [{"reference": text} for text in references]
    items = [
        Item(({"role": "user", "content": text},), gold, data=extra)
        for text, gold, extra in zip(questions, golds, data, strict=True)
    ]
    return audit_items(
        lambda item, answer: function(str(answer), item.gold),
        items,
        limits=limits,
        seconds=seconds,
        progress=progress,
    )
