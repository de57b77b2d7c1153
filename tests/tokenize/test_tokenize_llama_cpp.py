"""Ids of real families' layouts in llama.cpp: the pre-tokenizer's name says the same as the definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from llama_cpp_peer import LlamaCpp

from kweek.compress.export import export_gguf
from kweek.errors import CheckpointError
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize.encoding import PROBE
from kweek.tokenize.tokenizer import Tokenizer

xllamacpp = pytest.importorskip("xllamacpp", reason="the peer is missing: pip install 'kweek[peers]'")


def save(folder: Path, tokenizer: Tokenizer) -> None:
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 32, 1, 1, 1, head_dim=32, eos_token_id=0))
    initialise(network, torch.Generator().manual_seed(0))
    save_model(folder, network)
    tokenizer.save(folder)


@pytest.mark.parametrize("family", ["own", "qwen2.5", "qwen3", "llama3.1", "smollm2"])
def test_ids_are_the_same(
    family: str,
    foreign: Callable[[str], Tokenizer],
    tokenizer: Tokenizer,
    sample: list[str],
    tmp_path: Path,
) -> None:
    ours = tokenizer if family == "own" else foreign(family)
    save(tmp_path / "folder", ours)
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    peer = LlamaCpp(xllamacpp, tmp_path / "m.gguf")
    for text in [PROBE, *sample[400:]]:
        composed = text.replace("e\u0301", "é")  # the Qwen families compose first, and the export says so
        assert peer.tokenize(composed) == ours.encode(composed), composed[:60]


def test_a_family_without_a_name_is_refused(foreign: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    save(tmp_path / "folder", foreign("deepseek-v3"))
    with pytest.raises(CheckpointError, match="no name for the way"):
        export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
