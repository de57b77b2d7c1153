"""A tokenizer, a small policy and environments for the tests of reinforcement: rewards that an untrained model gets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kweek.align.environment import Item
from kweek.align.rollout import Rollout
from kweek.data import stories
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Message, Score
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

QUESTIONS = tuple(problem.question for problem in stories.problems("policy", 64, "train"))


@functools.cache
def small_tokenizer() -> Tokenizer:
    """416 tokens, with the packaged chat template."""
    return bpe.train(stories.sample_texts("align", 300, "train"), 416)


def small_policy(seed: int = 0) -> Network:
    """32 wide, two layers, predictions that differ."""
    size = small_tokenizer().vocab_size
    network = Network(ModelConfig(size, 32, 64, 2, 1, 1, 32, max_positions=256))
    initialise(network, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed + 1))
    return network


def small_trainer(network: Network, rate: float = 1e-3) -> Trainer:
    """No weight decay."""
    return Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0))


@dataclass
class LettersEpisode:
    """Earns the share of vowels in what it says."""

    told: list[Message]
    turns: int
    said: list[str] = field(default_factory=list)

    def step(self, message: Message) -> Sequence[Message]:
        """The observation is what was told next."""
        self.said.append(str(message["content"]))
        return self.told if len(self.said) < self.turns else ()

    def score(self) -> Score:
        """Of the last answer."""
        letters = self.said[-1]
        return Score(sum(c in "aeiou" for c in letters) / max(1, len(letters)), parsed=True)


@dataclass(frozen=True)
class Letters:
    """Questions to which an answer is the better the more vowels it has."""

    max_turns: int = 1
    max_new_tokens: int = 8
    name: str = "letters"

    def items(self, key: str, count: int, split: str) -> list[Item]:
        """Questions in an order that the key decides; level by length."""
        order = sorted(QUESTIONS, key=lambda q: hash_of(key, q))
        return [Item(({"role": "user", "content": q},), level=str(len(q) % 3)) for q in order[:count]]

    def begin(self, item: Item) -> LettersEpisode:
        """A fresh attempt."""
        return LettersEpisode([{"role": "user", "content": "Again."}], self.max_turns)

    def interceptor(self, tokenizer: Tokenizer) -> None:
        """No tool."""
        return


def hash_of(*words: object) -> str:
    """A key to sort by."""
    import hashlib

    return hashlib.sha256("\x1f".join(map(str, words)).encode()).hexdigest()


def a_rollout(
    ids: Sequence[int],
    num_prompt: int,
    value: float,
    logprobs: Sequence[float] | None = None,
    sampled: Sequence[bool] | None = None,
    **changes: object,
) -> Rollout:
    """A rollout by hand; every token after the prompt is sampled unless said otherwise."""
    size = len(ids)
    own = list(sampled) if sampled is not None else [i >= num_prompt for i in range(size)]
    item = Item(({"role": "user", "content": "?"},))
    options = {"stop_reason": "stop", "flop": 0.0} | changes
    return Rollout(
        item, list(ids), num_prompt, own, list(logprobs) if logprobs is not None else [0.0] * size, (),
        Score(value, True), **options,
    )  # fmt: skip
