"""Tokenizers agree where every text gets the same ids, and only there."""

from __future__ import annotations

import copy

import pytest

from kweek.errors import ConfigError
from kweek.tokenize import bpe
from kweek.tokenize.agreement import check_same_tokenizer, ids_fingerprint
from kweek.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(["some text about a cat " * 20], 288)


def changed(tokenizer, change):
    definition = copy.deepcopy(tokenizer.definition)
    change(definition)
    return Tokenizer(definition, tokenizer.config, tokenizer.chat_template)


def test_template_and_settings_decide_nothing(tokenizer):
    same = Tokenizer(tokenizer.definition, {**tokenizer.config, "note": "x"}, "another template")
    check_same_tokenizer(tokenizer, same)
    assert ids_fingerprint(same) == ids_fingerprint(tokenizer)
    assert same.fingerprint() != tokenizer.fingerprint()


def swap_two_ids(definition):
    vocabulary = definition["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.get)[100:102]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


CHANGES = {
    "model": swap_two_ids,
    "added_tokens": lambda definition: definition["added_tokens"][0].update(content="<|other|>"),
    "pre_tokenizer": lambda definition: definition.update(pre_tokenizer={"type": "Whitespace"}),
}


@pytest.mark.parametrize("part", CHANGES)
def test_as_many_tokens_with_other_ids_are_refused(tokenizer, part):
    other = changed(tokenizer, CHANGES[part])
    assert other.vocab_size == tokenizer.vocab_size
    with pytest.raises(ConfigError, match=rf"different tokenizers \({part} differs\)"):
        check_same_tokenizer(tokenizer, other)
    assert ids_fingerprint(other) != ids_fingerprint(tokenizer)


def test_tokenizers_without_a_definition_are_compared_by_their_bytes(tokenizer):
    def foreign(pieces):
        definition = {"model": {"vocab": {}}, "added_tokens": []}
        return Tokenizer(definition, {}, encoder=tokenizer._encoder, pieces=pieces)

    check_same_tokenizer(foreign([b"a", b"b"]), foreign([b"a", b"b"]))
    with pytest.raises(ConfigError, match="bytes of a token differs"):
        check_same_tokenizer(foreign([b"a", b"b"]), foreign([b"a", b"c"]))
    assert ids_fingerprint(foreign([b"a", b"b"])) != ids_fingerprint(foreign([b"a", b"c"]))
