from __future__ import annotations

from functools import partial

import pytest
import torch
from model_networks import LAYOUTS, operator_counter, random_ids, random_network, small_config

from kweek.model.adapter import TARGETS, AdapterConfig, attach
from kweek.model.cache import KVCache
from kweek.model.config import ModelConfig
from kweek.model.flops import num_flops_adapted
from kweek.model.head import fused_cross_entropy

TIME, BATCH = 48, 2


def counted_training(config: ModelConfig, dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """FLOP per token that torch's operators report, forward and forward with backward."""
    network = random_network(config)
    network.compute_dtype = dtype
    ids = random_ids(config, BATCH, TIME)
    with operator_counter() as counter:
        hidden = network(ids)
    forward = counter.get_total_flops() + 2 * BATCH * TIME * config.hidden_size * config.vocab_size
    with operator_counter() as counter:
        hidden = network(ids)
        weights = torch.full((BATCH * TIME,), 1.0)
        loss, _ = fused_cross_entropy(hidden.flatten(0, 1), network.head_weight, ids.flatten(), weights)
        loss.backward()
    return forward / (BATCH * TIME), counter.get_total_flops() / (BATCH * TIME)


@pytest.mark.parametrize("name", LAYOUTS)
def test_within_one_percent_of_the_operators(name: str) -> None:
    config = small_config(**LAYOUTS[name])
    forward, training = counted_training(config)
    assert config.num_flops_per_token(TIME, attention="full") == pytest.approx(forward, rel=0.01)
    ours = config.num_flops_per_token(TIME, True, attention="full", recomputation=True)
    assert ours == pytest.approx(training, rel=0.01)


def test_kept_scores_need_no_recomputation() -> None:
    config = small_config()
    _, training = counted_training(config, torch.bfloat16)
    assert config.num_flops_per_token(TIME, True, attention="full") == pytest.approx(training, rel=0.01)


@pytest.mark.parametrize(
    "targets",
    [TARGETS, ("q_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)],
    ids="-".join,
)
@pytest.mark.parametrize("name", ["qwen3", "qwen2", "smollm"])
def test_with_an_adapter_within_one_percent_of_the_operators(name: str, targets: tuple[str, ...]) -> None:
    network = random_network(small_config(**LAYOUTS[name]))
    attach(network, AdapterConfig(3, targets=targets), torch.Generator())
    ids = random_ids(network.config, BATCH, TIME)
    tokens = BATCH * TIME
    with operator_counter() as counter, torch.no_grad():
        network(ids)
    count = partial(num_flops_adapted, network.config, 3, targets, TIME, attention="full")
    head = 2.0 * network.config.hidden_size * network.config.vocab_size
    assert count() == pytest.approx(counter.get_total_flops() / tokens + head, rel=0.01)
    with operator_counter() as counter:
        hidden = network(ids)
        loss, _ = fused_cross_entropy(
            hidden.flatten(0, 1), network.head_weight, ids.flatten(), torch.ones(tokens)
        )
        loss.backward()
    assert count(True, recomputation=True) == pytest.approx(counter.get_total_flops() / tokens, rel=0.01)
    assert network.num_flops_per_token(TIME, True) < network.config.num_flops_per_token(TIME, True)


def test_decode_within_one_percent_of_the_operators() -> None:
    config = small_config()
    network, cache = random_network(config), KVCache(config, 1, 64)
    with torch.no_grad():
        network(random_ids(config, 1, 40), cache=cache)
        with operator_counter() as counter:
            network.logits(network(random_ids(config, 1, 1), cache=cache))
    assert config.num_flops_decode(40) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_decoding_every_position_costs_what_the_sequence_costs() -> None:
    config = small_config()
    one_by_one = sum(config.num_flops_decode(position) for position in range(TIME))
    assert one_by_one == pytest.approx(TIME * config.num_flops_per_token(TIME))


def test_training_is_three_forwards() -> None:
    config = small_config()
    assert config.num_flops_per_token(9, True) == 3 * config.num_flops_per_token(9)


def test_cache_bytes() -> None:
    config = small_config()
    cache = KVCache(config, 3, 10)
    assert cache.num_bytes == 3 * 10 * config.num_kv_bytes_per_token()
    assert config.num_kv_bytes_per_token(2) == config.num_kv_bytes_per_token() // 2
