"""Advantages by hand and by their identities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.advantages import generalised, group_mean, group_scaled, leave_one_out, whitened

REWARDS = st.lists(st.floats(-5, 5), min_size=2, max_size=12)


@given(REWARDS)
def test_group_advantages_sum_to_zero_and_agree_with_one_another(rewards):
    mean = np.array(group_mean(rewards))
    assert mean.sum() == pytest.approx(0, abs=1e-9)
    n = len(rewards)
    assert np.array(leave_one_out(rewards)) == pytest.approx(mean * n / (n - 1), abs=1e-9)
    assert np.array(group_scaled(rewards)) == pytest.approx(mean / (np.std(rewards, ddof=1) + 1e-4), abs=1e-9)


@pytest.mark.parametrize("function", [group_mean, group_scaled, leave_one_out])
def test_equal_rewards_and_single_answers_carry_no_signal(function):
    assert not any(function([0.3, 0.3, 0.3]))
    assert not any(function([0.7]))


def test_leave_one_out_compares_with_the_others_alone():
    assert leave_one_out([1.0, 0.0, 0.5]) == pytest.approx([0.75, -0.75, 0.0])


def test_whitening_is_over_all_answers_together():
    parts = whitened([np.array([1.0, 2.0]), np.array([3.0]), np.array([6.0])])
    together = np.concatenate(parts)
    assert [len(part) for part in parts] == [2, 1, 1]
    assert together.mean() == pytest.approx(0, abs=1e-9) and together.std() == pytest.approx(1, rel=1e-3)


def test_generalised_advantages_by_hand():
    gained, returned = generalised(np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.2, 0.4]), 0.9, 0.5)
    deltas = [0.9 * 0.2 - 0.5, 0.9 * 0.4 - 0.2, 1 - 0.4]
    expected = [deltas[0] + 0.45 * (deltas[1] + 0.45 * deltas[2]), deltas[1] + 0.45 * deltas[2], deltas[2]]
    assert gained == pytest.approx(expected)
    assert returned == pytest.approx(np.array(expected) + np.array([0.5, 0.2, 0.4]))


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=9))
def test_without_discount_the_return_is_what_is_still_earned(pairs):
    rewards, values = (np.array(column) for column in zip(*pairs, strict=True))
    gained, returned = generalised(rewards, values, 1.0, 1.0)
    to_come = np.cumsum(rewards[::-1])[::-1]
    assert returned == pytest.approx(to_come, abs=1e-9)
    assert gained == pytest.approx(to_come - values, abs=1e-9)
    one_step, _ = generalised(rewards, values, 1.0, 0.0)
    assert one_step == pytest.approx(rewards + np.append(values[1:], 0) - values, abs=1e-9)
