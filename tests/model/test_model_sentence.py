"""Pooling as a folder says it, and a refusal of what it asks for and Kweek does not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_folders import MODULES, POOLING, write_encoder, write_json

from kweek.errors import CheckpointError
from kweek.model.sentence import SentenceConfig, load_sentence_config

HIDDEN = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
VALID = torch.tensor([[True] * 5, [True, True, False, False, False]])


def test_pooling_ignores_padding() -> None:
    for pooling, expected in (
        ("mean", HIDDEN[1, :2].mean(0)),
        ("max", HIDDEN[1, :2].amax(0)),
        ("cls", HIDDEN[1, 0]),
    ):
        found = SentenceConfig(pooling=pooling, normalise=False).pool(HIDDEN, VALID)
        assert torch.allclose(found[1], expected, atol=1e-6)
        unit = SentenceConfig(pooling=pooling).pool(HIDDEN.double(), VALID)
        assert unit.dtype == torch.float32
        assert torch.allclose(unit, torch.nn.functional.normalize(found, dim=-1), atol=1e-6)


def test_what_a_folder_says(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    assert load_sentence_config(tmp_path) == SentenceConfig("mean", True, 24, False)
    write_json(tmp_path / "modules.json", MODULES[:2])
    switches = POOLING | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    write_json(tmp_path / "1_Pooling" / "config.json", switches)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": True})
    assert load_sentence_config(tmp_path) == SentenceConfig("cls", False, None, True)
    # releases from 6 on write the name, and put the classes elsewhere
    write_json(tmp_path / "1_Pooling" / "config.json", {"embedding_dimension": 48, "pooling_mode": ["max"]})
    modules = [step | {"type": f"sentence_transformers.base.modules.x.{name}"}
               for step, name in zip(MODULES, ("Transformer", "Pooling", "Normalize"), strict=True)]  # fmt: skip
    write_json(tmp_path / "modules.json", modules)
    assert load_sentence_config(tmp_path).pooling == "max"


def test_a_plain_checkpoint_is_pooled_by_mean(tmp_path: Path) -> None:
    assert load_sentence_config(tmp_path) == SentenceConfig()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "modules.json",
            [*MODULES[:2], {"type": "sentence_transformers.models.Dense"}],
            "Dense are not supported",
        ),
        ("modules.json", MODULES[:1], "Transformer are not supported"),
        ("modules.json", {"0": 1}, "not a list of modules"),
        ("modules.json", [MODULES[0], MODULES[1] | {"path": "../1_Pooling"}], "not a folder of this folder"),
        ("modules.json", [MODULES[0] | {"path": "0_Transformer"}, MODULES[1]], "folder of its own"),
        ("1_Pooling/config.json", POOLING | {"pooling_mode_cls_token": True}, "mean and cls"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "by weightedmean is not supported"),
        ("1_Pooling/config.json", [], "not a JSON object"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "max_seq_length is 'long'"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default prompt 'query'"),
    ],
)
def test_what_is_refused(tmp_path: Path, file: str, content: Any, said: str) -> None:
    write_encoder(tmp_path)
    write_json(tmp_path / file, content)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_sentence_config(tmp_path)
    assert file in str(caught.value)
