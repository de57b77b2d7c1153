"""Files of preferences become pairs; what does not is counted."""

import json

import pytest
from policy_world import small_tokenizer

from kweek.align.preferences import load_preferences
from kweek.errors import DataError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(question, chosen, rejected, **more):
    return {"prompt": question, "chosen": chosen, "rejected": rejected, **more}


def test_pairs_of_a_file_and_what_is_left_out(tmp_path):
    rows = [
        row("What is 2+2?", "4", "5"),
        row("What is 2+3?", "5", "6 " * 90),
        row("What is 2+2?", "4", "5"),
        row("What is 3+3?", "6", "6"),
        {"prompt": "no answers", "chosen": "x"},
    ]
    tokenizer = small_tokenizer()
    pairs, report = load_preferences(write(tmp_path / "p.jsonl", rows), tokenizer, max_tokens=60)
    (only,) = pairs
    learnt = [
        tokenizer.decode([i for i, own in zip(side.token_ids, side.loss_mask, strict=True) if own])
        for side in (only.chosen, only.rejected)
    ]
    assert learnt == ["4<|im_end|>", "5<|im_end|>"]
    assert report.num_rows == 1 and report.num_skipped == 4
    assert {"more tokens than fit", "the same row as one before"} <= set(report.skipped)


def test_nothing_left_is_an_error_that_names_the_commonest_reason(tmp_path):
    path = write(tmp_path / "p.jsonl", [row(f"What is {n}+2?", "4 " * 90, "5") for n in range(3)])
    with pytest.raises(DataError, match="3 times more tokens than fit"):
        load_preferences(path, small_tokenizer(), max_tokens=40)
