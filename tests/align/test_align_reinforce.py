"""Policy gradient: right weights on the right tokens, a sign that is checked, probabilities that agree."""

import numpy as np
import pytest
import torch
from kweek.align.reinforce import advantages, check_sign, policy_segments, update

from kweek.align import reinforce
from kweek.align.sft import ChatBatches, chat_segments, initialise_special_rows, weighted
from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.data.batches import segment
from kweek.engine.engine import Engine
from kweek.errors import GuardError
from kweek.evaluate.problems import Asker, attempt, majority, majority_of, pass_at_k
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import Completion, Score
from kweek.system.calculator import Calculator
from kweek.tokenize import bpe
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("align", 300, "train"), 416)


@pytest.fixture
def trainer(tokenizer):
    network = Network(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_layers=2,
            num_heads=1, num_kv_heads=1, head_dim=32, max_positions=256,
        )
    )  # fmt: skip
    initialise(network, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    return Trainer(network, SplitOptimiser(network, LearningRates(1e-3, 1e-3, 1e-3, 1e-3)))


@pytest.fixture
def asker(tokenizer):
    return Asker(tokenizer, whole_number, Calculator(tokenizer))


ITEMS = stories.problems("reinforce", 24, "train", levels=(1,))


def test_advantages_are_zero_in_sum_and_for_equal_rewards():
    assert advantages([1.0, 1.0]) == [0.0, 0.0]
    assert sum(advantages([1.0, 0.0, 0.0])) == pytest.approx(0.0)


def test_only_sampled_tokens_carry_weight(tokenizer, asker):
    item = ITEMS[0]
    request = asker.request(item, 1.0, 0)
    ids = [*tokenizer.encode("12"), *tokenizer.encode("36"), tokenizer.special["<|im_end|>"]]
    completion = Completion(
        ids, [True, True, False, False, True], [0.0] * 5, "stop", len(request.prompt_ids), 1.0
    )
    part = policy_segments([asker.read(item, request, completion)], [0.5])[0]
    expected = [0.0] * (len(request.prompt_ids) - 1) + [0.5, 0.5, 0.0, 0.0, 0.5]
    assert part.weights.tolist() == expected


def test_engine_and_trainer_agree_on_what_was_sampled(trainer, asker):
    groups = attempt(Engine(trainer.network), asker, ITEMS[:4], samples=4, temperature=1.0, key="gap")
    # Untrained, no answer is right: let one of each group be, so that there is something to learn.
    groups = [[_judged(o, i == 0) for i, o in enumerate(group)] for group in groups]
    done = update(trainer, groups, 1.0)
    assert done.groups_skipped == 0
    assert 0 < done.logprob_gap < 1e-4


def _judged(outcome, correct):
    import dataclasses

    return dataclasses.replace(outcome, correct=correct)


def test_a_disagreement_of_engine_and_trainer_stops_training(trainer, asker):
    groups = attempt(Engine(trainer.network), asker, ITEMS[:2], samples=2, temperature=1.0, key="gap")
    groups = [[_judged(o, i == 0) for i, o in enumerate(group)] for group in groups]
    with torch.no_grad():
        trainer.network.lm_head.weight.mul_(3.0)  # as if the engine had sampled from other weights
    with pytest.raises(GuardError, match="engine and trainer disagree"):
        update(trainer, groups, 1.0)


def test_groups_of_equal_reward_change_nothing(trainer, asker):
    groups = attempt(Engine(trainer.network), asker, ITEMS[:3], samples=2, temperature=1.0, key="none")
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    done = update(trainer, [[_judged(o, False) for o in group] for group in groups], 1.0)
    assert done.groups_skipped == 3 and done.step is None
    assert all(torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())


def test_a_rewarded_answer_becomes_likelier(trainer, asker):
    groups = attempt(Engine(trainer.network), asker, ITEMS[:2], samples=4, temperature=1.0, key="better")
    groups = [[_judged(o, i == 1) for i, o in enumerate(group)] for group in groups]
    sequences = [[*o.prompt_ids, *o.completion.token_ids] for group in groups for o in group]
    before = np.array([sum(s) for s in Engine(trainer.network).score(sequences)])
    update(trainer, groups, 1.0)
    change = (np.array([sum(s) for s in Engine(trainer.network).score(sequences)]) - before).reshape(2, 4)
    assert (change[:, 1] > change[:, [0, 2, 3]].max(1)).all()


def test_the_sign_is_found_right_and_weights_are_put_back(trainer, asker):
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    found = check_sign(trainer, asker, ITEMS)
    assert found.num_pairs == 24 and found.margin_after > found.margin_before
    assert all(torch.equal(before[name], value) for name, value in trainer.network.state_dict().items())


def test_an_inverted_verifier_is_refused(trainer, asker, tokenizer):
    def inverted(answer, gold):
        return Score(1.0 - whole_number(answer, gold).value, True)

    with pytest.raises(GuardError, match="ranks only 0 of 24"):
        check_sign(trainer, Asker(tokenizer, inverted, None), ITEMS)


def test_an_inverted_gradient_is_refused(trainer, asker, monkeypatch):
    monkeypatch.setattr(reinforce, "advantages", lambda rewards: [-a for a in advantages(rewards)])
    with pytest.raises(GuardError, match="less likely than wrong"):
        check_sign(trainer, asker, ITEMS)


def test_chats_weigh_the_assistant_only_and_replay_beside_them(tokenizer):
    chats = chat_segments(tokenizer, stories.demonstrations("w", 16, ("tool",)))
    close = tokenizer.special["</result>"]
    for part in chats:
        user_end = part.ids.tolist().index(tokenizer.special["<|im_end|>"])
        assert not part.weights[:user_end].any()
        forced = part.targets == close
        assert not part.weights[forced].any(), "the calculator's closing token is not the model's choice"
    batch = weighted(chats, [segment([1, 2, 3, 4])], 0.5)
    assert batch.weights_BT.sum() == pytest.approx(1.5, rel=1e-4)


def test_chats_without_loss_are_an_error(tokenizer):
    with pytest.raises(GuardError, match="loss"):
        weighted([segment([1, 2, 3], [0.0, 0.0, 0.0])], [], 0.5)


def test_chat_batches_are_a_function_of_the_step(tokenizer):
    chats = chat_segments(tokenizer, stories.demonstrations("b", 32, ("tool",)))
    batches = ChatBatches(chats, batch_size=8, epochs=2, seed=1)
    whole = list(batches())
    assert len(whole) == batches.num_steps == 8
    for a, b in zip(whole[5:], batches(5), strict=True):
        assert torch.equal(a.ids_BT, b.ids_BT)


def test_unseen_rows_start_from_different_relatives(trainer, tokenizer):
    initialise_special_rows(trainer.network, tokenizer, 0)
    table = trainer.network.model.embed_tokens.weight
    similar = torch.nn.functional.cosine_similarity
    assert similar(table[tokenizer.special["<result>"]], table[tokenizer.encode("=")[-1]], dim=0) > 0.9
    assert similar(table[tokenizer.special["<tool>"]], table[tokenizer.special["</think>"]], dim=0) < 0.9


def _votes(asker, answers):
    item = ITEMS[0]
    outcomes = []
    for answer in answers:
        request = asker.request(item, 1.0, 0)
        ids = asker.tokenizer.encode(answer)
        completion = Completion(ids, [True] * len(ids), [0.0] * len(ids), "stop", 1, 0.0)
        outcomes.append(asker.read(item, request, completion))
    return outcomes


def test_votes_and_pass_at_k(asker):
    gold = ITEMS[0].answer
    wrong = str(int(gold) + 1)
    outcomes = _votes(asker, [wrong, gold, gold, "not a number"])
    assert majority(outcomes) and majority_of(outcomes, 1) == 0.5
    assert pass_at_k(outcomes, 1) == 0.5
    assert pass_at_k(outcomes, 2) == pytest.approx(1 - (2 / 4) * (1 / 3))
    assert pass_at_k(outcomes, 4) == 1.0
    assert not majority(_votes(asker, ["x", "y"]))
