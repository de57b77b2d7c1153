"""From folder to folder: what comes out loads in transformers, is measured, and is made again only when it must be."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from compress_networks import make_network
from hypothesis import given
from hypothesis import strategies as st

from kweek.compress.prune import Cuts, prune_network
from kweek.compress.prune_distil import Schedule
from kweek.compress.prune_folder import prune_folder
from kweek.compress.quantize import calibration_batches
from kweek.errors import CheckpointError, ConfigError, DataError, Interrupted, StoreError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.store.artifact import Artifact
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer

TEXT = "the cat sat on a mat and saw two dogs run under old trees while rain fell softly over green hills"
WORDS = TEXT.split()
CUTS = Cuts(ffn=0.5, num_kv_heads=2, num_layers=2)
SCHEDULE = Schedule(num_tokens=2560, row_length=64, tokens_per_step=128)


def sentence(number):
    """Words in an order that depends on the number, so that no two documents are alike."""
    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(number)).tolist()
    return " ".join(WORDS[i] for i in order)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for number in range(120):
        lines = [f"{sentence(100 * number + line)} {number * line}." for line in range(6)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def tokenizer(text):
    return bpe.train([path.read_text() for path in sorted(text.iterdir())], 320)


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / "model"
    network = make_network(
        vocab_size=320, num_layers=3, num_heads=6, num_kv_heads=3, intermediate_size=128, max_positions=128,
        eos_token_id=tokenizer.eos_id,
    )  # fmt: skip
    save_model(folder, network)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def cut(model, text):
    """The model with half its channels, not distilled."""
    prune_folder(model, model.parent / "cut", Cuts(ffn=0.5), text=text)
    return model.parent / "cut"


def test_what_comes_out_loads_everywhere(model, text, tmp_path):
    made = prune_folder(model, tmp_path / "out", CUTS, schedule=SCHEDULE, text=text)
    network = load_model(tmp_path / "out")
    config = network.config
    assert (config.intermediate_size, config.num_kv_heads, config.num_heads, config.num_layers) == (
        64,
        2,
        4,
        2,
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.randint(320, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, network.logits(network(ids)), atol=1e-4)
    assert Tokenizer.load(tmp_path / "out").encode("the cat") == Tokenizer.load(model).encode("the cat")
    original, cut, distilled = made.metrics["rows"]
    assert [row["name"] for row in made.metrics["rows"]] == ["original", "cut", "distilled"]
    assert original["num_parameters"] > cut["num_parameters"] == distilled["num_parameters"]
    assert distilled["num_bytes"] == 4 * config.num_parameters()["total"]
    assert original["divergence"] is None and distilled["divergence"][0] < cut["divergence"][0]
    assert distilled["bits_per_byte"][0] < cut["bits_per_byte"][0]
    assert 0 <= distilled["same_choice"][0] <= 1 and len(made.metrics["layers_left_out"]) == 1
    assert made.ledger["flop"]["distil"]["fp32"] > 1e9 and made.ledger["flop"]["prune"]["fp32"] > 1e9
    assert made.ledger["tokens"] > 2000 and made.lineage.keys() == {"model"}


def test_a_finished_one_stays_and_another_replaces_it(model, cut, text, tmp_path):
    shutil.copytree(cut, tmp_path / "out")
    first, inode = Artifact.open(cut), (tmp_path / "out" / "artifact.json").stat().st_ino
    again = prune_folder(model, tmp_path / "out", Cuts(ffn=0.5), text=text)
    assert again.fingerprint == first.fingerprint and again.kind == "model"
    assert (tmp_path / "out" / "artifact.json").stat().st_ino == inode
    other = prune_folder(model, tmp_path / "out", Cuts(ffn=0.25), text=text)
    assert other.fingerprint != first.fingerprint
    assert load_model(tmp_path / "out").config.intermediate_size == 32
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(StoreError, match="not an artifact"):
        prune_folder(model, tmp_path / "mine", Cuts(ffn=0.5), text=text)


def test_a_stopped_distillation_goes_on_to_the_same_bits(model, text, tmp_path):
    whole = prune_folder(model, tmp_path / "whole", replace(CUTS, sparse=True), schedule=SCHEDULE, text=text)
    asked = []

    def should_stop():
        return len(asked) > 8

    def progress(done, total, note="", **values):
        if not note:  # distillation; bars of earlier steps have notes
            asked.append(done)

    from kweek.train import trainer

    before, trainer.PROGRESS_SECONDS = trainer.PROGRESS_SECONDS, -1.0
    try:
        with pytest.raises(Interrupted):
            prune_folder(
                model, tmp_path / "stopped", replace(CUTS, sparse=True), schedule=SCHEDULE, text=text,
                progress=progress, should_stop=should_stop,
            )  # fmt: skip
    finally:
        trainer.PROGRESS_SECONDS = before
    assert not (tmp_path / "stopped").exists() and list(tmp_path.glob(".stopped.distilling/*.safetensors"))
    resumed = prune_folder(
        model, tmp_path / "stopped", replace(CUTS, sparse=True), schedule=SCHEDULE, text=text
    )
    assert resumed.files["model.safetensors"] == whole.files["model.safetensors"]
    spent, once = resumed.ledger["flop"], whole.ledger["flop"]
    assert spent["distil"] == once["distil"]
    assert spent["prune"]["fp32"] == 2 * once["prune"]["fp32"], "cut twice, and said so"
    assert not list(tmp_path.glob(".stopped.distilling"))
    name = "model.layers.1.mlp.down_proj.weight"
    zeros = load_model(tmp_path / "stopped").state_dict()[name].view(-1, 4) == 0
    assert (zeros.sum(1) == 2).all(), "two of four are still zero after distillation"


def test_sixteen_bits_stay_sixteen_bits(model, text, tmp_path):
    network = load_model(model)
    save_model(tmp_path / "half", network, torch.bfloat16)
    Tokenizer.load(model).save(tmp_path / "half")
    made = prune_folder(tmp_path / "half", tmp_path / "out", Cuts(ffn=0.5), text=text)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    original, cut = made.metrics["rows"]
    assert (
        original["num_bytes"] == 2 * original["num_parameters"]
        and cut["num_bytes"] == 2 * cut["num_parameters"]
    )


def test_a_teacher_of_its_own(model, cut, text, tmp_path):
    made = prune_folder(cut, tmp_path / "taught", Cuts(), schedule=SCHEDULE, teacher=model, text=text)
    assert made.lineage.keys() == {"model", "teacher"}
    assert made.lineage["model"] == Artifact.open(cut).fingerprint
    assert [row["name"] for row in made.metrics["rows"]] == ["original", "distilled"]
    other = bpe.train(["another language altogether " * 30], 320)
    save_model(tmp_path / "other", make_network(vocab_size=320, num_heads=2, num_kv_heads=1))
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="different tokenizers"):
        prune_folder(
            model, tmp_path / "x", Cuts(ffn=0.5), schedule=SCHEDULE, teacher=tmp_path / "other", text=text
        )


def test_what_is_refused(model, text, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="nothing to cut"):
        prune_folder(model, out, Cuts(), text=text)
    with pytest.raises(ConfigError, match="nothing to distil"):
        prune_folder(model, out, CUTS, teacher=model, text=text)
    with pytest.raises(ConfigError, match=r"1\.5 is not a share"):
        prune_folder(model, out, Cuts(ffn=1.5), text=text)
    with pytest.raises(ConfigError, match="9 cannot be kept of 3"):
        prune_folder(model, out, Cuts(num_layers=9), text=text)
    with pytest.raises(CheckpointError):
        prune_folder(tmp_path / "nowhere", out, CUTS, text=text)
    (tmp_path / "little").mkdir()
    (tmp_path / "little" / "a.txt").write_text(
        "too little to learn anything from, however one reads it. " * 3
    )
    with pytest.raises(DataError):
        prune_folder(model, out, CUTS, text=tmp_path / "little")
    with pytest.raises(DataError, match="no calibration text"):
        prune_network(load_model(model), CUTS, [])
    assert not out.exists()


def test_cutting_without_a_cut_copies(tokenizer):
    network = make_network()
    pruned = prune_network(network, Cuts(), calibration_batches([[1, 2, 3]], 8, 0))
    assert pruned.network is not network and pruned.masks == {} and pruned.flop == 0
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), pruned.network.parameters(), strict=True)
    )


@given(st.floats(0, 1.5), st.integers(1, 200))
def test_channels_kept_are_a_multiple_of_32_or_an_error(share, thirty_twos):
    config = ModelConfig(96, 64, 32 * thirty_twos, 2, 2, 1)
    try:
        kept = Cuts(ffn=share).ffn_channels(config)
    except ConfigError:
        assert not 0 < share <= 1
    else:
        assert kept % 32 == 0 and 32 <= kept <= config.intermediate_size
        assert abs(kept - share * config.intermediate_size) <= 32
