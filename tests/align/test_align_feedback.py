"""Judgements from a file: what can be learnt from them, on either side, and what was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kweek.align.feedback import load_judged, load_pairs
from kweek.align.pairs import usable
from kweek.data import stories
from kweek.errors import DataError
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return bpe.train(stories.sample_texts("feedback", 200, "train"), 384)


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    words = [*stories.THINGS, *stories.NAMES["he"], *stories.NAMES["she"]][:count]
    return [{"prompt": f"Spell {word}!", "chosen": word, "rejected": f"{word}?"} for word in words]


def test_pairs_of_a_file_are_learnt_from_on_two_sides(tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = pairs(40)
    records[0] |= {"score_chosen": 0.75, "score_rejected": 0.25}
    records += [records[1], {**records[2], "chosen": "x " * 200}]
    found = load_pairs(write(tmp_path / "a.jsonl", records), tokenizer, max_tokens=100, share=0.2)
    assert len(found.train) + len(found.validation) + found.num_near == 40 == found.report.num_rows
    assert found.validation and found.report.skipped == {
        "the same row as one before": 1,
        "more tokens than fit": 1,
    }
    everything = [*found.train, *found.validation]
    assert len(usable(everything, 100)[0]) == len(everything)
    assert {one.margin for one in everything} <= {0.0, 0.5}
    for one in everything:
        chosen, rejected = (
            tokenizer.decode([i for i, own in zip(side.token_ids, side.loss_mask, strict=True) if own])
            for side in (one.chosen, one.rejected)
        )
        assert rejected.removesuffix("<|im_end|>") == chosen.removesuffix("<|im_end|>") + "?"


def test_of_pairs_and_thumbs_the_answers_are_good_or_bad(tokenizer: Tokenizer, tmp_path: Path) -> None:
    of_pairs = load_judged(write(tmp_path / "a.jsonl", pairs(40)), tokenizer, max_tokens=100, share=0.2)
    assert sum(one.good for one in of_pairs.train) * 2 == len(of_pairs.train)
    records = [
        {"prompt": one["prompt"], "completion": one["chosen"], "label": i % 4 > 0}
        for i, one in enumerate(pairs(40))
    ]
    thumbs = load_judged(write(tmp_path / "b.jsonl", records), tokenizer, max_tokens=100, share=0.2)
    everything = [*thumbs.train, *thumbs.validation]
    assert len(everything) + thumbs.num_near == 40
    assert abs(sum(one.good for one in everything) - 30) <= thumbs.num_near


def test_rows_of_another_kind_and_a_file_of_which_nothing_is_left(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    chats = write(tmp_path / "a.jsonl", [{"question": "1+1?", "answer": "2"}] * 3)
    with pytest.raises(DataError, match="a conversation where a preference is needed"):
        load_pairs(chats, tokenizer, max_tokens=100)
    with pytest.raises(DataError, match=r"nothing in it can be used .*3 x more tokens than fit"):
        load_pairs(write(tmp_path / "b.jsonl", pairs(3)), tokenizer, max_tokens=4)
