"""Reward model of pairs (Bradley and Terry 1952; Ziegler et al. 2019, arXiv 1909.08593; Ouyang et al. 2022,
arXiv 2203.02155, equation 1).

    L = -log sigmoid(r(x, y+) - r(x, y-) - m) + c (r(x, y+) + r(x, y-))^2

m is the margin of the pair, larger the clearer the preference (Llama 2: Touvron et al. 2023, arXiv 2307.09288,
equation 2). Without c the rewards of a prompt are known up to a constant of its own; the second term centres them at
zero (Eisenstein et al. 2023, arXiv 2312.09244), so that rewards of different prompts compare and a policy that learns
from them needs no baseline for the prompt alone.

Known bias. The model learns whatever tells chosen from rejected, length first of all: `kweek.align.ranking` reports
it. Pairs on which all agree pull their difference apart for ever; what is not told by the answer but by the prompt
cannot be learnt at all. A margin is in units that nobody has fixed but the labeller.

Legend: B rows, T positions, D width, N = B T, S segments, P pairs, C counted positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kweek.align.compared import sides
from kweek.align.pairs import Pair, PairBatches, pair_segments
from kweek.align.rollout import Rollout
from kweek.data.batches import Batch, Segment
from kweek.errors import ConfigError, DataError
from kweek.model.network import Network
from kweek.model.scorer import Scorer, load_scorer, scores
from kweek.protocols import Progress, Score, ShouldStop, never, silent
from kweek.tokenize.agreement import ids_fingerprint
from kweek.tokenize.chat import Chat
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.objective import Loss
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import StepResult, Trained, Trainer, fit


class BradleyTerry:
    """The objective of a scorer of sequences; an update's loss is the weighted mean over its pairs.

    Parts: `margin`, the mean difference of rewards; `ranked`, the share of pairs in which it is above 0 (a tie counts
    half); `chosen_reward`, `rejected_reward`.

    Args:
        centring: c; 0.01 as TRL advises, which leaves the differences within pairs all but alone.

    Raises:
        ConfigError: centring is negative.
    """

    def __init__(self, centring: float = 0.01) -> None:
        if centring < 0:
            raise ConfigError(f"centring is {centring}, below 0", where="centring")
        self.centring = centring

    def __call__(self, network: Network, hidden_BTD: Tensor, batch: Batch) -> Loss:
        """See `Objective`.

        Raises:
            DataError: no pairs, or half a pair.
        """
        pairs = sides(batch)
        assert batch.sequence_BT is not None
        counted_C = batch.weights_BT.flatten().nonzero()[:, 0]
        read_C = network.logits(hidden_BTD.flatten(0, 1)[counted_C])[:, 0]
        owner_C = batch.sequence_BT.flatten()[counted_C]
        reward_S = read_C.new_zeros(len(batch.labels["sign"])).index_add(0, owner_C, read_C)
        chosen_P, rejected_P = reward_S[pairs.chosen_P], reward_S[pairs.rejected_P]
        share_P = pairs.share_P.to(reward_S.dtype)
        margin_P = chosen_P - rejected_P
        loss_P = -F.logsigmoid(margin_P - pairs.margin_P.to(reward_S.dtype))
        loss_P = loss_P + self.centring * (chosen_P + rejected_P) ** 2
        parts = {
            "margin": margin_P,
            "ranked": (margin_P.sign() + 1) / 2,
            "chosen_reward": chosen_P,
            "rejected_reward": rejected_P,
        }
        means = {name: float(share_P @ values_P.detach()) for name, values_P in parts.items()}
        return Loss(share_P @ loss_P, None, means)


def judged_ids(answer: Chat) -> list[int]:
    """The tokens that a reward is read from: up to the last that counts, where a sampled answer ends too."""
    last = max((i for i, own in enumerate(answer.loss_mask) if own), default=-1)
    if last < 0:
        raise DataError("an answer of no tokens has no reward")
    return list(answer.token_ids[: last + 1])


def before_padding(pair: Pair, pad_token_id: int | None) -> Pair:
    """A pair whose answers do not end with the padding token: `transformers` reads a score before it."""

    def cut(answer: Chat) -> Chat:
        end = len(answer.token_ids)
        while end > 1 and answer.token_ids[end - 1] == pad_token_id:
            end -= 1
        return Chat(answer.token_ids[:end], answer.turns[:end])

    return replace(pair, chosen=cut(pair.chosen), rejected=cut(pair.rejected))


def reward_segments(pairs: Sequence[Pair]) -> list[tuple[Segment, Segment]]:
    """Both sides of every pair of an update, with weight 1 at the token where the reward is read; labels as those of
    `pair_segments`."""
    made = []
    for one, (chosen, rejected) in zip(pairs, pair_segments(pairs), strict=True):
        ends = (_read_at_end(one.chosen, chosen), _read_at_end(one.rejected, rejected))
        made.append(ends)
    return made


def _read_at_end(answer: Chat, part: Segment) -> Segment:
    ids = np.asarray(judged_ids(answer), np.int64)
    weights = np.zeros(len(ids), np.float32)
    weights[-1] = 1.0
    return replace(part, ids=ids, targets=np.zeros_like(ids), weights=weights, streams={})


def train_reward_model(
    scorer: Scorer,
    pairs: Sequence[Pair],
    *,
    seed: int,
    learning_rate: float = 5e-4,  # that of supervised chats, for a body that has been trained
    batch_size: int = 32,  # as many comparisons as tell a direction
    epochs: int = 1,  # a reward model that has seen its pairs twice knows them by heart (Ouyang et al., C.2)
    centring: float = 0.01,  # as for `BradleyTerry`
    compute_dtype: torch.dtype = torch.float32,
    state: Path | None = None,
    on_step: Callable[[Trained, StepResult, float], None] | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Trained:
    """Train a scorer of sequences on pairs, in place; see `fit` for resuming.

    Args:
        learning_rate: of matrices, head and norms; the embedding has three times of it.
        compute_dtype: of the passes; in 16 bits a reward is known to a hundredth, which a comparison stands.
    """
    rates = LearningRates(learning_rate, 3 * learning_rate, learning_rate, learning_rate)
    optimiser = SplitOptimiser(scorer, rates)
    trainer = Trainer(scorer, optimiser, objective=BradleyTerry(centring), compute_dtype=compute_dtype)
    batches = PairBatches(pairs, batch_size=batch_size, epochs=epochs, seed=seed, segments=reward_segments)
    return fit(
        trainer,
        batches,
        batches.num_steps,
        WarmupStableDecay(batches.num_steps, decay=1.0),
        state=state,
        on_step=on_step,
        progress=progress,
        should_stop=should_stop,
    )


class RewardModel:
    """A trained scorer of sequences, for answers of a policy with the same tokenizer.

    Args:
        tokenizer: of the scorer.
        policy: the tokenizer of whoever writes the answers.

    Raises:
        ConfigError: the tokenizers differ, or the scorer judges tokens or gives several numbers.
    """

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer, policy: Tokenizer) -> None:
        if scorer.config.per_token or scorer.config.num_labels != 1:
            raise ConfigError(
                "a reward model gives one number per answer, this scorer does not",
                where=tokenizer.name,
                fix="give a model of the class ...ForSequenceClassification with one label",
            )
        if ids_fingerprint(tokenizer) != ids_fingerprint(policy):
            raise ConfigError(
                "the reward model has another tokenizer than the policy: it would read other words",
                where=tokenizer.name,
                fix="train a reward model from this policy, or take a policy of its tokenizer",
            )
        self.scorer = scorer

    @classmethod
    def load(cls, folder: Path, policy: Tokenizer) -> RewardModel:
        """Open a folder.

        Raises:
            CheckpointError: no scorer, or a broken one.
            ConfigError: see above.
        """
        return cls(load_scorer(folder), Tokenizer.load(folder), policy)

    def rewards(self, answers: Sequence[Chat]) -> list[float]:
        """The reward of every answer; one that ends with the padding token is read before it."""
        judged = [judged_ids(answer) for answer in answers]
        for ids in judged:
            while len(ids) > 1 and ids[-1] == self.scorer.config.pad_token_id:
                ids.pop()
        return [float(score) for score in scores(self.scorer, judged)]

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Judge rollouts in place of their environment, each up to the last token that the policy chose.

        A value is any number, and 0 is the mean of what was compared where the rewards are centred.
        """
        answers = [Chat(list(one.token_ids), [0 if own else -1 for own in one.sampled]) for one in rollouts]
        return [Score(value, parsed=True) for value in self.rewards(answers)]

    def num_flops(self, rollouts: Sequence[Rollout]) -> float:
        """What judging them costs."""
        lengths = [len(one.token_ids) for one in rollouts]
        return sum(length * self.scorer.config.num_flops_per_token(length) for length in lengths)
