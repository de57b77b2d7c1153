"""Pairs that people judged: the harmlessness test split of Anthropic's HH-RLHF, from the folder KWEEK_DATA names.

Five folds by the hash of the prompt; a reward model for each that is measured, trained on the other four. The model is
as small as all of Kweek's own here, and reads nothing but the training pairs, first as text and then as pairs: what it
reaches is reported beside two rules that know less, the shorter answer and a bag of words.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kweek.align.pairs import Pair, pair
from kweek.align.ranking import ranking
from kweek.align.reward import judged_ids, train_reward_model
from kweek.data.packing import PackedMix, Source
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.model.scorer import scorer_from, scores
from kweek.stats.intervals import wilson
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay, sequence_lengths
from kweek.train.trainer import Trainer, fit

FILE = "hh_rlhf_harmless_test/test.jsonl.gz"
FOLDS, VOCABULARY = 5, 1024
PROMPT_TOKENS, ANSWER_TOKENS = 64, 96  # the end of the one and the beginning of the other
TURN = "\n\nAssistant:"


@dataclass(frozen=True)
class Row:
    """One pair as text."""

    prompt: str
    chosen: str
    rejected: str

    @property
    def fold(self) -> int:
        return int(hashlib.sha256(self.prompt.encode()).hexdigest()[:8], 16) % FOLDS


def path() -> Path | None:
    """The file, where it is."""
    folder = os.environ.get("KWEEK_DATA")
    found = Path(folder) / FILE if folder else None
    return found if found is not None and found.is_file() else None


def rows(where: Path) -> list[Row]:
    """The pairs whose two chats differ in the last answer only (all but five)."""
    made = []
    with gzip.open(where, "rt", encoding="utf-8") as stream:
        for line in stream:
            chats = json.loads(line)
            chosen, rejected = (chats[side].rpartition(TURN) for side in ("chosen", "rejected"))
            if chosen[0] == rejected[0]:
                made.append(Row(chosen[0] + TURN, chosen[2], rejected[2]))
    return made


def encoded(tokenizer: Tokenizer, row: Row) -> Pair:
    """The end of the prompt and the beginning of both answers."""
    prompt = tokenizer.encode(row.prompt)[-PROMPT_TOKENS:]
    answers = [tokenizer.encode(text)[:ANSWER_TOKENS] for text in (row.chosen, row.rejected)]
    return pair(prompt, *([*ids, tokenizer.eos_id] for ids in answers))


def reader(tokenizer: Tokenizer, texts: Sequence[str], tokens: int, seed: int) -> Network:
    """A network of 1M parameters that has learnt to continue the training text."""
    network = Network(ModelConfig(tokenizer.vocab_size, 128, 352, 4, 2, 2, 64, max_positions=256))
    initialise(network, torch.Generator().manual_seed(seed))
    steps = tokens // 1024
    lengths = sequence_lengths(steps, (64, 128, 224), (0.2, 0.3, 0.5))
    source = Source("chats", [np.asarray(ids) for ids in tokenizer.encode_batch(list(texts))], 1.0)
    mix = PackedMix([source], lengths, 1024, seed, tokenizer.eos_id)
    fit(
        Trainer(network, SplitOptimiser(network, LearningRates())),
        mix.batches,
        steps,
        WarmupStableDecay(steps),
    )
    return network


def fold(data: Sequence[Row], number: int, tokens: int, seed: int) -> dict[str, list[float]]:
    """Rewards, lengths and the bag of words' opinion on the pairs of one fold."""
    train, held = [r for r in data if r.fold != number], [r for r in data if r.fold == number]
    texts = [row.prompt + answer for row in train for answer in (row.chosen, row.rejected)]
    tokenizer = bpe.train(texts, VOCABULARY)
    scorer = scorer_from(reader(tokenizer, texts, tokens, seed))
    train_reward_model(scorer, [encoded(tokenizer, row) for row in train], seed=seed)
    pairs = [encoded(tokenizer, row) for row in held]
    sides = [[getattr(one, side) for one in pairs] for side in ("chosen", "rejected")]
    rewards = [[float(x) for x in scores(scorer, [judged_ids(answer) for answer in side])] for side in sides]
    return {
        "chosen": rewards[0],
        "rejected": rewards[1],
        "chosen_lengths": [len(row.chosen) for row in held],
        "rejected_lengths": [len(row.rejected) for row in held],
        "words": bag_of_words(tokenizer, train, held),
    }


def bag_of_words(tokenizer: Tokenizer, train: Sequence[Row], held: Sequence[Row]) -> list[float]:
    """Logistic regression on how often each token stands in the one answer and in the other; its margins."""

    def counts(data: Sequence[Row]) -> torch.Tensor:
        table = torch.zeros(len(data), tokenizer.vocab_size)
        for i, row in enumerate(data):
            for sign, text in ((1.0, row.chosen), (-1.0, row.rejected)):
                ids = torch.tensor(tokenizer.encode(text))
                table[i] += sign * torch.bincount(ids, minlength=tokenizer.vocab_size).float().log1p()
        return table

    features = counts(train)
    weights = torch.zeros(tokenizer.vocab_size, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = F.softplus(-features @ weights).mean() + 0.003 * (weights**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    return (counts(held) @ weights.detach()).tolist()


def measured(found: Sequence[Mapping[str, list[float]]]) -> dict[str, Any]:
    """The reward model's report over the pairs of some folds together."""
    joined = {key: [x for part in found for x in part[key]] for key in found[0]}
    report = ranking(
        joined["chosen"], joined["rejected"], joined["chosen_lengths"], joined["rejected_lengths"]
    )
    shorter = sum(a < b for a, b in zip(joined["chosen_lengths"], joined["rejected_lengths"], strict=True))
    return {
        "pairs": report.num_pairs,
        "accuracy": report.accuracy,
        "accuracy of a bag of words": wilson(sum(x > 0 for x in joined["words"]), report.num_pairs),
        "accuracy of the shorter answer": wilson(shorter, report.num_pairs),
        "correlation of reward and length": report.length_correlation,
        "the same within pairs": report.within_pairs,
        "accuracy at equal length": report.equal_length,
        "pairs of equal length": report.num_equal,
    }
