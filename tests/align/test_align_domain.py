"""Domains: what is learnt is what will be asked to be written, what is examined is never learnt, files come back."""

import json
from collections import Counter

import pytest

from kweek.align.domain import SPLITS, Domain, Exercise, load_domain, with_answers
from kweek.align.domain_reading import NUMBER, TEXT, Files, of_files, of_task
from kweek.align.worked import Worked, worked_segment
from kweek.data import stories
from kweek.errors import DataError
from kweek.system.inline_calculator import InlineCalculator
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_chat

COUNTS = {"train": 20, "validation": 4, "test": 6}


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train([*stories.sample_texts("domain", 100, "train"), "<<1+2=3>> #### 4"] * 5, 416)


def files(path, **changes):
    given = {
        "examples": path, "test": None, "format": None, "verifier": None, "calculator": None, "max_new_tokens": None,
        "system": None, "counts": {"train": 500, "validation": 50, "test": 80}, "share": 0.3,
    }  # fmt: skip
    return Files(**{**given, **changes})


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_stories_are_worked_with_the_calculator_and_split_by_content(tokenizer):
    domain = of_task("stories", COUNTS, "a").domain
    assert {split: len(domain.exercises[split]) for split in SPLITS} == COUNTS
    asked = {split: {one.question for one in domain.exercises[split]} for split in SPLITS}
    assert not asked["train"] & asked["test"] and not asked["validation"] & asked["test"]
    other = of_task("stories", COUNTS, "b").domain
    assert other.exercises["test"] == domain.exercises["test"] != other.exercises["train"][:6]
    one = domain.exercises["train"][0]
    ours = domain.segments(tokenizer, "train", 512)[0]
    theirs = worked_segment(tokenizer, Worked(one.question, one.worked), tokenizer.special["<|im_end|>"])
    assert ours.ids.tolist() == theirs.ids.tolist() and ours.weights.tolist() == theirs.weights.tolist()


def test_the_judge_takes_the_last_number_and_the_calculator_answers(tokenizer):
    domain = of_task("stories", COUNTS, "a").domain
    environment = domain.environment()
    assert isinstance(environment.interceptor(tokenizer), InlineCalculator)
    item = environment.items("key", 1, "test")[0]
    for said, value in (
        (f"So {item.gold} in all.", 1.0),
        (f"{item.gold} or {int(item.gold) + 1}", 0.0),
        ("", 0.0),
    ):
        episode = environment.begin(item)
        episode.step({"role": "assistant", "content": said})
        assert episode.score().value == value


def test_a_domain_comes_back_from_its_folder(tmp_path):
    domain = of_task("stories", COUNTS, "a").domain
    domain.save(tmp_path)
    assert load_domain(tmp_path) == domain
    with pytest.raises(DataError, match="no domain"):
        (tmp_path / "test.jsonl").unlink()
        load_domain(tmp_path)


def test_worked_examples_of_a_file_are_recognised(tmp_path):
    rows = [
        {"question": f"Tom has {n} cups and buys {n + 1} more, then some friend of his takes {n} away again. How many?",
         "answer": f"{n}+{n + 1} = <<{n}+{n + 1}={2 * n + 1}.0>>{2 * n + 1}\n#### {2 * n + 1}"}
        for n in range(1000, 1060)
    ]  # fmt: skip
    rows[7]["answer"] = "<<1000/3=333.3>>333.3\n#### 333.3"
    rows[8]["answer"] = rows[8]["answer"].replace("#### 2017", "#### 2,017")
    found = of_files(files(write(tmp_path / "sums.jsonl", rows)), "k")
    domain = found.domain
    assert domain.calculator and domain.verifier == NUMBER and domain.name == "sums"
    everything = [one for split in SPLITS for one in domain.exercises[split]]
    assert 50 <= len(everything) <= 60 and "2017" in {one.gold for one in everything}
    in_train = list(domain.exercises["train"])
    assert all(".0>>" not in one.worked and "333.3" not in one.worked for one in in_train)
    again = of_files(files(write(tmp_path / "sums.jsonl", rows[::-1])), "k").domain
    assert {o.question for o in again.exercises["test"]} == {o.question for o in domain.exercises["test"]}


