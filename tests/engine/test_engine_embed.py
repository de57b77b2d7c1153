"""Vectors of texts: those of the encoder alone, in order, whatever the batches; never cut in silence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

# The small encoders that the tests of `kweek.model` are made with.
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
from encoder_folders import CONFIG, TOKENIZER, write_encoder, write_json

from kweek.engine import embed
from kweek.engine.embed import Embedder
from kweek.errors import KweekError

TEXTS = ["a cat sat.", "", "The DOG barks", "a", "cats " * 9, "[CLS] dog [SEP]", "é zzz", "a cat sat."]


def reference(theirs, texts):
    """Mean pooling in the words of the model card, one text at a time, special tokens by hand."""
    import tokenizers

    bare = TOKENIZER | {"added_tokens": [], "truncation": None, "padding": None}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
    rows = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = theirs(torch.tensor([ids])).last_hidden_state[0]
        rows.append(torch.nn.functional.normalize(hidden.mean(0), dim=0))
    return torch.stack(rows).numpy()


def test_equals_transformers_in_order(tmp_path, monkeypatch):
    theirs = write_encoder(tmp_path)
    embedder = Embedder.load(tmp_path)
    expected = reference(theirs, TEXTS)
    for num_tokens in (4096, 24, 1):  # one batch, several, one text each
        monkeypatch.setattr(embed, "BATCH_TOKENS", num_tokens)
        seen = []
        found = embedder.embed(TEXTS, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert found.dtype == np.float32 and found.shape == (len(TEXTS), 48) == (
            len(TEXTS),
            embedder.dimension,
        )
        assert np.abs(found - expected).max() < 1e-5
        assert seen[-1] == (len(TEXTS), len(TEXTS))
    assert len(seen) == len(TEXTS)
    assert np.abs(expected[0] - expected[1]).max() > 0.05, "texts differ by more than the tolerance"


def test_batches_hold_texts_of_like_length_within_the_budget(monkeypatch):
    monkeypatch.setattr(embed, "BATCH_TOKENS", 20)
    rows = [[0] * n for n in (3, 9, 4, 30, 1, 5, 5, 2)]
    batches = list(embed._batches(rows))
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    assert batches[0] == [3], "what exceeds the budget alone goes alone"
    assert all(max(len(rows[i]) for i in batch) * len(batch) <= 20 for batch in batches[1:])
    assert len(batches) == 4


def test_no_texts_and_flop(tmp_path):
    write_encoder(tmp_path)
    embedder = Embedder.load(tmp_path)
    assert embedder.embed([]).shape == (0, 48) and embedder.flop == 0
    embedder.embed(["a cat", "dog"])
    assert embedder.flop == 2 * embedder.encoder.config.num_flops(4)


def test_long_texts_are_refused_or_cut_when_asked(tmp_path):
    theirs = write_encoder(tmp_path)
    embedder = Embedder.load(tmp_path)
    assert embedder.max_tokens == 24, "the limit of sentence_bert_config.json, below the 40 positions"
    with pytest.raises(KweekError, match=r"text 1 has 32 tokens where the encoder reads at most 24"):
        embedder.embed(["a", "a " * 30])
    found = embedder.embed(["a " * 30], truncate=True)
    assert np.abs(found - reference(theirs, ["a " * 22])).max() < 1e-5


def test_settings_of_the_folder_are_followed(tmp_path):
    theirs = write_encoder(tmp_path)
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    write_json(tmp_path / "modules.json", json.loads((tmp_path / "modules.json").read_text())[:2])
    with torch.no_grad():
        expected = theirs(torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0, 0].numpy()
    assert np.abs(Embedder.load(tmp_path).embed(["a cat"])[0] - expected).max() < 1e-5


def test_lower_casing_where_the_folder_asks_for_it(tmp_path):
    write_encoder(tmp_path)
    cased = TOKENIZER | {"normalizer": TOKENIZER["normalizer"] | {"lowercase": False}}
    write_json(tmp_path / "tokenizer.json", cased)
    small, large = Embedder.load(tmp_path).embed(["a cat", "A CAT"])
    assert np.abs(small - large).max() > 1e-3
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": True})
    small, large = Embedder.load(tmp_path).embed(["a cat", "A CAT"])
    assert np.abs(small - large).max() < 1e-6


def test_a_tokenizer_of_another_encoder(tmp_path):
    write_encoder(tmp_path, vocab_size=CONFIG["vocab_size"] - 4)
    with pytest.raises(KweekError, match="the tokenizer has 23 tokens, the encoder 19"):
        Embedder.load(tmp_path)
