"""Small models of the stories' domain, grown, taught and asked in the same way by several measurements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from seeds import place

from kweek.align.environment import Item, Split
from kweek.align.rollout import Group
from kweek.align.sampling import Drawing, sample
from kweek.align.sft import ChatBatches, chat_segments, initialise_special_rows
from kweek.align.word_problems import WordProblems
from kweek.data import stories
from kweek.data.batches import Batch, Segment
from kweek.data.packing import PackedMix, Source
from kweek.engine.engine import Engine
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.recipe.derive import shape
from kweek.store.files import read_json, write_json
from kweek.tokenize.agreement import ids_fingerprint
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.objective import Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay, sequence_lengths
from kweek.train.trainer import StepResult, Trained, Trainer, fit

LENGTHS, SHARES = (64, 128, 256), (0.15, 0.35, 0.5)  # the sequence length is warmed up, as in the recipes
TOKENS_PER_STEP = 1024
TOKENS_PER_STORY = 55
STUDENT_WIDTH, STUDENT_CHANNELS = 64, 160
BATCH = 16  # chats per update: the number of updates decides, so batches are small
Batches = Callable[[int], Iterator[Batch]]


def small_shape(tokenizer: Tokenizer, width: int, channels: int) -> ModelConfig:
    """The recipes' layout with other feed-forward channels."""
    return replace(shape(width, tokenizer.vocab_size, tokenizer.eos_id), intermediate_size=channels)


def grown(config: ModelConfig, tokenizer: Tokenizer, num_tokens: float, seed: int) -> tuple[Network, float]:
    """A model that has read stories with their solutions, and the FLOP of that."""
    network = Network(config)
    initialise(network, torch.Generator().manual_seed(seed))
    texts = stories.sample_texts(f"grown/{seed}", int(num_tokens / TOKENS_PER_STORY), "train")
    documents = [np.asarray(ids, np.int64) for ids in tokenizer.encode_batch(texts)]
    by_width = 128 / config.hidden_size
    rates = LearningRates().scaled(by_width * (TOKENS_PER_STEP / 512) ** 0.5, embedding=by_width)
    steps = int(num_tokens / TOKENS_PER_STEP)
    mix = PackedMix(
        [Source("stories", documents, 1.0, continues=False)], sequence_lengths(steps, LENGTHS, SHARES),
        TOKENS_PER_STEP, seed, tokenizer.eos_id,
    )  # fmt: skip
    trainer = Trainer(network, SplitOptimiser(network, rates))
    return network, fit(trainer, mix.batches, steps, WarmupStableDecay(steps)).flop


def student(tokenizer: Tokenizer, num_tokens: float) -> tuple[Network, float]:
    """A model of half the width and a third of the cost of the recipe's, that has read stories; and the FLOP of that.

    It is grown once and kept: seeds of what is measured with it are those of everything after.
    """
    folder = place(Path(__file__), ["student", num_tokens, ids_fingerprint(tokenizer)])
    if not (folder / "flop.json").exists():
        network, flop = grown(
            small_shape(tokenizer, STUDENT_WIDTH, STUDENT_CHANNELS), tokenizer, num_tokens, 0
        )
        save_model(folder, network)
        write_json(folder / "flop.json", flop)
    return load_model(folder), float(read_json(folder / "flop.json"))


def demonstrations(
    tokenizer: Tokenizer, count: int, styles: tuple[stories.Style, ...], seed: int
) -> list[Segment]:
    """Chats with right answers in some styles."""
    return chat_segments(tokenizer, stories.demonstrations(f"chats/{seed}", count, styles, share_sums=0.1))


class Purse:
    """FLOP that are spent, and the learning rate's factor that follows from their share of the budget."""

    def __init__(self, budget: float) -> None:
        self.budget, self.spent = budget, 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return self.spent >= self.budget

    def factor(self, step: int) -> float:
        """Rises over a twentieth, falls linearly over the last half."""
        share = min(1.0, self.spent / self.budget)
        return max(0.02, min(1.0, (share + 0.005) / 0.05, 2 * (1 - share)))

    def pay(self, totals: Trained, result: StepResult, speed: float) -> None:
        """An `on_step` of `fit`."""
        self.spent += result.flop


def taught(
    network: Network,
    segments: Sequence[Segment],
    steps: int,
    rate: float,
    seed: int,
    *,
    objective: Objective | None = None,
    arrange: Callable[[Batches, int], Batches] | None = None,
) -> float:
    """Train on chats in place, in as many epochs as the steps take, the rate falling to 0; returns the FLOP.

    `arrange` changes the batches, of which it is also told the number.
    """
    batches: Batches = _chats(segments, steps, seed)
    if arrange is not None:
        batches = arrange(batches, steps)
    schedule = WarmupStableDecay(steps, decay=1.0)
    return fit(_learner(network, rate, objective), batches, steps, schedule).flop


def taught_for(network: Network, segments: Sequence[Segment], purse: Purse, rate: float, seed: int) -> None:
    """The same until the purse is empty."""
    steps = 10**5
    chats = _chats(segments, steps, seed)

    def batches(first_step: int) -> Iterator[Batch]:
        return itertools.takewhile(lambda _: not purse.empty, chats(first_step))

    fit(_learner(network, rate, None), batches, steps, purse.factor, on_step=purse.pay)


def _learner(network: Network, rate: float, objective: Objective | None) -> Trainer:
    rates = LearningRates(rate, 3 * rate, rate, rate)
    return Trainer(network, SplitOptimiser(network, rates), objective=objective)


def _chats(segments: Sequence[Segment], steps: int, seed: int) -> ChatBatches:
    size = min(BATCH, len(segments))
    epochs = math.ceil(steps / max(1, len(segments) // size))
    return ChatBatches(segments, batch_size=size, epochs=epochs, seed=seed)


def first_chats(network: Network, tokenizer: Tokenizer, seed: int) -> None:
    """Give tokens that the stories never showed a place to start from."""
    initialise_special_rows(network, tokenizer, seed)


def attempts(
    network: Network,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    key: str,
    *,
    samples: int = 1,
    greedy: bool = False,
) -> list[Group]:
    """Answers to each problem, with the calculator."""
    drawing = None if greedy else Drawing()
    return sample(
        Engine(network), tokenizer, WordProblems(), items, samples=samples, key=key, drawing=drawing
    )


def problems(key: str, count: int, split: Split) -> list[Item]:
    """Stories of one to four steps; a tenth of those to learn from are bare sums."""
    return WordProblems(share_sums=0.1 if split == "train" else 0.0).items(key, count, split)


def right(network: Network, tokenizer: Tokenizer, items: Sequence[Item]) -> tuple[np.ndarray, float]:
    """Whether each greedy answer is right (items,), and the mean FLOP of an answer."""
    found = [group[0] for group in attempts(network, tokenizer, items, "greedy", greedy=True)]
    return np.array([one.score.value for one in found]), float(np.mean([one.flop for one in found]))
