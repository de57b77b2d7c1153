"""The records of what a stage changed: what is counted adds up, and nothing is said twice."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.align.answers import Answer
from kweek.recipe.changes import (
    COLUMNS,
    FEW,
    columns,
    record_answers,
    record_distribution,
    record_groups,
    record_tax,
)
from kweek.stats.paired import paired_difference
from kweek.store.records import Records


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "stage.jsonl")


def read(records, kind):
    return [record for record in Records.read(records.path) if record["kind"] == kind]


def answers(rewards, text):
    return [Answer(f"prompt {n}", f"{text} {n}", reward, 5 + n) for n, reward in enumerate(rewards)]


def test_answers_before_and_after(records):
    before, after = answers([0, 0, 1, 1, 0, 1], "old"), answers([1, 1, 1, 0, 0, 1], "new")
    record_answers(records, before, after, "six prompts")
    (change,) = read(records, "change")
    assert (change["n"], change["up"], change["down"], change["of"]) == (6, 2, 1, "six prompts")
    expected = paired_difference([1, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 1])
    assert change["reward"]["difference"] == pytest.approx(1 / 6)
    assert (change["reward"]["lo"], change["reward"]["hi"]) == (expected.lo, expected.hi)
    assert change["length"]["before"] == change["length"]["after"] == 7.5
    shown = read(records, "beside")
    assert [row["prompt"] for row in shown][:3] == ["prompt 0", "prompt 1", "prompt 3"]
    assert len(shown) == 6  # all say something else now
    assert [side["name"] for side in shown[0]["sides"]] == ["before", "after"]
    assert shown[2]["sides"][0]["reward"] > shown[2]["sides"][1]["reward"]
    spreads = {row["quantity"]: row for row in read(records, "distribution")}
    assert spreads["reward"]["ticks"] == [0, 1]
    assert [group["counts"] for group in spreads["reward"]["series"]] == [[3, 3], [2, 4]]
    assert spreads["length"]["unit"] == "tokens" and not spreads["length"]["ticks"]


@settings(max_examples=200)
@given(st.lists(st.one_of(st.integers(-50, 500), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
def test_every_value_falls_into_one_column(values):
    edges, ticks = columns([float(v) for v in values])
    assert all(a < b for a, b in itertools.pairwise(edges))
    counts = np.histogram(values, bins=edges)[0]
    assert counts.sum() == len(values)
    assert len(edges) - 1 <= max(COLUMNS, FEW)
    if ticks:
        assert ticks == sorted(set(map(float, values)))
        assert [sum(v == tick for v in values) for tick in ticks] == counts.tolist()


def test_whole_numbers_keep_whole_columns():
    edges, ticks = columns([float(n) for n in range(10, 97)])
    assert not ticks
    widths = {b - a for a, b in itertools.pairwise(edges)}
    assert len(widths) == 1 and widths.pop() == 5.0
    assert edges[0] == 9.5 and edges[-1] > 96


def test_groups_without_values_are_left_out(records):
    record_distribution(records, "reward", {"before": [], "after": [1.0, 2.0]})
    record_distribution(records, "reward", {"before": []})
    (only,) = read(records, "distribution")
    assert [group["name"] for group in only["series"]] == ["after"]


def test_the_groups_of_both_ends_of_a_run(records):
    record_groups(records)
    for step in range(1, 9):
        records.append("update", step=step, group_rewards=[step / 8, step / 8])
    record_groups(records)
    (found,) = read(records, "distribution")
    assert [(g["name"], g["n"]) for g in found["series"]] == [("updates 1 to 3", 6), ("updates 6 to 8", 6)]
    assert found["series"][0]["mean"] == pytest.approx(2 / 8)


def test_what_was_lost_is_positive_whichever_way_is_up(records):
    record_tax(records, "solved", [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], unit="share", model="b")
    sizes = [100.0, 300.0]
    record_tax(
        records, "text", [2.0, 2.0], [2.4, 2.0], unit="bits per byte", lower_is_better=True, weights=sizes
    )
    solved, text = read(records, "tax")
    assert solved["lost"] == 0.25 and solved["model"] == "b" and solved["before"] == 0.75
    assert text["lost"] == pytest.approx(0.1) and text["after"] == pytest.approx(2.1)
    assert text["lo"] < text["lost"] < text["hi"] and not math.isnan(text["p_value"])
