"""The fifteen complaints as faults in the product: a plugin of pytest that plants one of them, to see a test fail.

    pytest -p planted_faults ...          with PLANTED_FAULT=3 in the environment

A fault is put in before any test is imported, as a careless change would have put it in.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any


def put(module: str, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a name of a module, or a method of one of its classes, by what `make` makes of it."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, last, make(getattr(owner, last)))


def always(result: Callable[..., Any]) -> Callable[[Any], Any]:
    """Makes a function that does not look at what was there."""
    return lambda before: result


def no_loss() -> None:
    """1: nothing that the model wrote is in the loss."""
    put("kweek.tokenize.chat", "Chat.loss_mask", always(property(lambda chat: [False] * len(chat.turns))))


def packing_leaks() -> None:
    """2: rows are causal, and that is all."""
    put(
        "kweek.data.batches", "collate",
        lambda collate: lambda *args, **options: replace(collate(*args, **options), mask_B1TT=None),
    )  # fmt: skip


def prompts_are_sampled() -> None:
    """3: what the prompt holds counts as sampled."""

    def begin(before: Callable[..., Any]) -> Callable[..., Any]:
        def begun(*args: Any) -> Any:
            attempt = before(*args)
            attempt.sampled = [True] * len(attempt.sampled)
            return attempt

        return begun

    put("kweek.align.sampling", "_begin", begin)


def masked_tokens_count() -> None:
    """4: the divisor counts all tokens, prompts and results of tools among them."""

    def all_tokens(before: Callable[..., Any]) -> Callable[..., Any]:
        def counted(lessons: Any, normaliser: str, limit: int, num_answers: float) -> Any:
            import numpy as np

            if normaliser == "tokens":
                return [np.float32(sum(len(one.rollout.token_ids) for one in lessons))] * len(lessons)
            return before(lessons, normaliser, limit, num_answers)

        return counted

    put("kweek.align.lessons", "divisors", all_tokens)


def failures_are_zero() -> None:
    """5: a judge that fails has given a 0."""

    def silent(before: Callable[..., Any]) -> Callable[..., Any]:
        return lambda attempt: replace(before(attempt), error=None)

    put("kweek.align.sampling", "_judged", silent)


def nobody_compares() -> None:
    """6: engine and trainer may say what they like."""
    put("kweek.align.measures", "require_agreement", always(lambda gap: None))


def nobody_watches() -> None:
    """7: the guard against collapse sleeps."""
    from kweek.align.guards.guard import Verdict

    put("kweek.align.guards.collapse", "CollapseGuard.after", always(lambda guard, step: Verdict()))


def any_sign_will_do() -> None:
    """8: the guard of the sign sleeps."""
    from kweek.align.guards.guard import Verdict

    put("kweek.align.guards.sign", "SignGuard.before", always(lambda guard: Verdict()))
    put("kweek.align.guards.sign", "SignGuard.after", always(lambda guard, step: Verdict()))


def detectors_stop() -> None:
    """9: whatever is only a symptom ends the run."""

    def stopping(before: Callable[..., Any]) -> Callable[..., Any]:
        def after(guard: Any, step: Any) -> Any:
            verdict = before(guard, step)
            return replace(verdict, kind="stop") if verdict.kind == "warn" else verdict

        return after

    put("kweek.align.guards.hacking", "HackingGuard.after", stopping)


def heavy_dependency() -> None:
    """10: the core asks for compiled attention."""

    def heavier(before: Callable[..., Any]) -> Callable[..., Any]:
        def loads(text: str, **options: Any) -> Any:
            found = before(text, **options)
            if "project" in found:
                found["project"].setdefault("dependencies", []).append("flash-attn==2.8.3")
            return found

        return loads

    put("tomllib", "loads", heavier)


def generation_hangs() -> None:
    """11: the engine never answers."""
    put(
        "kweek.engine.engine", "Engine.generate",
        always(lambda engine, *args, **options: time.sleep(86_400)),
    )  # fmt: skip


def tokenizers_are_alike() -> None:
    """12: as many tokens is near enough."""
    put("kweek.tokenize.agreement", "check_same_tokenizer", always(lambda teacher, pupil: None))
    put("kweek.tokenize.agreement", "ids_fingerprint", always(lambda tokenizer: "alike"))


def displacement_is_silent() -> None:
    """13: chosen answers may fall."""
    from kweek.align.guards.guard import Verdict

    put("kweek.align.displacement", "Displacement.after", always(lambda guard, step: Verdict()))


def nothing_is_lost() -> None:
    """14: the panel passes whatever it reads."""

    def passing(before: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: [replace(change, verdict="ok") for change in before(*args)]

    put("kweek.align.guards.panel", "Panel.compare", passing)


def a_name_is_gone() -> None:
    """15: what the guide imports is called otherwise."""
    module = importlib.import_module("kweek.align.collecting")
    module.Collecting = module.Course  # type: ignore[attr-defined]
    del module.Course


FAULTS: dict[int, Callable[[], None]] = dict(
    enumerate(
        (
            no_loss, packing_leaks, prompts_are_sampled, masked_tokens_count, failures_are_zero, nobody_compares,
            nobody_watches, any_sign_will_do, detectors_stop, heavy_dependency, generation_hangs, tokenizers_are_alike,
            displacement_is_silent, nothing_is_lost, a_name_is_gone,
        ),
        start=1,
    )
)  # fmt: skip


def pytest_configure(config: Any) -> None:
    """Plant the fault of the number in the environment, if there is one."""
    if number := os.environ.get("PLANTED_FAULT"):
        FAULTS[int(number)]()
