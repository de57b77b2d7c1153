"""From an order to bits: sizes read, bits dealt under them, the better allocation taken."""

import pytest
from compress_networks import make_network, sample
from hypothesis import given
from hypothesis import strategies as st

from kweek.compress.order import Order, deal, parse_size
from kweek.compress.widths import file_bytes, uniform
from kweek.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("written", "size"),
    [("80MB", 80e6), ("1.5 GB", 1.5e9), ("600kB", 6e5), ("600KB", 6e5), ("1234", 1234), ("7b", 7)],
)
def test_sizes(written, size):
    assert parse_size(written) == size


@given(st.text(max_size=8))
def test_anything_else_is_refused_or_a_positive_size(written):
    try:
        assert parse_size(written) > 0
    except ConfigError as error:
        assert "80MB" in str(error)


@pytest.mark.parametrize("written", ["", "MB", "-3MB", "0MB", "80 TB", "8e7", "80MiB"])
def test_what_is_no_size(written):
    with pytest.raises(ConfigError, match="--size"):
        parse_size(written)


@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_bits_under_a_size(method):
    network = make_network()
    sequences = sample(network, 64, 33)
    limit = file_bytes(network.config, uniform(network.config, 4, 4))
    dealt = deal(network, Order(max_bytes=limit, method=method), sequences, 64)
    assert file_bytes(network.config, dealt.widths) <= limit
    assert set(dealt.checked) == {"mixed", "even"}
    mixed_won = dealt.checked["mixed"] <= dealt.checked["even"]
    assert mixed_won == (
        len(set(dealt.widths.values())) > 2 or dealt.checked["mixed"] == dealt.checked["even"]
    )


def test_plain_orders_need_no_text():
    network = make_network()
    assert deal(network, Order(num_bits=5, embedding_bits=8), [], 64).widths == uniform(network.config, 5, 8)
    with pytest.raises(DataError, match="no calibration text"):
        deal(network, Order(max_bytes=1e9), [], 64)
    with pytest.raises(ConfigError, match="--size"):
        deal(network, Order(max_bytes=10), sample(network, 4, 33), 64)
