"""Answers to problems: votes and pass at k."""

import pytest

from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.evaluate.problems import Asker, majority, majority_of, pass_at_k
from kweek.protocols import Completion
from kweek.system.calculator import Calculator
from kweek.tokenize import bpe

ITEMS = stories.problems("reinforce", 24, "train", levels=(1,))


@pytest.fixture(scope="module")
def asker():
    tokenizer = bpe.train(stories.sample_texts("align", 300, "train"), 416)
    return Asker(tokenizer, whole_number, Calculator(tokenizer))


def _votes(asker, answers):
    item = ITEMS[0]
    outcomes = []
    for answer in answers:
        ids = asker.tokenizer.encode(answer)
        completion = Completion(ids, [True] * len(ids), [0.0] * len(ids), "stop", 1, 0.0)
        outcomes.append(asker.read(item, completion))
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
