from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_networks import LAYOUTS, random_ids, random_network, small_config

from kweek.model.cache import KVCache

NETWORKS = {name: random_network(small_config(**changes)) for name, changes in LAYOUTS.items()}


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    steps=st.lists(st.integers(1, 3), max_size=4),
)
def test_rows_of_any_lengths_equal_the_whole_sequence(
    name: str, lengths: list[int], steps: list[int]
) -> None:
    network = NETWORKS[name]
    rows, total = len(lengths), max(lengths) + sum(steps)
    ids = random_ids(network.config, rows, total)
    starts = torch.tensor(lengths)
    with torch.no_grad():
        whole = network(ids)
        cache = KVCache(network.config, rows, total)
        prompt = ids[:, : max(lengths)]
        hidden = network(prompt, cache=cache, num_tokens_B=starts)
        for row, length in enumerate(lengths):
            assert torch.allclose(hidden[row, :length], whole[row, :length], atol=1e-4)
        for step in steps:
            columns = starts[:, None] + torch.arange(step)
            hidden = network(ids.gather(1, columns), cache=cache)
            expected = whole[torch.arange(rows)[:, None], columns]
            assert torch.allclose(hidden, expected, atol=1e-4)
            starts = starts + step
    assert torch.equal(cache.lengths_B, starts)


def test_selected_rows_go_on_alone() -> None:
    network = NETWORKS["qwen3"]
    ids = random_ids(network.config, 3, 10)
    with torch.no_grad():
        whole = network(ids)
        cache = KVCache(network.config, 3, 16)
        network(ids[:, :6], cache=cache, num_tokens_B=torch.tensor([6, 4, 5]))
        chosen = cache.select([2, 0, 2])
        network(ids[:, 6:7], cache=cache)  # must not reach into the selection
        assert chosen.lengths_B.tolist() == [5, 6, 5] and chosen.batch_size == 3
        following = torch.stack([ids[2, 5], ids[0, 6], ids[2, 5]])[:, None]
        hidden = network(following, cache=chosen)[:, 0]
    assert torch.allclose(hidden, torch.stack([whole[2, 5], whole[0, 6], whole[2, 5]]), atol=1e-4)
    assert cache.select([]).batch_size == 0


def test_full_cache_and_double_positions_are_refused() -> None:
    network = NETWORKS["qwen3"]
    cache = KVCache(network.config, 1, 4)
    network(random_ids(network.config, 1, 3), cache=cache)
    with pytest.raises(ValueError, match="5 tokens"):
        network(random_ids(network.config, 1, 2), cache=cache)
    with pytest.raises(ValueError, match="follow"):
        network(
            random_ids(network.config, 1, 1), cache=cache, positions_BT=torch.zeros(1, 1, dtype=torch.long)
        )
    assert cache.lengths_B.tolist() == [3]


def test_decoding_in_bfloat16() -> None:
    network = random_network(small_config())
    network.compute_dtype = torch.bfloat16
    ids = random_ids(network.config, 2, 8)
    with torch.no_grad():
        whole = network(ids)
        cache = KVCache(network.config, 2, 8, dtype=torch.bfloat16)
        parts = [network(ids[:, :5], cache=cache), network(ids[:, 5:], cache=cache)]
    assert torch.allclose(torch.cat(parts, 1).float(), whole.float(), atol=0.1)
