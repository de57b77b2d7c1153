"""Worked examples: tokens as they come at generation, results without weight, and what is no example is refused."""

import json

import pytest

from kweek.align.worked import Worked, of_problem, read_worked, with_the_calculators_results, worked_segment
from kweek.data import stories
from kweek.errors import DataError
from kweek.system.inline_calculator import InlineCalculator
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train([*stories.sample_texts("worked", 100, "train"), "<<1+2=3>> #### 4"] * 5, 416)


def test_results_are_the_tokens_that_the_calculator_forces_and_carry_no_weight(tokenizer):
    tool = InlineCalculator(tokenizer)
    for item in stories.problems("worked", 20, "train"):
        example = of_problem(item)
        part = worked_segment(tokenizer, example, tokenizer.special["<|im_end|>"])
        ids = [*part.ids.tolist(), int(part.targets[-1])]
        at = len(encode_prompt(tokenizer, [{"role": "user", "content": item.question}]))
        assert not part.weights[: at - 1].any() and part.weights[-1] == 1
        forced = 0
        while at < len(ids):
            result = tool(ids[:at])
            assert ids[at : at + len(result)] == result
            assert (part.weights[at - 1 : at - 1 + len(result)] == 0).all()
            at += len(result)
            forced += bool(result)
            assert part.weights[at - 1] == 1
            at += 1
        assert forced == item.level
        assert example.answer == item.answer


def test_rounded_results_are_left_out_and_counted():
    sound = Worked("q", "It is <<100/4=25>>25 and <<25*2=50>>50.\n#### 50")
    rounded = Worked("q", "It is <<100/3=33.33>>33.33.\n#### 33.33")
    unreadable = Worked("q", "It is <<x=3>>3.\n#### 3")
    plain = Worked("q", "3 = 3, and <3=3> too.\n#### 3")
    zeros = Worked("q", "It is <<8*18=144.00>>144.00, half of it <<144*.5=72.0>>72\n#### 72")
    kept, left = with_the_calculators_results([sound, rounded, unreadable, plain, zeros])
    assert kept[:2] == [sound, plain]
    assert kept[2].solution == "It is <<8*18=144>>144.00, half of it <<144*.5=72>>72\n#### 72"
    assert left == {"a result that is not the calculator's": 2}


def test_examples_are_read_by_line(tmp_path):
    path = tmp_path / "examples.jsonl"
    rows = [
        {"question": "One and one?", "answer": "<<1+1=2>>2\n#### 2"},
        {"question": "Ü, two lines\u2028long?", "answer": "#### 7"},
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    assert read_worked(path) == [Worked(row["question"], row["answer"]) for row in rows]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "examples.jsonl:2: not valid JSON"),
        ("[1]", "examples.jsonl:2: an example needs a question and an answer"),
        ('{"question": "a", "answer": null}', "examples.jsonl:2: an example needs"),
        ('{"question": "a", "answer": "7"}', "examples.jsonl:2: the answer has no line ####"),
    ],
)
def test_what_is_no_example_is_named_by_its_line(tmp_path, line, words):
    path = tmp_path / "examples.jsonl"
    path.write_text('{"question": "a", "answer": "#### 1"}\n' + line + "\n")
    with pytest.raises(DataError, match=words):
        read_worked(path)


def test_a_file_without_examples_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="there is no example"):
        read_worked(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_worked(tmp_path / "missing.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_worked(tmp_path / "bytes.jsonl")
