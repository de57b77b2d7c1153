"""Practice: right answers are learnt and become likelier, what was sampled survives a kill, none right is refused."""

import pytest
import torch

from kweek.align.domain import Domain, Exercise
from kweek.align.practice import Practice, practise
from kweek.align.specialist import Schooling, prepare
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.errors import GuardError, Interrupted
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt

PLAN = Practice(rounds=1, questions=12, samples=16)
SCHOOLING = Schooling(rank=4, learning_rate=3e-2, batch_size=1, row_length=256)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("practice", 60, "train"), 320)


def babbler(tokenizer) -> Network:
    """Says one of a few letters and ends, whatever it is asked."""
    network = Network(
        ModelConfig(tokenizer.vocab_size, 32, 64, 2, 2, 1, 16, max_positions=256, tied_embeddings=False)
    )
    initialise(network, torch.Generator().manual_seed(0))
    letters = [tokenizer.encode(letter)[0] for letter in "xyz"]
    with torch.no_grad():
        network.lm_head.weight.mul_(0.01)
        generator = torch.Generator().manual_seed(1)
        direction = torch.randn(32, generator=generator)
        network.model.embed_tokens.weight.add_(direction)
        for token in (*letters, *sorted(tokenizer.stop_ids)):
            network.lm_head.weight[token] += 0.5 * direction + 0.1 * torch.randn(32, generator=generator)
    prepare(network, SCHOOLING, 0)
    return network


def domain(gold: str) -> Domain:
    exercises = [Exercise(({"role": "user", "content": f"Letter {n}?"},), None, gold) for n in range(12)]
    return Domain("letters", "text", False, 4, {"train": exercises, "validation": [], "test": exercises})


def likelihood(network, tokenizer, text):
    """Of a one-letter answer to the first question, by the model as it is."""
    one = domain("x").exercises["train"][0]
    ids = [*encode_prompt(tokenizer, one.messages), *tokenizer.encode(text)]
    return Engine(network).score([ids])[0][-1]


def rounds(network, tokenizer, gold, state, **more):
    return list(
        practise(
            network, Engine(network), tokenizer, domain(gold), [], PLAN, SCHOOLING, seed=0, state=state, **more
        )
    )  # fmt: skip


def test_what_was_right_becomes_likelier(tokenizer, tmp_path):
    network = babbler(tokenizer)
    before = likelihood(network, tokenizer, "x")
    (done,) = rounds(network, tokenizer, "x", tmp_path)
    assert 0 < done.right < 1 and 0 < done.kept <= 24 and done.asked == 192 and done.sampling_flop > 0
    assert likelihood(network, tokenizer, "x") > before + 0.3


def test_a_killed_round_learns_what_it_had_sampled(tokenizer, tmp_path):
    network, whole = babbler(tokenizer), babbler(tokenizer)
    with pytest.raises(Interrupted):
        rounds(network, tokenizer, "x", tmp_path, should_stop=lambda: True)
    assert (tmp_path / "practice-1.json").exists()
    (resumed,) = rounds(network, tokenizer, "x", tmp_path)
    (tmp_path / "other").mkdir()
    (undisturbed,) = rounds(whole, tokenizer, "x", tmp_path / "other")
    assert resumed.kept == undisturbed.kept
    for (name, ours), (_, theirs) in zip(network.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_without_a_right_answer_there_is_nothing_to_learn(tokenizer, tmp_path):
    with pytest.raises(GuardError, match="none of 192 answers"):
        rounds(babbler(tokenizer), tokenizer, "never said", tmp_path)
