"""WordPiece: the ids of transformers, nothing from text becomes a control token, the file's habits are left out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import CheckpointError
from kweek.tokenize.wordpiece import WordPiece

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", "a", ".", "[", "]", "sep", "\u65e5"]
SPECIAL = {"[CLS]": 2, "[SEP]": 3}
CLS, SEP, UNKNOWN = 2, 3, 1


def definition() -> dict[str, Any]:
    """As the library itself writes it, with the truncation and padding of whoever ran it last."""
    made = tokenizers.BertWordPieceTokenizer({word: i for i, word in enumerate(VOCABULARY)})
    made.add_special_tokens(["[CLS]", "[SEP]"])
    made.enable_truncation(3)
    made.enable_padding(length=3)
    plain: dict[str, Any] = json.loads(made.to_str())
    return plain


TOKENIZER = WordPiece(definition(), "tokenizer.json")


def test_ids_with_special_tokens_around_and_no_padding() -> None:
    assert TOKENIZER.encode_batch(["Playing a plays.", "", "\u65e5"]) == [
        [CLS, 4, 5, 7, 4, 6, 8, SEP], [CLS, SEP], [CLS, 12, SEP],
    ]  # fmt: skip
    assert (TOKENIZER.num_special, TOKENIZER.vocab_size) == (2, len(VOCABULARY))


def test_cutting_keeps_the_special_tokens() -> None:
    assert TOKENIZER.encode_batch(["playing a play", "a"], 4) == [[CLS, 4, 5, SEP], [CLS, 7, SEP]]
    with pytest.raises(ValueError, match="1 tokens"):
        TOKENIZER.encode_batch(["a"], 1)


@given(st.text(st.characters() | st.sampled_from("[]CLSEPa. \ud800")) | st.just("[CLS] a [SEP][PAD]"))
def test_text_never_gives_control_tokens(text: str) -> None:
    (ids,) = TOKENIZER.encode_batch([text])
    assert ids[0] == CLS and ids[-1] == SEP and not set(ids[1:-1]) & {0, CLS, SEP}


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(change: dict[str, Any], said: str) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition() | change))
        with pytest.raises(CheckpointError, match=said) as caught:
            WordPiece.load(tmp_path)
        assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)

    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        WordPiece.load(tmp_path)
    refused({"model": {"type": "BPE"}}, "'BPE' is not supported")
    refused({"model": None}, "None is not supported")
    refused({"post_processor": None}, "adds no special tokens")
    broken = copy.deepcopy(definition()["model"]) | {"vocab": {"a": "b"}}
    refused({"model": broken}, "not usable")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="broken JSON"):
        WordPiece.load(tmp_path)
