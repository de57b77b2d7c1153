"""The stage `reasoning` and its rule: what is called elicited, what is called learnt, and what is not claimed."""

import numpy as np
import pytest
import small_stage
from pydantic import ValidationError

from kweek.recipe.origin import Scores, origin
from kweek.recipe.stages.reasoning import Config

N, K = 200, 16


def scores(once, often, forced=None):
    """Figures of N tasks that spread a little around these means."""
    draw = np.random.default_rng([round(1000 * once), round(1000 * often)])

    def spread(mean):
        return np.clip(mean + 0.05 * draw.standard_normal(N), 0, 1).tolist()

    return Scores(spread(once), spread(often), spread(once if forced is None else forced))


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (scores(0.4, 0.8), scores(0.4, 0.8), "no gain shown"),
        (scores(0.4, 0.8), scores(0.3, 0.9), "no gain shown"),
        (scores(0.4, 0.8), scores(0.7, 0.8), "elicited"),  # sharper, not further
        (scores(0.4, 0.8), scores(0.7, 0.7), "elicited"),
        (scores(0.4, 0.6, forced=0.75), scores(0.7, 0.8), "elicited"),  # it only had to think
        (scores(0.4, 0.6), scores(0.7, 0.8), "learnt"),
        (scores(0.4, 0.6, forced=0.1), scores(0.5, 0.7), "learnt"),  # forcing does harm: plain answers are compared
        (scores(0.4, 0.6, forced=0.6), scores(0.7, 0.8), "learnt"),
    ],
)  # fmt: skip
def test_the_rule(before, after, word):
    found = origin(before, after, K)
    assert found.word == word
    assert word in found.text and f"{100 * found.gain.difference:+.1f} points" in found.text


@pytest.mark.parametrize(
    "keys", [{}, {"arms": {"a": ["base"]}}, {"arms": {"a": ["x", "y"]}, "sampled": 50, "problems": 40}]
)
def test_settings_that_cannot_be_meant(keys):
    with pytest.raises(ValidationError):
        Config(**keys)


def test_every_model_is_measured_and_every_stage_judged(tmp_path):
    models = {
        name: small_stage.model(tmp_path / name, seed) for seed, name in enumerate(("base", "one", "two"))
    }
    made, records = small_stage.run(
        "reasoning", tmp_path / "run", models, arms={"a": ("base", "one", "two"), "b": ("base", "two")},
        options={"calculator": False, "levels": [1, 2], "max_new_tokens": 8}, problems=12, sampled=10, samples=4,
        budgets=(0, 2),
    )  # fmt: skip
    kinds = {}
    for record in records:
        kinds.setdefault(record["kind"], []).append(record)
    assert {r["model"] for r in kinds["passed"]} == set(models) and {r["k"] for r in kinds["passed"]} == {
        1,
        2,
        4,
    }
    assert [(r["arm"], r["before"], r["after"], r["whole"]) for r in kinds["origin"]] == [
        ("a", "base", "one", False), ("a", "one", "two", False), ("a", "base", "two", True),
        ("b", "base", "two", False),
    ]  # fmt: skip
    assert {(r["model"], r["tokens"]) for r in kinds["budget"]} == {
        (m, b) for m in models for b in (0, 2, None)
    }
    assert {r["level"] for r in kinds["thinking"]} == {"all", "1", "2"}
    assert set(made.metrics["tasks"]) == set(models) and set(made.metrics["origins"]) == {"a", "b"}
    assert all(r["n"] == 10 for r in kinds["forced"])
