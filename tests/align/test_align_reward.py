"""The reward model: what it reads, that it learns the order of pairs, what its report says, whom it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from align_networks import VOCABULARY, random_pairs, small_network

from kweek.align.environment import Item
from kweek.align.pairs import pair
from kweek.align.ranking import rank_pairs, ranking
from kweek.align.reward import RewardModel, judged_ids, reward_segments, train_reward_model
from kweek.align.rollout import Rollout
from kweek.data import stories
from kweek.errors import CheckpointError, ConfigError, DataError
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.model.scorer import scorer_from, scores
from kweek.protocols import Score
from kweek.tokenize import bpe
from kweek.tokenize.chat import Chat


def counting_pairs(count, seed):
    """The answer with more tokens 1 is better; lengths say nothing."""
    generator = np.random.default_rng(seed)
    made = []
    while len(made) < count:
        prompt = generator.integers(2, VOCABULARY, 3).tolist()
        sides = [generator.choice([1, 2, 3, 4], int(generator.integers(3, 9))).tolist() for _ in range(2)]
        better, worse = sorted(sides, key=lambda ids: ids.count(1), reverse=True)
        if better.count(1) > worse.count(1):
            made.append(pair(prompt, better, worse))
    return made


def test_the_reward_is_read_where_an_answer_ends():
    answer = Chat([5, 6, 7, 8, 9], [-1, -1, 0, 0, -1])  # a template puts a blank after the end
    assert judged_ids(answer) == [5, 6, 7, 8]
    part = reward_segments([pair([1, 2], [3, 4], [5])])[0]
    assert part[0].ids.tolist() == [1, 2, 3, 4] and part[0].weights.tolist() == [0, 0, 0, 1]
    assert part[1].ids.tolist() == [1, 2, 5] and part[1].labels["sign"] == -1.0
    with pytest.raises(DataError):
        judged_ids(Chat([1, 2], [-1, -1]))


def test_training_learns_what_the_pairs_prefer():
    scorer = scorer_from(small_network())
    seen = []
    pairs = counting_pairs(600, 0)
    train_reward_model(
        scorer, pairs, seed=0, learning_rate=3e-3, epochs=3, on_step=lambda t, result, s: seen.append(result)
    )
    assert seen[0].loss == pytest.approx(np.log(2), abs=1e-4), "at first it prefers nothing"
    held_out = counting_pairs(200, 1)
    chosen, rejected = (
        [float(x) for x in scores(scorer, [judged_ids(getattr(one, side)) for one in held_out])]
        for side in ("chosen", "rejected")
    )
    lengths = [[sum(getattr(one, side).loss_mask) for one in held_out] for side in ("chosen", "rejected")]
    found = ranking(chosen, rejected, *lengths)
    assert found.accuracy.lo > 0.75
    assert abs(np.mean(chosen + rejected)) < 1.0, "centred"


def test_the_report_sees_length():
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 50, (300, 2))
    rewards = lengths + generator.normal(0, 1, lengths.shape)  # nothing but length
    found = ranking(rewards[:, 0], rewards[:, 1], lengths[:, 0], lengths[:, 1])
    assert found.length_correlation.lo > 0.95 and found.within_pairs.lo > 0.95
    assert abs(found.accuracy.mid - found.longer.mid) < 0.05
    assert found.num_equal == (np.abs(lengths[:, 0] - lengths[:, 1]) <= 0.1 * lengths.max(1)).sum()


def test_the_report_of_one_that_knows_nothing_of_length():
    generator = np.random.default_rng(1)
    lengths = generator.integers(5, 50, (300, 2))
    quality = generator.normal(0, 1, (300, 2))
    order = quality.argsort(1)[:, ::-1]
    lengths, quality = np.take_along_axis(lengths, order, 1), np.take_along_axis(quality, order, 1)
    found = ranking(quality[:, 0], quality[:, 1], lengths[:, 0], lengths[:, 1])
    assert found.accuracy.mid == 1.0 and found.equal_length.mid == 1.0
    assert found.length_correlation.lo < 0 < found.length_correlation.hi
    assert found.longer.lo < 0.5 < found.longer.hi


def test_ties_are_no_success_and_what_does_not_vary_has_no_correlation():
    found = ranking([0.0, 0.0], [0.0, 0.0], [3, 4], [5, 6])
    assert found.accuracy.mid == 0.0 and found.length_correlation is None and found.equal_length is None


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("reward", 100, "train"), 320)


def test_another_tokenizer_is_refused(tokenizer, tmp_path):
    other = bpe.train(stories.sample_texts("other", 100, "train"), 352)
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 1, 2, 1, 16, max_positions=64))
    initialise(network, torch.Generator().manual_seed(0))
    save_model(tmp_path, scorer_from(network))
    tokenizer.save(tmp_path)
    model = RewardModel.load(tmp_path, tokenizer)
    made = pair(tokenizer.encode("What is 2+3?"), tokenizer.encode("5"), tokenizer.encode("six"))
    assert model.rewards([made.chosen, made.rejected]) == [0.0, 0.0]
    assert rank_pairs(model, [made]).num_pairs == 1
    torch.nn.init.normal_(model.scorer.score.weight, generator=torch.Generator().manual_seed(1))
    ids, sampled = made.chosen.token_ids, made.chosen.loss_mask
    told = Rollout(
        Item(({"role": "user", "content": "?"},)),
        [*ids, 7],
        0,
        [*sampled, False],
        [],
        (),
        Score(0.0, True),
        "stop",
        0.0,
    )
    assert [score.value for score in model([told])] == model.rewards([made.chosen]), (
        "what a tool says is not read"
    )
    assert model.num_flops([told]) == (len(ids) + 1) * model.scorer.config.num_flops_per_token(len(ids) + 1)
    with pytest.raises(ConfigError, match="another tokenizer than the policy"):
        RewardModel.load(tmp_path, other)
    save_model(tmp_path, scorer_from(network, per_token=True))
    with pytest.raises(ConfigError, match="one number per answer"):
        RewardModel.load(tmp_path, tokenizer)
    save_model(tmp_path, network)
    with pytest.raises(CheckpointError, match="no model that scores"):
        RewardModel.load(tmp_path, tokenizer)


def test_a_margin_asks_for_more():
    apart = {}
    for margin in (0.0, 4.0):
        scorer = scorer_from(small_network())
        pairs = [replace(one, margin=margin) for one in random_pairs(8)]
        train_reward_model(scorer, pairs, seed=0, learning_rate=3e-3, epochs=60, batch_size=8)
        sides = [[judged_ids(getattr(one, side)) for one in pairs] for side in ("chosen", "rejected")]
        chosen, rejected = (torch.stack(scores(scorer, side)) for side in sides)
        apart[margin] = float((chosen - rejected).mean())
    assert apart[4.0] > apart[0.0] + 1.0 > 1.0
