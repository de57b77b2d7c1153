"""Blind trials: nothing gives the models away, and what is said is kept and counted."""

import pytest

from kweek.data import stories
from kweek.data.chats_reading import read_chats
from kweek.data.chats_report import Report
from kweek.stats.intervals import wilson
from kweek.store.records import Records
from kweek.system.blind import BlindTrial, count, toss
from kweek.system.session import Session
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_trusted


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("blind", 100, "train"), 320)


class Fixed:
    """A language model that always says the same."""

    def __init__(self, tokenizer, answer):
        self.ids, self.prompts = encode_trusted(tokenizer, f"{answer}<|im_end|>"), []

    def generate(self, requests, on_token=None):
        from kweek.protocols import Completion

        self.prompts += [list(request.prompt_ids) for request in requests]
        return [Completion(self.ids, [], [], "stop", len(r.prompt_ids), 1.0) for r in requests]

    def score(self, sequences):
        raise NotImplementedError


def trial(tokenizer, path, coin, a="yes", b="no"):
    sessions = {name: Session(Fixed(tokenizer, said), tokenizer, 400) for name, said in (("a", a), ("b", b))}
    return BlindTrial(sessions, Records(path), coin), sessions


def test_the_coin_decides_the_order_and_the_choice_finds_the_model(tokenizer, tmp_path):
    tosses = [True, False, False, True]
    held, _ = trial(tokenizer, tmp_path / "r.jsonl", iter(tosses).__next__)
    for heads, choice in zip(tosses, ["1", "1", "2", "tie"], strict=True):
        pair = held.ask("?")
        assert pair.shown == (("yes", "no") if heads else ("no", "yes"))
        held.judge(pair, choice)
    tally = held.tally()
    assert tally.won == {"a": 2, "b": 1}
    assert (tally.ties, tally.same) == (1, 0)
    assert tally.share == wilson(2, 3)
    records = Records.read(tmp_path / "r.jsonl")
    assert [record["winner"] for record in records] == ["a", "b", "a", None]
    assert all(record["answers"] == {"a": "yes", "b": "no"} for record in records)
    assert [record["chosen"] and record["chosen"][0]["content"] for record in records] == [
        "yes",
        "no",
        "yes",
        None,
    ]
    report = Report()
    preferred = [row.chosen[0]["content"] for row in read_chats(tmp_path / "r.jsonl", report)]
    assert preferred == ["yes", "no", "yes"]  # what is kept is preference data, the tie aside
    assert report.skipped == {"a tie": 1}


def test_both_orders_come_up_by_themselves(tokenizer, tmp_path):
    held, _ = trial(tokenizer, tmp_path / "r.jsonl", toss)
    assert len({held.ask("?").order for _ in range(40)}) == 2


def test_every_question_is_asked_afresh(tokenizer, tmp_path):
    held, sessions = trial(tokenizer, tmp_path / "r.jsonl", lambda: True)
    for _ in range(3):
        held.ask("How many?")
    for session in sessions.values():
        assert len({tuple(prompt) for prompt in session.model.prompts}) == 1


def test_equal_answers_are_no_choice(tokenizer, tmp_path):
    held, _ = trial(tokenizer, tmp_path / "r.jsonl", lambda: True, "yes", "yes")
    pair = held.ask("?")
    assert pair.same
    held.judge(pair, "1")
    tally = held.tally()
    assert (tally.same, tally.ties, tally.share) == (1, 0, None)
    assert not tally.told_apart


def test_earlier_pairs_count_and_those_of_other_models_do_not(tokenizer, tmp_path):
    path = tmp_path / "r.jsonl"
    for _ in range(2):
        held, _ = trial(tokenizer, path, lambda: True)
        for _ in range(4):
            held.judge(held.ask("?"), "1")
    Records(path).append("pair", order=["a", "c"], winner="c", same=False)
    Records(path).append("note", text="tired")
    assert held.tally().won == {"a": 8, "b": 0}
    assert held.tally().told_apart
    assert count(("b", "a"), Records.read(path)).share == wilson(0, 8)


def test_two_models_it_must_be(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="two models"):
        BlindTrial({"a": Session(Fixed(tokenizer, "yes"), tokenizer, 400)}, Records(tmp_path / "r"))
