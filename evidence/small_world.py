"""A world small enough to live in for a second: four tasks, two kinds of text, and a network that half knows them.

Every task folds a short list step by step (a sum, a sorted list, a reversed word, a count), so every answer can be
checked, can be given at once or after writing down the steps, and is learnt by some 150 thousand parameters within a
minute on one core. Used by evidence that needs hundreds of runs rather than one large one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from kweek.align.environment import Item, Split
from kweek.data.batches import Segment, collate, pack, segment
from kweek.data.packing import keyed_generator
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Message, Score
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_chat
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer

TASKS = ("sum", "sort", "reverse", "count")
MAX_NEW_TOKENS = 40  # the longest right answer takes about 30
LENGTH = 128  # of packed rows
SLIPS, SLIPS_REASONED = 0.4, 0.15  # share of demonstrations that are wrong: what reinforcement can mend


def rng(*key: object) -> random.Random:
    """A generator keyed by content."""
    return random.Random(int(keyed_generator(*key).integers(2**62)))


def example(task: str, key: str, number: int) -> tuple[str, list[str], str]:
    """Question, steps and answer."""
    draw = rng(task, key, number)
    if task == "sum":
        parts = [draw.randint(1, 5) for _ in range(draw.randint(3, 4))]
        totals = [sum(parts[: i + 1]) for i in range(1, len(parts))]
        return "sum " + " ".join(map(str, parts)), [str(t) for t in totals], str(totals[-1])
    if task == "sort":
        parts = [draw.randint(0, 9) for _ in range(draw.randint(3, 5))]
        kept = ["".join(map(str, sorted(parts[: i + 1]))) for i in range(1, len(parts))]
        return "sort " + " ".join(map(str, parts)), kept, kept[-1]
    letters = [draw.choice("abcd") for _ in range(draw.randint(3, 6))]
    if task == "reverse":
        half = letters[: len(letters) // 2]
        return "reverse " + " ".join(letters), ["".join(reversed(half))], "".join(reversed(letters))
    wanted = letters[-1]
    counts = [str(letters[: i + 1].count(wanted)) for i in range(len(letters))]
    return f"count {wanted} in " + " ".join(letters), counts, counts[-1]


@dataclass(frozen=True)
class Attempt:
    """An episode of one answer, judged exactly."""

    item: Item
    said: list[str]

    def step(self, message: Message) -> Sequence[Message]:
        """Take the answer; there is nothing more to be told."""
        self.said.append(str(message["content"]).strip())
        return ()

    def score(self) -> Score:
        """1 for the gold answer and nothing else."""
        last = self.said[-1] if self.said else ""
        return Score(float(last == self.item.gold), parsed=last.isalnum())


@dataclass(frozen=True)
class World:
    """An environment of one or several tasks."""

    tasks: tuple[str, ...] = TASKS
    max_new_tokens: int = MAX_NEW_TOKENS
    max_turns: int = 1

    @property
    def name(self) -> str:
        """The tasks."""
        return "+".join(self.tasks)

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Items whose split follows from the hash of the question."""
        found: dict[str, Item] = {}
        number = 0
        while len(found) < count:
            task = self.tasks[number % len(self.tasks)]
            question, _, answer = example(task, key, number)
            item = Item(({"role": "user", "content": question},), answer, task)
            if ("validation" if int(item.id[:2], 16) % 4 == 0 else "train") == split:
                found[item.id] = item
            number += 1
        return list(found.values())

    def begin(self, item: Item) -> Attempt:
        """A fresh attempt."""
        return Attempt(item, [])

    def interceptor(self, tokenizer: Tokenizer) -> None:
        """No tool answers here."""
        return


NOUNS = ("dog", "cat", "girl", "boy", "king", "bird", "fish", "man")
VERBS = ("sees", "likes", "finds", "takes", "calls", "knows")
PLACES = ("house", "river", "garden", "forest", "road", "town")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def text(source: str, key: str, number: int) -> str:
    """A document of `prose` or `lists`."""
    draw = rng(source, key, number)
    if source == "lists":
        start, size = draw.randrange(7), draw.randint(4, 8)
        return ", ".join(DAYS[(start + i) % 7] for i in range(size)) + "."
    lines = []
    for _ in range(3):
        noun = draw.choice(NOUNS)
        lines.append(
            f"the {noun} {draw.choice(VERBS)} the {draw.choice(NOUNS)} near the {draw.choice(PLACES)}. "
        )
    return "".join(lines).strip()


