"""Training: the same vocabulary every time, of the size asked for, as good as the reference trainer's."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from kweek.errors import ConfigError, DataError
from kweek.tokenize import bytelevel
from kweek.tokenize.bpe import SPECIAL_TOKENS, train
from kweek.tokenize.encoding import LibraryEncoder
from kweek.tokenize.tokenizer import Tokenizer


def test_training_is_deterministic_and_streams(sample: list[str], tokenizer: Tokenizer) -> None:
    assert train(iter(sample), 1024).fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize("size", [288, 320, 1024])
def test_vocabulary_has_the_size_asked_for_with_control_tokens_last(sample: list[str], size: int) -> None:
    trained = train(sample, size)
    assert trained.vocab_size == size
    assert list(trained.special) == list(SPECIAL_TOKENS)
    assert min(trained.special.values()) == size - len(SPECIAL_TOKENS)


def test_small_sample_fills_up_with_reserved_tokens() -> None:
    trained = train(["ab ab ab"], 2048)
    assert trained.vocab_size == 288
    reserved = [name for name in trained.special if name.startswith("<|reserved_")]
    assert len(reserved) == 288 - len(trained.definition["model"]["vocab"]) - len(SPECIAL_TOKENS)
    assert trained.decode(trained.encode("ab abc")) == "ab abc"


@pytest.mark.parametrize("size", [0, 256, 1000, 1025])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 32 from 288"):
        train(["some text"], size)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_train_on_is_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text"):
        train(texts, 1024)


def test_digits_are_single(tokenizer: Tokenizer) -> None:
    longest = max(
        sum(chr(byte).isdigit() for byte in tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)
    )
    assert longest == 1
    assert len(tokenizer.encode("1234567890")) == 10


def test_as_good_as_the_reference_trainer(sample: list[str], tokenizer: Tokenizer) -> None:
    reference = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(bytelevel.PATTERNS["qwen2"]), "isolated")
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    size = len(tokenizer.definition["model"]["vocab"])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    reference.train_from_iterator(
        sample, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    shared = set(reference.get_vocab()) & set(tokenizer.definition["model"]["vocab"])
    assert len(shared) > 0.97 * size  # ties are broken differently
    ours = sum(map(len, tokenizer.encode_batch(sample)))
    theirs = sum(len(reference.encode(text).ids) for text in sample)
    assert abs(ours / theirs - 1) < 0.003


def test_runs_that_overflow_the_regex_engines_are_cut() -> None:
    texts = [" " * 1_200_000, "\n \t" * 400_000, "a" * 300_000, "word " * 60_000, "5" * 200_000]
    trained = train(texts, 320)
    for text in texts:
        assert trained.decode(trained.encode(text)) == text


def test_windows_cut_where_the_patterns_split_anyway(tokenizer: Tokenizer) -> None:
    text = "Once upon a time, 12 apples\n\n  were sold. " * 6000
    assert len(text) > 2 * bytelevel.MAX_WINDOW
    assert tokenizer.encode(text) == LibraryEncoder(tokenizer.definition).encode(text)
    assert "".join(bytelevel.windows(text)) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    trained = train(["a\ud800b \ud83d\ude00"], 288)
    assert trained.decode(trained.encode("a\ud800b")) == "a\ufffdb"


def test_ranks_that_no_training_gives_are_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abc": 256}
    with pytest.raises(Exception, match="not the merge of two"):
        bytelevel.merges_from_ranks(ranks)
