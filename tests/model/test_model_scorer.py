"""Scorers: the folders that transformers loads, what they say, what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_networks import LAYOUTS, operator_counter, random_ids, random_network, small_config

from kweek.errors import CheckpointError, DataError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.scorer import Scorer, load_scorer, scorer_from, scores
from kweek.train.optimiser import LearningRates, SplitOptimiser

transformers = pytest.importorskip("transformers")

PAD = 5


def random_scorer(layout: str = "qwen3", **options: Any) -> Scorer:
    scorer = scorer_from(random_network(small_config(**LAYOUTS[layout])), pad_token_id=PAD, **options)
    with torch.no_grad():
        for parameter in scorer.score.parameters():
            parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(7))
    return scorer


def sequences(*lengths: int) -> list[list[int]]:
    ids = random_ids(small_config(), len(lengths), max(lengths))
    ids[ids == PAD] = PAD + 1
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_reward_model_in_transformers(layout: str, tmp_path: Path) -> None:
    scorer, rows = random_scorer(layout), sequences(12, 3, 7)
    save_model(tmp_path, scorer)
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert type(model).__name__.lower() == f"{scorer.config.architecture}forsequenceclassification"
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.num_labels == 1
    with torch.no_grad():
        theirs = model.eval()(padded(rows)).logits
    assert (torch.stack(scores(scorer, rows)) - theirs).abs().max() < 1e-4
    assert theirs.std() > 0.01


@pytest.mark.parametrize("layout", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_judge_of_tokens_in_transformers(layout: str, num_labels: int, tmp_path: Path) -> None:
    scorer, rows = random_scorer(layout, per_token=True, num_labels=num_labels), sequences(12, 3, 7)
    save_model(tmp_path, scorer)
    model, report = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = model.eval()(padded(rows)).logits
    for row, ours in zip(theirs, scores(scorer, rows), strict=True):
        assert ours.shape == (len(ours), num_labels) and (ours - row[: len(ours)]).abs().max() < 1e-4


@pytest.mark.parametrize("per_token", [False, True])
def test_their_folder_here(per_token: bool, tmp_path: Path) -> None:
    scorer, rows = random_scorer(per_token=per_token), sequences(6, 9)
    save_model(tmp_path / "ours", scorer)
    kind = (
        transformers.AutoModelForTokenClassification
        if per_token
        else transformers.AutoModelForSequenceClassification
    )
    kind.from_pretrained(tmp_path / "ours", dtype=torch.float32).save_pretrained(tmp_path / "theirs")
    loaded = load_scorer(tmp_path / "theirs")
    assert loaded.config == scorer.config
    for ours, theirs in zip(scores(scorer, rows), scores(loaded, rows), strict=True):
        assert torch.equal(ours, theirs)


def test_a_language_model_is_no_scorer_nor_the_other_way_round(tmp_path: Path) -> None:
    scorer = random_scorer()
    save_model(tmp_path / "scorer", scorer)
    save_model(tmp_path / "writer", random_network(small_config()))
    with pytest.raises(CheckpointError, match="Qwen3ForCausalLM is no model that scores"):
        load_scorer(tmp_path / "writer")
    with pytest.raises(CheckpointError, match="scores, not one that writes"):
        load_model(tmp_path / "scorer")


def test_a_new_scorer_prefers_nothing_and_keeps_the_body() -> None:
    network = random_network(small_config())
    scorer = scorer_from(network)
    ids = random_ids(network.config, 2, 8)
    with torch.no_grad():
        assert torch.equal(network(ids), scorer(ids))
    assert all(float(score) == 0.0 for score in scores(scorer, [[1, 2], [3]]))
    assert not any(name.startswith("lm_head") for name in scorer.state_dict())
    scorer.model.embed_tokens.weight.data.zero_()
    assert network.model.embed_tokens.weight.abs().sum() > 0, "the body is copied, not shared"


def test_padding_and_company_do_not_change_a_score() -> None:
    scorer, rows = random_scorer(), sequences(12, 3, 7, 7)
    together = scores(scorer, rows)
    for row, score in zip(rows, together, strict=True):
        assert (scores(scorer, [row])[0] - score).abs().max() < 1e-5


@pytest.mark.parametrize("row", [[], [1, 2, PAD]])
def test_what_transformers_would_read_elsewhere_is_refused(row: list[int]) -> None:
    with pytest.raises(DataError, match="ends with the padding token"):
        scores(random_scorer(), [[1, 2], row])


@pytest.mark.parametrize("per_token", [False, True])
def test_costs_are_counted(per_token: bool) -> None:
    scorer = random_scorer(per_token=per_token, num_labels=3)
    assert scorer.config.num_parameters()["total"] == sum(p.numel() for p in scorer.parameters())
    ids = random_ids(scorer.config, 1, 32)
    with operator_counter() as counter:
        scorer.logits(scorer(ids)).sum().backward()
    expected = 32 * scorer.config.num_flops_per_token(32, backward=True, attention="full", recomputation=True)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_the_head_has_its_own_rate_and_is_no_matrix_for_muon() -> None:
    scorer = random_scorer(per_token=True)
    optimiser = SplitOptimiser(scorer, LearningRates(head=1e-2), weight_decay=0.0, muon=0.01)
    before = scorer.score.weight.detach().clone()
    scorer.logits(scorer(random_ids(scorer.config, 1, 4))).sum().backward()
    optimiser.step(1.0)
    moved = (scorer.score.weight - before).abs()
    assert torch.allclose(moved, torch.full_like(moved, 1e-2), rtol=1e-3)
