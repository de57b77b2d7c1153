"""What made-up stages of alignment changed and what their guards saw, written by the functions that real ones use."""

from __future__ import annotations

import math
import random

from kweek.align.answers import Answer
from kweek.align.distance import Moved
from kweek.recipe.changes import record_answers, record_divergence, record_groups, record_tax
from kweek.store.records import Records

NUM = 64  # held-out prompts
UPDATES = 50


def _answers(rng: random.Random, share: float, lengths: tuple[int, int]) -> list[Answer]:
    found = []
    for number in range(NUM):
        a, b = 10 + number, 3 + number % 7
        right = random.Random(f"{number} {share}").random() < share
        said = a + b if right else a + b + rng.randint(1, 9)
        call = f"<tool>{a}+{b}<result>{a + b}</result>" if share > 0.5 else f"{a} and {b} "
        question = f"Sam has {a} coins. He finds {b} more. How many coins does Sam have now?"
        length = rng.randint(*lengths)
        found.append(Answer(question, f"<think>{call}</think>{said}", float(right), length, str(a + b)))
    return found


def taught(records: Records, rng: random.Random) -> None:
    """Of a stage `sft`."""
    before, after = _answers(rng, 0.05, (60, 96)), _answers(rng, 0.24, (20, 40))
    record_answers(records, before, after, f"{NUM} held-out problems, greedy")
    record_divergence(records, 256, Moved(41.3, 37.9, 44.7, 48))
    record_tax(records, "unseen wording", [0.0, 1.0, 1.0, 0.0] * 20, [1.0, 1.0, 0.0, 0.0] * 20, unit="share")
    _guard(records, "panel", 60, {"bits per byte, docstrings": 0.012, "solved, stories": -0.03})
    _panel(records)


def reinforced(records: Records, rng: random.Random) -> None:
    """Of a stage `reinforce`."""
    record_groups(records)
    before, after = _answers(rng, 0.3, (20, 40)), _answers(rng, 0.75, (30, 60))
    record_answers(records, before, after, f"{NUM} held-out problems, greedy")
    for step in (1, 10, 20, 30, 40, 50):
        mean = 9 * (1 - math.exp(-step / 20))
        record_divergence(records, step, Moved(mean, mean - 0.5, mean + 0.5, 96))
        gold = 0.24 + 0.6 * step / UPDATES
        floor = {"gold": gold - 0.15} if step >= 20 else None  # known from the third look on
        _guard(records, "hacking", step, {"proxy": gold, "gold": gold - 0.02 + rng.random() * 0.01}, floor)
    for step in range(5, UPDATES + 1, 5):
        limits = {"entropy": 0.06, "gradient": 9.0}
        entropy = 0.3 * math.exp(-step / 30) + 0.08
        _guard(records, "collapse", step, {"entropy": entropy, "gradient": 0.4 + rng.random()}, limits)
    words = "entropy fell from 0.31 to 0.05 nats"
    _guard(records, "collapse", UPDATES, {"entropy": 0.05}, kind="warn", text=words)


def probed(records: Records) -> None:
    """Of a stage `pretrain`."""
    for step in (1000, 2000, 3000, 4000):
        records.append("probe", step=step, name="duplicates", value=0.1 + step / 1e5, limit=0.5)


def lost(records: Records, rng: random.Random) -> None:
    """Of an evaluation: what each stage cost of the one before it."""
    sizes = [400.0 + 10 * number for number in range(40)]
    for before, after in (("base", "sft"), ("sft", "rl"), ("rl", "quantized")):
        was = [1.9 + rng.gauss(0, 0.1) for _ in sizes]
        now = [value + rng.gauss(0.01, 0.02) for value in was]
        names = {"model": after, "before_model": before}
        record_tax(
            records, "docstrings", was, now, unit="bits per byte", lower_is_better=True, weights=sizes, **names
        )  # fmt: skip
        solved = [[float(rng.random() < share) for _ in range(200)] for share in (0.3, 0.6)]
        record_tax(records, "held_out", solved[0], solved[1], unit="share", **names)


def _guard(
    records: Records,
    name: str,
    step: int,
    figures: dict[str, float],
    limits: dict[str, float] | None = None,
    *,
    kind: str = "ok",
    text: str = "",
) -> None:
    more = {"limits": limits} if limits else {}
    records.append("guard", name=name, step=step, verdict=kind, text=text, figures=figures, **more)


def _panel(records: Records) -> None:
    for name, before, after, tolerance, verdict in (
        ("bits per byte, docstrings", 1.957, 1.969, 0.2, "ok"),
        ("solved, stories", 0.9, 0.7, 0.05, "fail"),
        ("calibration, stories", 0.11, 0.19, None, "ok"),
    ):
        change = after - before if name.startswith(("bits", "calibration")) else before - after
        records.append(
            "panel", name=name, before=before, after=after, lost=change, lo=change - 0.02, hi=change + 0.02,
            tolerance=tolerance, n=96, verdict=verdict,
        )  # fmt: skip
