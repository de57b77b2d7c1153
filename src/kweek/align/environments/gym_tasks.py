"""Tasks of reasoning-gym that a model of one to ten million parameters can be taught, at sizes that suit it.

The suite's own defaults are too hard at this size, its answer formats differ from task to task, and its default scorer
pays for a right answer among wrong ones: here every task has one format, which the prompt states, and one of Kweek's
verifiers.

Not here, though small enough: what a constant earns too much of (gcd a third, letter_counting half, count_bits a
sixth to a fifth, syllogism three quarters); caesar_cipher, whose few short sentences recur under other rotations on
both sides of a split; family_relationships, some of whose answers are those to the question turned round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kweek.align.verifier import whole_number
from kweek.align.verifiers.numbers import Number
from kweek.align.verifiers.text import Text
from kweek.protocols import Verifier

_EXACT = Text(normalise=False)


@dataclass(frozen=True)
class GymTask:
    """How a task of the suite is asked and judged.

    Attributes:
        settings: of its generator.
        form: the sentence that states the format of the answer.
        verifier: judges against the suite's answer.
        kept: use one generator for all items, because making one takes long; only where making it draws nothing.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    form: str = "Answer with the number alone."
    verifier: Verifier = whole_number
    kept: bool = False


TASKS: dict[str, GymTask] = {
    "chain_sum": GymTask({"max_terms": 3, "max_digits": 2}),
    "basic_arithmetic": GymTask(
        {"max_terms": 3, "max_digits": 2, "operators": ["+", "-", "*"], "allow_parentheses": False,
         "allow_negation": False}
    ),
    "products": GymTask({"max_digits": 2}),
    "lcm": GymTask({"min_value": 2, "max_value": 30}),
    "count_primes": GymTask({"max_n": 200}),
    "number_sequence": GymTask({"max_terms": 6, "min_value": -10, "max_value": 20, "max_complexity": 2}),
    "simple_equations": GymTask(
        {"max_terms": 2, "max_value": 30, "operators": ["+", "-"], "operators_weights": [0.5, 0.5]}
    ),
    "spell_backward": GymTask({"max_word_len": 6}, "Answer with the word alone.", Text(), kept=True),
    "leg_counting": GymTask({"min_animals": 1, "max_animals": 3, "max_instances": 9}),
    "decimal_chain_sum": GymTask({"max_terms": 3, "max_digits": 2, "max_decimal_places": 2}, verifier=Number()),
    "fraction_simplification": GymTask(
        {"max_value": 20, "max_factor": 9, "styles": ["plain"]}, "Answer with the fraction alone, like 3/4.", _EXACT
    ),
    "base_conversion": GymTask({"max_base": 10, "max_value": 200}, "Answer with the digits alone.", _EXACT),
    "prime_factorization": GymTask({}, "Answer with the factors alone, smallest first.", _EXACT),
    "time_intervals": GymTask(
        {"task_types": ["date"], "max_date_difference_days": 60}, "Answer with the number of days alone.", Number()
    ),
    "aiw": GymTask({"max_entities": 12}),
}  # fmt: skip
