"""Small networks and sequences for the tests of objectives."""

from __future__ import annotations

import numpy as np
import torch

from kweek.align.pairs import Pair, pair
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

VOCABULARY = 40


def small_network(seed: int = 0, vocabulary: int = VOCABULARY) -> Network:
    """32 wide, two layers, weights large enough that its predictions differ."""
    network = Network(ModelConfig(vocabulary, 32, 64, 2, 2, 1, 16, max_positions=128))
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def small_trainer(network: Network, objective: object, rate: float = 3e-3) -> Trainer:
    """No weight decay, so that optima are those of the loss."""
    rates = LearningRates(rate, rate, rate, rate)
    return Trainer(network, SplitOptimiser(network, rates, weight_decay=0.0), objective=objective)


def random_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Prompts of 2 to 6 tokens, answers of 1 to 8."""
    generator = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[int]:
        return generator.integers(0, VOCABULARY, int(generator.integers(low, high))).tolist()

    return [pair(ids(2, 7), ids(1, 9), ids(1, 9), float(generator.random())) for _ in range(count)]
