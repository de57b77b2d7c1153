"""Judging many pairs: order, repeats, undo and resuming follow from the records alone; the summary counts rightly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.data.chats import Messages
from kweek.data.chats_reading import read_chats
from kweek.data.chats_report import Report
from kweek.stats.intervals import wilson
from kweek.store.records import Records
from kweek.system.blind import Choice, Pair
from kweek.system.labels import AHEAD, DISTANCE, Contest, Labels

NAMES = ("A", "B")


def contests(count: int) -> list[Contest]:
    return [
        Contest(
            ({"role": "user", "content": f"question {i}"},),
            {name: ({"role": "assistant", "content": f"{name} says {i}"},) for name in NAMES},
        )
        for i in range(count)
    ]


def labels(path: Path, count: int, coin: Any = None) -> Labels:
    given_coin = {"coin": coin} if coin else {}
    return Labels(NAMES, contests(count), Records(path), **given_coin)


def prefers(pair: Pair, name: str) -> Choice:
    """The key of a person who likes one side."""
    return "1" if pair.order[0] == name else "2"


def through(held: Labels, count: int, name: str = "A") -> list[Pair]:
    """Judge some pairs, always for one side."""
    pairs = []
    for _ in range(count):
        pair = held.next()
        assert pair is not None
        held.judge(pair, prefers(pair, name), 2.0)
        pairs.append(pair)
    return pairs


def test_every_pair_comes_once_and_some_again_the_other_way_round(tmp_path: Path) -> None:
    held = labels(tmp_path / "p.jsonl", 40)
    pairs = through(held, 44)
    assert held.next() is None
    fresh = [pair for pair in pairs if not pair.repeat]
    again = [pair for pair in pairs if pair.repeat]
    assert len({pair.item for pair in fresh}) == len(fresh) == 40
    assert len({pair.item for pair in again}) == len(again) == 4
    for pair in again:
        before = next(i for i, other in enumerate(pairs) if other.item == pair.item)
        assert pairs[before].order == pair.order[::-1]
        assert set(pairs[before].shown) == set(pair.shown)
        assert pairs.index(pair) - before > DISTANCE
    assert held.num_done == held.num_pairs == 40


def test_both_sides_come_first_and_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    held = labels(tmp_path / "p.jsonl", 40)
    pairs = [pair for pair in through(held, 44) if not pair.repeat]
    assert {pair.order for pair in pairs} == {NAMES, NAMES[::-1]}
    turned = Labels(NAMES, contests(40)[::-1], Records(tmp_path / "q.jsonl"))
    assert [pair.item for pair in through(turned, 20) if not pair.repeat] == [p.item for p in pairs][:19]
    assert [pair.prompt[0]["content"] for pair in pairs] != [f"question {i}" for i in range(40)]


def test_leaving_and_coming_back_changes_nothing(tmp_path: Path) -> None:
    whole = labels(tmp_path / "one.jsonl", 30, coin=lambda: True)
    wanted = [(pair.item, pair.order, pair.repeat) for pair in through(whole, 33)]
    found = []
    for _ in range(33):
        held = labels(tmp_path / "many.jsonl", 30, coin=lambda: True)
        held.next()  # seen but not judged
        (pair,) = through(labels(tmp_path / "many.jsonl", 30, coin=lambda: True), 1)
        found.append((pair.item, pair.order, pair.repeat))
    assert found == wanted
    assert labels(tmp_path / "many.jsonl", 30).next() is None
    assert labels(tmp_path / "many.jsonl", 30).summary() == whole.summary()


def test_a_judgement_can_be_taken_back_in_this_session_and_the_next(tmp_path: Path) -> None:
    held = labels(tmp_path / "p.jsonl", 30)
    assert not held.undo()
    pairs = through(held, 12)
    assert pairs[10].repeat
    for session in (held, labels(tmp_path / "p.jsonl", 30)):
        assert session.undo()
    for pair in pairs[10:]:
        back = held.next()
        assert back is not None
        assert (back.item, back.repeat) == (pair.item, pair.repeat)
        held.judge(back, prefers(back, "B"), 1.0)
    assert held.summary().tally.won == {"A": 10, "B": 1}
    numbers = [record["number"] for record in Records.read(tmp_path / "p.jsonl")]
    assert len(set(numbers)) == len(numbers) == 12


def test_what_is_kept_is_preference_data(tmp_path: Path) -> None:
    held = labels(tmp_path / "p.jsonl", 20)
    through(held, 10)
    for choice in ("tie", "skip"):
        pair = held.next()
        assert pair is not None
        while pair.repeat:
            held.judge(pair, "1", 1.0)
            pair = held.next()
            assert pair is not None
        held.judge(pair, choice, 1.0)  # type: ignore[arg-type]
    report = Report()
    rows = list(read_chats(tmp_path / "p.jsonl", report))
    assert len(rows) == 10
    assert all(row.chosen[0]["content"].startswith("A says") for row in rows)  # type: ignore[union-attr]
    assert report.format == "labels"
    assert report.skipped == {"judged a second time": 1, "a tie": 1, "passed over by the person": 1}


def test_the_summary_counts_agreement_time_and_place(tmp_path: Path) -> None:
    held = labels(tmp_path / "p.jsonl", 40)
    seconds = iter(range(1, 99))
    while (pair := held.next()) is not None:
        held.judge(pair, "1", float(next(seconds)))  # whatever is shown first
    summary = held.summary()
    assert summary.num_repeats == 4
    assert summary.agreement == wilson(0, 4)  # the other way round, so the other side
    assert summary.first == wilson(44, 44)
    assert summary.position_p is not None
    assert summary.position_p < 1e-9
    assert summary.median_seconds == 22.5
    assert sum(summary.tally.won.values()) == 40


def test_a_person_who_is_sure_agrees_with_themselves(tmp_path: Path) -> None:
    held = labels(tmp_path / "p.jsonl", 60)
    through(held, 66)
    summary = held.summary()
    assert summary.agreement == wilson(6, 6)
    assert summary.position_p is not None
    assert summary.position_p > 1e-4
    assert summary.tally.told_apart
    assert summary.tally.share == wilson(60, 60)


def test_nothing_judged_is_nothing_said(tmp_path: Path) -> None:
    summary = labels(tmp_path / "p.jsonl", 3).summary()
    assert (summary.agreement, summary.median_seconds, summary.first, summary.position_p) == (None,) * 4
    assert summary.tally.share is None


def test_equal_answers_are_not_asked_about(tmp_path: Path) -> None:
    same = {name: ({"role": "assistant", "content": "yes"},) for name in NAMES}
    some = [Contest(({"role": "user", "content": "?"},), same), *contests(3)]
    held = Labels(NAMES, some, Records(tmp_path / "p.jsonl"))
    through(held, 3)
    assert held.next() is None
    assert (held.summary().tally.same, held.summary().tally.won["A"]) == (1, 3)
    assert held.undo()
    assert held.next() is not None


def test_answers_are_made_ahead_and_only_where_needed(tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(prompts: Sequence[Messages]) -> list[dict[str, Messages]]:
        asked.append(len(prompts))
        return [
            {name: ({"role": "assistant", "content": f"{name} on {p[0]['content']}"},) for name in NAMES}
            for p in prompts
        ]

    questions = [Contest(({"role": "user", "content": f"question {i}"},)) for i in range(20)]
    held = Labels(NAMES, questions, Records(tmp_path / "p.jsonl"), answer)
    for pair in through(held, 9):
        assert all(str(pair.prompt[0]["content"]) in text for text in pair.shown)
    assert asked == [AHEAD, AHEAD]
    again = Labels(NAMES, questions, Records(tmp_path / "p.jsonl"), answer)
    through(again, 13)
    assert again.next() is None
    assert sum(asked[2:]) == 11


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["1", "2", "tie", "skip", "undo", "leave"]), max_size=60), st.integers(0, 99))
def test_any_session_accounts_for_every_pair(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], seed: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "p.jsonl"
    chance = random.Random(seed)
    held = labels(path, 12, coin=lambda: chance.random() < 0.5)
    kept: list[tuple[str, bool, str]] = []
    for word in said:
        if word == "leave":
            held = labels(path, 12, coin=lambda: chance.random() < 0.5)
        elif word == "undo":
            assert held.undo() == bool(kept)
            kept = kept[:-1]
        elif (pair := held.next()) is not None:
            held.judge(pair, word, 1.0)  # type: ignore[arg-type]
            kept.append((pair.item, pair.repeat, word))
    records = Records.read(path)
    assert [(r["item"], r["repeat"], r["choice"]) for r in records] == kept
    assert held.num_done == len({item for item, _, _ in kept})
    tally = held.summary().tally
    assert sum(tally.won.values()) + tally.ties + held.summary().skipped == sum(not r for _, r, _ in kept)
