"""Speed and energy of language models, side by side: the same prompts in turn, medians over rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kweek.compute.energy import WATTS_PER_BUSY_CORE, EnergyMeter
from kweek.protocols import LanguageModel, Request

ROUNDS = 5  # the median then survives two that something else disturbed
PROMPT_TOKENS = 192  # a page; and with the new tokens within the context of the smallest models
NEW_TOKENS = 48  # enough that the first, which the prompt pays for, counts for little
_SHORT = 8  # tokens of the prompt before decoding


@dataclass(frozen=True)
class Pace:
    """Of one sequence at a time.

    Attributes:
        prefill, decode: tokens per second.
        joules_per_token: of decoding.
        joules_source: "measured" by the processor's counter, or "estimated" from CPU time at a stated power.
    """

    prefill: float
    decode: float
    joules_per_token: float
    joules_source: Literal["measured", "estimated"]


class _Round(NamedTuple):
    prefill_seconds: float
    decode_seconds: float
    joules: float
    estimated: bool


def paces(
    models: Mapping[str, LanguageModel], prompts: Sequence[Sequence[int]], rounds: int = ROUNDS
) -> dict[str, Pace]:
    """Measure every model on the same prompts, taking turns, so that a slow moment of the machine hits all.

    Args:
        models: by name.
        prompts: token ids, at least `PROMPT_TOKENS` each; a round takes the next.
        rounds: of which the median counts; one more goes before, unmeasured, to wake caches and compilers.
    """
    seen: dict[str, list[_Round]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        prompt = prompts[turn % len(prompts)]
        for name, model in models.items():
            # A tenant of its own shares no prefix with earlier rounds, which would make prompts free.
            tenant = f"pace/{name}/{turn}"
            started = time.perf_counter()
            model.generate([Request(prompt[:PROMPT_TOKENS], 1, tenant=tenant)])
            prefill = time.perf_counter() - started
            joules, estimated, seconds = _decode(model, prompt, f"{tenant}/decode")
            if turn:
                seen[name].append(_Round(prefill, seconds, joules, estimated))
    return {name: _median(found) for name, found in seen.items()}


def _decode(model: LanguageModel, prompt: Sequence[int], tenant: str) -> tuple[float, bool, float]:
    """Joules, whether they are estimated, and seconds of `NEW_TOKENS` after a short prompt."""
    meter, started, cpu = EnergyMeter(), time.perf_counter(), time.process_time()
    model.generate([Request(prompt[:_SHORT], NEW_TOKENS, tenant=tenant)])
    spent, seconds = time.process_time() - cpu, time.perf_counter() - started
    joules = meter.joules(spent)
    return spent * WATTS_PER_BUSY_CORE if joules is None else joules, joules is None, seconds


def _median(found: Sequence[_Round]) -> Pace:
    return Pace(
        PROMPT_TOKENS / statistics.median(row.prefill_seconds for row in found),
        NEW_TOKENS / statistics.median(row.decode_seconds for row in found),
        statistics.median(row.joules for row in found) / NEW_TOKENS,
        "estimated" if any(row.estimated for row in found) else "measured",
    )