def test_chats_are_judged_by_their_text_and_all_turns_are_learnt(tokenizer, tmp_path):
    rows = [
        {"messages": [
            {"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"It is {n}"},
            {"role": "user", "content": f"And after {n}?"}, {"role": "assistant", "content": f"{n + 1}"},
        ]} for n in range(40)
    ]  # fmt: skip
    domain = of_files(files(write(tmp_path / "chats.jsonl", rows), system="Count."), "k").domain
    assert domain.verifier == TEXT and not domain.calculator
    one = domain.exercises["train"][0]
    assert one.messages[0] == {"role": "system", "content": "Count."} and len(one.messages) == 4
    part = domain.segments(tokenizer, "train", 512)[0]
    chat = encode_chat(tokenizer, [*one.messages, one.answer])
    assert part.weights.tolist() == [float(own) for own in chat.loss_mask[1:]]


def test_questions_whose_answer_cannot_be_judged_are_left_out_of_the_test(tmp_path):
    rows = [
        {"question": f"Which letter has number {n}?", "answer": "a" if n % 2 else f"x{n}"} for n in range(80)
    ]
    found = of_files(files(write(tmp_path / "letters.jsonl", rows)), "k")
    assert found.left_out["a right answer that the judge cannot read"] > 0
    assert all(one.gold != "a" for one in found.domain.exercises["test"])
    assert any(one.gold == "a" for one in found.domain.exercises["train"])


def test_training_leaves_out_what_holds_a_question_of_the_test(tmp_path):
    asked = (
        "How many apples does the old farmer from the village by the lake have after he sold nine of them?"
    )
    train = [
        {"question": f"Count the {n} grey geese by the lake and tell", "answer": f"#### {n}"}
        for n in range(50)
    ]
    train.append({"question": f"Listen well. {asked} Please answer.", "answer": "#### 3"})
    test = [{"question": asked, "answer": "#### 3"}]
    found = of_files(
        files(write(tmp_path / "train.jsonl", train), test=write(tmp_path / "test.jsonl", test)), "k"
    )
    assert found.contaminated == 1 and len(found.domain.exercises["validation"]) < 15
    assert all(asked not in one.question for one in found.domain.exercises["train"])
    assert [one.question for one in found.domain.exercises["test"]] == [asked]


def test_prompts_without_answers_have_nothing_to_imitate(tokenizer, tmp_path):
    rows = [{"prompt": f"What is {n}+1?", "gold": str(n + 1), "verifier": "number"} for n in range(60)]
    domain = of_files(files(write(tmp_path / "tasks.jsonl", rows)), "k").domain
    assert domain.verifier == "number"
    with pytest.raises(DataError, match="no answer to learn from"):
        domain.segments(tokenizer, "train", 512)
    taught = [
        Exercise(one.messages, {"role": "assistant", "content": one.gold}, one.gold)
        for one in domain.exercises["train"]
    ]
    assert with_answers(domain, taught).segments(tokenizer, "train", 512)


def test_what_is_too_long_is_left_out(tokenizer):
    domain = of_task("stories", COUNTS, "a").domain
    sizes = sorted(len(part) + 1 for part in domain.segments(tokenizer, "train", 10_000))
    assert len(domain.segments(tokenizer, "train", sizes[5])) >= 6
    left_out = Counter()
    kept = domain.segments(tokenizer, "train", sizes[5], left_out)
    assert max(len(part) + 1 for part in kept) == sizes[5]
    assert left_out == {"more tokens than fit": 20 - len(kept)}
    with pytest.raises(DataError, match="fits"):
        Domain(domain.name, NUMBER, True, 8, domain.exercises).segments(tokenizer, "train", 3)
