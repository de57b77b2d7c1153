"""Encoders: equal to transformers' BertModel, whatever a checkpoint calls its tensors; one clear error for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoder_folders import CONFIG, change_tensors, write_encoder, write_json
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import CheckpointError, KweekError
from kweek.model.encoder_checkpoint import is_encoder, load_encoder
from kweek.model.encoder_config import EncoderConfig, tensor_shapes


def ids(rows: int = 4, length: int = 17) -> torch.Tensor:
    return torch.randint(CONFIG["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_equals_transformers(tmp_path: Path, activation: str) -> None:
    theirs = write_encoder(tmp_path, hidden_act=activation)
    encoder = load_encoder(tmp_path)
    lengths = torch.tensor([17, 3, 1, 9])
    valid = torch.arange(17) < lengths[:, None]
    with torch.no_grad():
        expected = theirs(ids(), attention_mask=valid.long()).last_hidden_state
        found = encoder(ids(), valid)
        assert torch.allclose(found[valid], expected[valid], atol=1e-5)
        assert torch.allclose(encoder(ids()), theirs(ids()).last_hidden_state, atol=1e-5)
        # the activations differ by more than that, so this test would see a wrong one
        assert (found[valid] - encoder(ids())[valid]).abs().max() > 1e-3


def test_names_are_those_of_the_file_and_parameters_are_counted(tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path)
    encoder = load_encoder(tmp_path)
    assert {name: tuple(t.shape) for name, t in encoder.state_dict().items()} == tensor_shapes(encoder.config)
    counted = sum(p.numel() for name, p in theirs.named_parameters() if not name.startswith("pooler"))
    assert encoder.config.num_parameters() == counted
    assert encoder.load_state_dict(encoder.state_dict()).missing_keys == []


def test_flops_match_an_operator_count(tmp_path: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    theirs = write_encoder(tmp_path)
    theirs.config._attn_implementation = "eager"
    theirs.pooler = None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(ids(1, 23))
    assert load_encoder(tmp_path).config.num_flops(23) == counter.get_total_flops()


def test_a_checkpoint_with_a_head_old_norm_names_and_constants(tmp_path: Path) -> None:
    theirs = write_encoder(tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            for new, before in old.items():
                name = name.replace(new, before)
            renamed[f"bert.{name}"] = tensor.half()
        positions = {"bert.embeddings.position_ids": torch.arange(40)[None]}
        return renamed | positions | {"cls.predictions.bias": torch.zeros(3)}

    change_tensors(tmp_path, rename)
    with torch.no_grad():
        expected = theirs.half().float()(ids()).last_hidden_state
        assert torch.allclose(load_encoder(tmp_path)(ids()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "roberta"}, "'roberta' is not supported"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' are not supported"),
        ({"hidden_act": "quick_gelu"}, "'quick_gelu' is not supported"),
        ({"is_decoder": True}, "is_decoder is not supported"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "code of its own"),
        ({"num_attention_heads": 5}, "5 heads do not divide"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"hidden_size": 96}, "instead of"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    write_encoder(tmp_path)
    write_json(tmp_path / "config.json", CONFIG | change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    name = "encoder.layer.1.output.dense.weight"
    change_tensors(tmp_path, lambda tensors: {key: t for key, t in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_encoder(tmp_path)
    write_encoder(tmp_path)
    change_tensors(
        tmp_path, lambda tensors: tensors | {"encoder.layer.9.output.dense.weight": torch.zeros(2)}
    )
    with pytest.raises(CheckpointError, match=r"layer\.9.* is not part of"):
        load_encoder(tmp_path)
    write_encoder(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors | {name: tensors[name].to(torch.int8)})
    with pytest.raises(CheckpointError, match="type I8"):
        load_encoder(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_encoder(tmp_path / "elsewhere")


def test_too_many_tokens_and_other_folders(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    with pytest.raises(ValueError, match="41 tokens exceed 40"):
        load_encoder(tmp_path)(ids(1, 41))
    assert is_encoder(tmp_path)
    write_json(tmp_path / "config.json", {"model_type": "qwen3"})
    assert not is_encoder(tmp_path)


@given(
    st.dictionaries(
        st.sampled_from(sorted(CONFIG)),
        st.none() | st.integers() | st.text("a1 -") | st.booleans(),
        max_size=3,
    )
)
def test_any_config_gives_a_config_or_one_error(changes: dict[str, object]) -> None:
    try:
        EncoderConfig.from_hf(CONFIG | changes)
    except KweekError as error:
        assert "\n" not in str(error)
