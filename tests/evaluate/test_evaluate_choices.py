"""Questions with options: the likeliest per byte is chosen, files are read or refused with their line."""

import json

import pytest

from kweek.data import stories
from kweek.errors import DataError
from kweek.evaluate.choices import Choice, chosen_rightly, general_questions, read_choices
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("choices", 60, "train"), 320)


class Scorer:
    """Finds every token as likely as its id is small, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, sequences):
        self.asked = [list(ids) for ids in sequences]
        return [[-0.01 * token for token in ids] for ids in sequences]


def cost(tokenizer, text):
    return 0.01 * sum(tokenizer.encode(text)) / len(text.encode())


def test_the_option_that_costs_least_per_byte_is_chosen(tokenizer):
    options = ["apples", "a", "many hats and coins", "zzz"]
    best = min(options, key=lambda text: cost(tokenizer, text))
    choices = [
        Choice(question, right, tuple(text for text in options if text != right))
        for right in options
        for question in ("Which?", "")
    ]
    scorer = Scorer()
    found = chosen_rightly(scorer, tokenizer, choices)
    assert found == [float(choice.right == best) for choice in choices] and 1.0 in found
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Which?"}])
    assert scorer.asked[0] == [*prompt, *tokenizer.encode(options[0])]
    assert scorer.asked[4] == [tokenizer.eos_id, *tokenizer.encode(options[0])]


def test_equal_options_are_not_right(tokenizer):
    assert chosen_rightly(Scorer(), tokenizer, [Choice("Q?", "one", ("one",))]) == [0.0]


def test_the_general_questions_are_different_and_have_one_right_answer_each():
    questions = general_questions()
    assert len({one.question for one in questions}) == len(questions) == 64
    assert all(len({one.right, *one.wrong}) == 4 for one in questions)


@pytest.mark.parametrize(
    "line",
    ['{"question": "Q", "right": "a"}', '{"right": "", "wrong": ["b"]}', '{"right": "a", "wrong": "b"}', "[1]", "{",
     '{"right": "a", "wrong": []}', '{"question": 3, "right": "a", "wrong": ["b"]}'],
)  # fmt: skip
def test_a_line_that_is_no_question_is_named(tmp_path, line):
    path = tmp_path / "choices.jsonl"
    path.write_text('{"question": "Q", "right": "a", "wrong": ["b"]}\n\n' + line + "\n")
    with pytest.raises(DataError, match="line 3"):
        read_choices(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no questions"):
        read_choices(path)


def test_questions_come_from_a_file(tmp_path):
    path = tmp_path / "choices.jsonl"
    path.write_text(json.dumps({"right": "He sings.", "wrong": ["He sing."]}) + "\n")
    assert read_choices(path) == [Choice("", "He sings.", ("He sing.",))]
