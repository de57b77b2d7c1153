"""Text in pieces is, joined, what the parser of whole answers reads; in vocabularies with and without tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data import stories
from kweek.serve.writing import Writing, is_thinking
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt, encode_trusted, parse_completion
from kweek.tokenize.tokenizer import Tokenizer

TOKENIZER = bpe.train(stories.sample_texts("writing", 100, "train"), 320)


def without_tags(tokenizer):
    """The same vocabulary with the tags of thinking as ordinary text."""
    definition = dict(tokenizer.definition)
    definition["added_tokens"] = [t for t in definition["added_tokens"] if "think" not in t["content"]]
    return Tokenizer(definition, tokenizer.config, tokenizer.chat_template)


PLAIN = without_tags(TOKENIZER)
TEXTS = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool>", "\n", " ", "é🦜", "a", "</thi", "<", "think>", "<|im_end|>", "日"]
    ),
    max_size=9,
).map("".join)


def write(tokenizer, ids, thinking=False, stops=()):
    writing = Writing(tokenizer, [stop.encode() for stop in stops], chat=True, thinking=thinking)
    pieces = [piece for index in ids for piece in writing.feed(index)] + writing.finish()
    return {
        part: "".join(piece.text for piece in pieces if piece.part == part)
        for part in ("reasoning_content", "content")
    }


@pytest.mark.parametrize("tokenizer", [TOKENIZER, PLAIN], ids=["tags are tokens", "tags are text"])
@given(text=TEXTS, thinking=st.booleans(), trusted=st.booleans())
def test_pieces_joined_are_the_parsed_answer(tokenizer, text, thinking, trusted):
    ids = encode_trusted(tokenizer, text) if trusted else tokenizer.encode(text)
    assert write(tokenizer, ids, thinking) == parse_completion(tokenizer, ids, thinking=thinking)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=20))
def test_any_tokens_are_the_decoded_text(ids):
    writing = Writing(TOKENIZER)
    text = "".join(piece.text for index in ids for piece in writing.feed(index))
    text += "".join(piece.text for piece in writing.finish())
    assert text == TOKENIZER.decode([index for index in ids if index not in TOKENIZER.stop_ids])


def test_a_character_waits_for_its_last_byte():
    writing = Writing(TOKENIZER)
    ids = TOKENIZER.encode("🦜")
    assert len(ids) == 4
    assert [writing.feed(index) for index in ids[:3]] == [[], [], []]
    assert writing.feed(ids[3])[0].text == "🦜"
    writing.feed(ids[0])
    assert writing.finish()[0].text == "\ufffd", "cut off for good"


def test_a_stop_text_may_lie_in_the_thought_and_over_its_end():
    ids = encode_trusted(TOKENIZER, "<think>one two</think>three")
    assert write(TOKENIZER, ids, stops=["two"]) == {"reasoning_content": "one ", "content": ""}
    assert write(TOKENIZER, ids, stops=["</think>t"]) == {"reasoning_content": "one two", "content": ""}
    assert write(TOKENIZER, ids, stops=["</think>x"]) == {"reasoning_content": "one two", "content": "three"}


def test_thought_tokens_are_counted():
    writing = Writing(TOKENIZER, chat=True)
    ids = encode_trusted(TOKENIZER, "<think>x</think>yyy")
    for index in ids:
        writing.feed(index)
    assert writing.num_thought_tokens == 3


def test_an_id_that_only_pads_the_network_has_no_text():
    writing = Writing(TOKENIZER)
    assert writing.feed(TOKENIZER.vocab_size + 3) == [] == writing.finish()


def test_whether_a_prompt_has_opened_the_thought():
    ask = [{"role": "user", "content": "x"}]
    for think, expected in ((None, False), (True, True), (False, False)):
        assert is_thinking(TOKENIZER, encode_prompt(TOKENIZER, ask, think=think)) is expected
    assert is_thinking(PLAIN, PLAIN.encode("assistant\n<think>\n"))
    assert not is_thinking(PLAIN, PLAIN.encode("<think>\n</think>\n"))
