"""Predictions come back as they were written, to half precision; damage and other tokenizers are found on opening."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kweek.data import predictions
from kweek.data.predictions import (
    KIND,
    ROW,
    SHARD,
    Predicted,
    PredictionInfo,
    Predictions,
    write_predictions,
)
from kweek.errors import ConfigError, DataError, StoreError
from kweek.store.artifact import MANIFEST, ArtifactWriter

VOCABULARY, COUNT = 40, 3


def made(seed=0, num=5):
    """Sequences with weights here and there."""
    generator = np.random.default_rng(seed)
    for _ in range(num):
        length = int(generator.integers(2, 12))
        weights = (generator.random(length) < 0.6).astype(np.float32) * 0.5
        weights[0] = 0
        rows = int(np.count_nonzero(weights))
        logits = generator.normal(size=(rows, VOCABULARY)) * 3
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        ids = np.argsort(-logprobs, -1)[:, :COUNT]
        yield Predicted(
            generator.integers(0, VOCABULARY, length).tolist(), weights, ids,
            np.take_along_axis(logprobs, ids, -1),
        )  # fmt: skip


INFO = PredictionInfo(VOCABULARY, COUNT, "tokens", "somebody")


def stored(folder, sequences, info=INFO):
    with ArtifactWriter(folder, kind=KIND, fingerprint="f") as out:
        write_predictions(out, sequences, info)
    return folder


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), num=st.integers(0, 9), limit=st.integers(1, 20))
def test_what_is_read_is_what_was_written(tmp_path_factory, seed, num, limit):
    folder = tmp_path_factory.mktemp("predictions") / "one"
    sequences = list(made(seed, num))
    before, predictions.SHARD_ROWS = predictions.SHARD_ROWS, limit  # several shards
    try:
        found = Predictions.open(stored(folder, sequences), "tokens")
    finally:
        predictions.SHARD_ROWS = before
    assert len(found) == num and found.info == INFO
    for one, segment in zip(sequences, found.segments(), strict=True):
        assert [*segment.ids.tolist(), int(segment.targets[-1])] == list(one.token_ids)
        assert np.array_equal(segment.weights, one.weights[1:])
        counted = segment.weights != 0
        row_N = torch.from_numpy(segment.streams[ROW][counted]).long()
        ids, logprobs = found.rows(torch.full_like(row_N, int(segment.labels[SHARD])), row_N)
        assert np.array_equal(ids.numpy(), one.ids_RK)
        assert np.allclose(logprobs[:, :-1].numpy(), one.logprobs_RK, rtol=1e-3, atol=1e-3)
        assert torch.allclose(logprobs.exp().sum(-1), torch.ones(len(row_N)), atol=3e-3)


def test_a_large_vocabulary_has_longer_ids(tmp_path):
    info = PredictionInfo(100_000, 1, "tokens", "somebody")
    one = Predicted([1, 99_999], np.array([0, 1], np.float32), np.array([[70_000]]), np.array([[-0.1]]))
    found = Predictions.open(stored(tmp_path / "p", [one], info), "tokens")
    ids, logprobs = found.rows(torch.tensor([0]), torch.tensor([0]))
    assert ids.tolist() == [[70_000]]
    assert logprobs[0].exp().tolist() == pytest.approx([np.exp(-0.1), 1 - np.exp(-0.1)], rel=1e-3)


def test_another_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="another tokenizer"):
        Predictions.open(stored(tmp_path / "p", made()), "other tokens")


def test_what_does_not_fit_is_not_written(tmp_path):
    good = next(made())
    wrong = {
        "outside the vocabulary": Predicted([VOCABULARY] * len(good.token_ids), *_rest(good)),
        "no weight for each token": Predicted([*good.token_ids, 1], *_rest(good)),
        "of shape": Predicted(good.token_ids, good.weights, good.ids_RK[1:], good.logprobs_RK),
        "probability above 1": Predicted(
            good.token_ids, good.weights, good.ids_RK, np.full_like(good.logprobs_RK, np.nan)
        ),
    }
    for message, one in wrong.items():
        with pytest.raises(DataError, match=message):
            stored(tmp_path / "p", [good, one])
    assert not (tmp_path / "p").exists()


def _rest(one):
    return one.weights, one.ids_RK, one.logprobs_RK


def damaged(folder, change):
    """Change the tensors of the first shard; the manifest is made to agree."""
    path = folder / "shard-00000.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][path.name]["bytes"] = path.stat().st_size
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(weights=t["weights"][:-1].clone()), "do not fit together"),
        (lambda t: t.update(ids=t["ids"][:-1].clone()), "do not fit together"),
        (lambda t: t["offsets"].__setitem__(1, 0), "do not fit together"),
        (lambda t: t["tokens"].__setitem__(0, VOCABULARY), "outside the vocabulary"),
        (lambda t: t.update(logprobs=t["logprobs"].float()), "other tensors"),
        (lambda t: t.pop("weights"), "other tensors"),
    ],
)
def test_damage_is_found_on_opening(tmp_path, change, message):
    folder = damaged(stored(tmp_path / "p", made()), change)
    with pytest.raises(DataError, match=message):
        Predictions.open(folder, "tokens")


def test_a_damaged_row_is_found_when_it_is_asked_for(tmp_path):
    folder = damaged(stored(tmp_path / "p", made()), lambda t: t["logprobs"].__setitem__((1, 0), np.nan))
    found = Predictions.open(folder, "tokens")
    found.rows(torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(DataError, match="damaged"):
        found.rows(torch.tensor([0]), torch.tensor([1]))


def test_half_a_file_another_kind_and_another_format_are_errors(tmp_path):
    folder = stored(tmp_path / "p", made())
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="bytes where the manifest says"):
        Predictions.open(folder, "tokens")
    with ArtifactWriter(tmp_path / "q", kind="corpus", fingerprint="f") as out:
        out.write_text("x", "x")
    with pytest.raises(DataError, match="holds corpus"):
        Predictions.open(tmp_path / "q", "tokens")
    with ArtifactWriter(tmp_path / "r", kind=KIND, fingerprint="f") as out:
        out.write_json("predictions.json", {"format": 7})
    with pytest.raises(DataError, match="not predictions of this format"):
        Predictions.open(tmp_path / "r", "tokens")
