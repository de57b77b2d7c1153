"""Dealing bits out: within the size, as good as trying everything, and never worse for more bytes."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.compress.allocate import allocate
from kweek.compress.widths import file_bytes, uniform
from kweek.errors import ConfigError
from kweek.model.config import ModelConfig
from kweek.model.quantized import BIT_WIDTHS

CONFIG = ModelConfig(64, 32, 32, 1, 1, 1, head_dim=32, tied_embeddings=True)
NAMES = list(uniform(CONFIG, 4))

SPARE = 100  # bytes: the header may become so much longer with more bits


def losses_of(sizes):
    """What tensors cost that lose a quarter with every bit."""
    return {
        name: {bits: size * 4.0**-bits for bits in BIT_WIDTHS}
        for name, size in zip(NAMES, sizes, strict=True)
    }


def total(losses, widths):
    return sum(losses[name][bits] for name, bits in widths.items())


def one_more(losses, widths, choices=BIT_WIDTHS):
    """The most that one more upgrade would save: what no allocation under the size can be ahead by."""
    following = dict(itertools.pairwise(choices))
    gains = [losses[n][b] - losses[n][following[b]] for n, b in widths.items() if b in following]
    return max(gains, default=0.0) + 1e-9 * total(losses, widths)


sizes = st.lists(st.floats(1e-4, 1e4), min_size=len(NAMES), max_size=len(NAMES))


@settings(max_examples=100, deadline=None)
@given(sizes, st.floats(0, 1))
def test_keeps_to_the_size_and_beats_equal_bits(scales, share):
    losses = losses_of(scales)
    least, most = (file_bytes(CONFIG, uniform(CONFIG, bits, bits)) for bits in (2, 8))
    limit = least + SPARE + share * (most - least)
    widths = allocate(CONFIG, losses, limit)
    assert file_bytes(CONFIG, widths) <= limit
    for bits in BIT_WIDTHS:
        even = uniform(CONFIG, bits, bits)
        if file_bytes(CONFIG, even) + SPARE <= limit:
            assert total(losses, widths) <= total(losses, even) + one_more(losses, widths)


@settings(max_examples=20, deadline=None)
@given(sizes, st.floats(0, 1))
def test_loses_little_against_trying_everything(scales, share):
    losses = losses_of(scales)
    least, most = (file_bytes(CONFIG, uniform(CONFIG, bits, bits)) for bits in (2, 4))
    limit = least + SPARE + share * (most - least)
    found = allocate(CONFIG, losses, limit, (2, 3, 4))
    best = min(
        total(losses, dict(zip(NAMES, bits, strict=True)))
        for bits in itertools.product((2, 3, 4), repeat=len(NAMES))
        if file_bytes(CONFIG, dict(zip(NAMES, bits, strict=True))) + SPARE <= limit
    )
    assert total(losses, found) <= best + one_more(losses, found, (2, 3, 4))


def test_the_tensor_that_costs_most_gets_most():
    losses = losses_of([1.0] * len(NAMES))
    losses[NAMES[3]] = {bits: 1000 * value for bits, value in losses[NAMES[3]].items()}
    limit = file_bytes(CONFIG, uniform(CONFIG, 4, 4))
    widths = allocate(CONFIG, losses, limit)
    assert widths[NAMES[3]] >= 6
    assert max(bits for name, bits in widths.items() if name != NAMES[3]) <= 4


def test_only_the_choices_and_never_bytes_for_nothing():
    losses = losses_of([1.0] * len(NAMES))
    losses[NAMES[0]] = dict.fromkeys(BIT_WIDTHS, 1.0)  # more bits change nothing
    widths = allocate(CONFIG, losses, 1e9, (4, 5, 8))
    assert widths[NAMES[0]] == 4
    assert {bits for name, bits in widths.items() if name != NAMES[0]} == {8}


def test_a_size_below_the_least_names_both():
    with pytest.raises(ConfigError, match=r"--size: with 2 bits everywhere.*0\.00 MB were asked for"):
        allocate(CONFIG, losses_of([1.0] * len(NAMES)), 100)