def texts(source: str, key: str, count: int) -> list[str]:
    """Documents of a source."""
    return [text(source, key, number) for number in range(count)]


def chat(task: str, key: str, number: int, reasoned: bool, slips: bool = False) -> list[dict[str, str]]:
    """A question and its answer, at once or after its steps, by a careful or a careless teacher."""
    question, steps, answer = example(task, key, number)
    draw = rng("slip", key, number)
    if slips and draw.random() < (SLIPS_REASONED if reasoned else SLIPS):
        answer = example(task, key, number + draw.randrange(1, 1000))[2] if draw.random() < 0.8 else "?"
    said = {"role": "assistant", "content": answer}
    if reasoned:
        said["reasoning_content"] = " ".join(steps)
    return [{"role": "user", "content": question}, said]


@cache
def tokenizer() -> Tokenizer:
    """One for all, from the words of this world."""
    sample = [text(s, "tok", n) for s in ("prose", "lists") for n in range(200)]
    sample += ["user\nassistant\n" + " ".join(f"{t} " * 3 for t in TASKS) + "count a in b"] * 300
    return bpe.train(sample, 416)


def chat_segment(question: str, answer: str) -> Segment:
    """A question and what is to be said to it, with loss on that."""
    done = encode_chat(
        tokenizer(), [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    )
    return segment(done.token_ids, [float(m) for m in done.loss_mask])


def chat_segments(tasks: Sequence[str], key: str, count: int, slips: bool = False) -> list[Segment]:
    """Chats with loss on what the assistant says."""
    made = []
    for number in range(count):
        reasoned = rng("style", key, number).random() < 0.5
        done = encode_chat(tokenizer(), chat(tasks[number % len(tasks)], key, number, reasoned, slips))
        made.append(segment(done.token_ids, [float(m) for m in done.loss_mask]))
    return made


def text_segments(sources: Sequence[str], key: str, count: int) -> list[Segment]:
    """Documents with loss everywhere."""
    eos = tokenizer().eos_id
    return [
        segment([eos, *tokenizer().encode(text(sources[n % len(sources)], key, n)), eos])
        for n in range(count)
    ]


def optimise(
    network: Network, steps: int, rate: float, batch: Sequence[Segment], size: int, seed: int
) -> Trainer:
    """Teach segments in keyed order, `size` a step."""
    trainer = Trainer(network, SplitOptimiser(network, LearningRates(rate, 4 * rate, rate, rate)))
    schedule = WarmupStableDecay(steps)
    for step in range(steps):
        order = keyed_generator("order", seed, step).choice(len(batch), size)
        learn(trainer, [batch[int(i)] for i in order], schedule(step))
    return trainer


def learn(trainer: Trainer, segments: Sequence[Segment], factor: float) -> float:
    """One supervised update, every weighted token alike; its loss in nats per token."""
    total = sum(float(s.weights.sum()) for s in segments)
    scaled = [replace(s, weights=s.weights / np.float32(total)) for s in segments]
    return trainer.step([collate(pack(scaled, LENGTH))], factor).loss


@cache
def base(seed: int, steps: int = 1000) -> Mapping[str, torch.Tensor]:
    """Weights of a network that has read the texts, learnt the tasks, and then seen a careless teacher."""
    network = fresh(seed)
    chats = chat_segments(TASKS, f"base/{seed}", 8000)
    documents = text_segments(("prose", "lists"), f"base/{seed}", 800)
    optimise(network, steps, 4e-3, [*chats, *documents], 48, seed)
    careless = chat_segments(TASKS, f"careless/{seed}", 1600, slips=True)
    optimise(network, steps // 10, 5e-4, [*careless, *documents], 32, seed)
    return {name: value.clone() for name, value in network.state_dict().items()}


def fresh(seed: int) -> Network:
    """An untrained network of 0.2 M parameters."""
    network = Network(
        ModelConfig(
            vocab_size=tokenizer().vocab_size, hidden_size=64, intermediate_size=160, num_layers=3,
            num_heads=2, num_kv_heads=2, head_dim=32, max_positions=256,
        )
    )  # fmt: skip
    initialise(network, torch.Generator().manual_seed(seed))
    return network


def started(seed: int) -> Network:
    """A network that starts from a base."""
    network = fresh(seed)
    network.load_state_dict(base(seed))
    return network
