"""Chains of reasoning with an error at a random step: solutions of `kweek.data.stories`, one step per line.

Three kinds of error, each as likely: a result that is wrong, a number that the story does not say, an operation that it
does not tell. The chain goes on from the wrong value, so that only the first wrong step can be told from the story.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kweek.align.process import Chain
from kweek.data import stories
from kweek.data.packing import keyed_generator
from kweek.data.stories import MAX_VALUE, Problem, Split
from kweek.tokenize.tokenizer import Tokenizer

KINDS = ("result", "number", "operation")
SLIPS = (1, 2, 3, 5, 7, 9, 10, 11, 20, 30, 100)  # by how much a result is wrong
LEVELS = (2, 3, 4)  # one step would leave nothing to locate
Step = tuple[int, str, int, int]


@dataclass(frozen=True)
class Told:
    """A chain, where its question ends, and what is wrong with it ("" where nothing is)."""

    chain: Chain
    num_question: int
    error: str
    level: int


def _compute(left: int, sign: str, right: int) -> int:
    return left + right if sign == "+" else left - right if sign == "-" else left * right


def corrupted(item: Problem, draw: random.Random) -> tuple[list[Step], int, str] | None:
    """The steps with an error, where it is, and its kind; None where the numbers leave no room for it."""
    right = [(step.left, step.sign, step.right, step.value) for step in item.steps]
    place, kind = draw.randrange(len(right)), draw.choice(KINDS)
    for _ in range(20):
        left, sign, operand, value = right[place]
        if kind == "result":
            value += draw.choice((-1, 1)) * draw.choice(SLIPS)
        else:
            if kind == "number":
                operand = draw.randint(2, 9) if sign == "*" else draw.randint(1, 60)
            else:
                sign = draw.choice("+-*")
            value = _compute(left, sign, operand)
        steps = [*right[:place], (left, sign, operand, value)]
        for _, later_sign, later_operand, _ in right[place + 1 :]:
            before = steps[-1][3]
            steps.append((before, later_sign, later_operand, _compute(before, later_sign, later_operand)))
        if steps[place] != right[place] and all(0 <= step[3] <= MAX_VALUE for step in steps):
            return steps, place, kind
    return None


def told(words: Tokenizer, key: str, number: int, split: Split, share_faulty: float) -> Told:
    """One chain as a pure function of key and number; its split follows from the question's text."""
    draw = random.Random(int(keyed_generator("chain", key, number).integers(2**62)))
    attempt = 0
    while True:
        item = stories.problem(f"{key}/{attempt}", number, levels=LEVELS)
        attempt += 1
        if item.split == split:
            break
    steps = [(step.left, step.sign, step.right, step.value) for step in item.steps]
    place, kind = None, ""
    if draw.random() < share_faulty and (wrong := corrupted(item, draw)) is not None:
        steps, place, kind = wrong
    ids = [words.eos_id, *words.encode(item.question + "\n")]
    num_question, ends = len(ids), []
    for left, sign, right, value in steps:
        ids += words.encode(f"{left}{sign}{right}={value}\n")
        ends.append(len(ids) - 1)
    return Told(Chain(ids, ends, place), num_question, kind, item.level)


def many(words: Tokenizer, key: str, count: int, split: Split, share_faulty: float) -> Sequence[Told]:
    """The first `count` under a key."""
    return [told(words, key, number, split, share_faulty) for number in range(count)]
