"""Calibration: known values, and what proper means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.stats.calibration import brier, calibration_error


def test_known_values():
    assert brier([1.0, 0.5, 0.0], [1, 1, 1]).tolist() == [0.0, 0.25, 1.0]
    assert calibration_error([0.75] * 4, [1, 1, 1, 0]) == 0.0
    assert calibration_error([1.0, 1.0, 0.15, 0.15], [1, 0, 0, 0]) == pytest.approx(0.5 * 0.5 + 0.5 * 0.15)


def test_the_last_bin_holds_certainty():
    assert calibration_error([1.0], [1]) == 0.0


@given(st.floats(0.01, 0.99), st.floats(0, 1))
def test_the_best_confidence_is_the_true_one(truth, said):
    """Brier's score is proper: its expectation is least where the confidence is the probability."""

    def expected(confidence):
        right, wrong = brier([confidence] * 2, [1, 0])
        return truth * right + (1 - truth) * wrong

    assert expected(truth) <= expected(said) + 1e-12


@pytest.mark.parametrize(("said", "true"), [([], []), ([0.5], [1, 0]), ([1.5], [1]), ([-0.1], [0])])
def test_what_is_no_confidence_is_refused(said, true):
    for function in (brier, calibration_error):
        with pytest.raises(ValueError, match="confidence"):
            function(said, true)


@given(st.integers(0, 2**32 - 1))
def test_a_calibrated_model_is_found_so(seed):
    draw = np.random.default_rng(seed)
    said = draw.random(4000)
    assert calibration_error(said, draw.random(4000) < said) < 0.06
