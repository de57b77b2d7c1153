"""The search for the smallest model: bounds that hold, early verdicts, the smallest and not the luckiest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kweek.compress.shrink import Candidate, bounds, smallest
from kweek.errors import ConfigError


def world(abilities, questions=400, seed=0):
    """Candidates that are right with stated chances, sizes by name, and the numbers of questions asked."""
    drawn = {
        name: np.random.default_rng([seed, n]).random(questions) < ability
        for n, (name, ability) in enumerate(abilities.items())
    }
    made, asked = [], {}

    def maker(name):
        def make():
            made.append(name)
            return name

        return make

    def examine(name, first, last):
        assert first == asked.get(name, 0)
        asked[name] = last
        return drawn[name][first:last].tolist()

    candidates = [Candidate(name, 10 * (n + 1), maker(name)) for n, name in enumerate(abilities)]
    return candidates, examine, made, asked


def test_the_smallest_that_reaches_the_target_is_taken_and_no_larger_one_is_made():
    candidates, examine, made, asked = world({"tiny": 0.2, "small": 0.97, "large": 0.99})
    found = smallest(candidates[::-1], examine, 400, 0.8)
    assert found.found == "small" and made == ["tiny", "small"]
    assert [one.verdict for one in found.judged] == ["misses", "meets"]
    assert asked["tiny"] == 50 and found.judged[0].asked == 50
    assert found.judged[1].lo >= 0.8 > found.judged[0].hi


def test_what_is_neither_shown_nor_refuted_is_not_taken():
    candidates, examine, _, asked = world({"close": 0.8})
    found = smallest(candidates, examine, 400, 0.8)
    assert found.found is None and found.judged[0].verdict == "open" and asked["close"] == 400
    assert found.judged[0].lo < 0.8 <= found.judged[0].hi


def test_models_below_the_target_are_hardly_ever_taken():
    taken = 0
    for seed in range(100):
        candidates, examine, _, _ = world({str(n): 0.88 for n in range(6)}, seed=seed)
        taken += smallest(candidates, examine, 400, 0.9).found is not None
    assert taken <= 5


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.001, 0.2))
def test_bounds_are_exact(right, wrong, error):
    asked = right + wrong
    lo, hi = bounds(right, asked, error)
    assert 0 <= lo <= right / asked <= hi <= 1
    if right:
        assert stats.binom.sf(right - 1, asked, lo) == pytest.approx(error, rel=1e-6)
    assert stats.binom.cdf(right, asked, hi) == pytest.approx(error, rel=1e-6)


def test_targets_that_cannot_be_shown_are_refused():
    candidates, examine, made, _ = world({"a": 1.0}, questions=40)
    for target in (0.0, 0.999):
        with pytest.raises(ConfigError, match="target"):
            smallest(candidates, examine, 40, target)
    with pytest.raises(ConfigError, match="nothing to choose"):
        smallest([], examine, 40, 0.5)
    assert not made
