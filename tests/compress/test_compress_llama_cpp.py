"""Exported files in llama.cpp: the same ids, the same logits, the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_folders import LAYOUTS, VOCABULARY, make_tokenizer, save_folder, save_packed
from llama_cpp_peer import LlamaCpp

from kweek.compress.export import export_gguf
from kweek.model.checkpoint import load_model, save_model
from kweek.model.gguf import load_gguf
from kweek.model.network import Network
from kweek.tokenize.bytelevel import PATTERNS
from kweek.tokenize.encoding import PROBE
from kweek.tokenize.tokenizer import Tokenizer

xllamacpp = pytest.importorskip("xllamacpp", reason="the peer is missing: pip install 'kweek[peers]'")

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Sure?"},
]


def logprobs(network: Network, ids: list[int]) -> torch.Tensor:
    """(T, V)."""
    with torch.no_grad():
        return torch.log_softmax(network.logits(network(torch.tensor([ids])))[0].double(), -1)


def largest_difference(network: Network, peer: LlamaCpp, ids: list[int]) -> float:
    ours = logprobs(network, ids)
    return max(
        float((torch.from_numpy(peer.logprobs(ids[:length], VOCABULARY)) - ours[length - 1]).abs().max())
        for length in (1, 2, 7, len(ids))
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_greedy_answers_of_every_layout(layout: str, tmp_path: Path) -> None:
    network = save_folder(tmp_path / "folder", layout)
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    ids = Tokenizer.load(tmp_path / "folder").encode(PROBE)[:80]
    peer = LlamaCpp(xllamacpp, tmp_path / "m.gguf")
    assert largest_difference(network, peer, ids) < 5e-5
    answer = peer.greedy(ids, 12)
    for length, token in enumerate(answer, len(ids)):
        assert int(logprobs(network, ids)[-1].argmax()) == token, length
        ids.append(token)
    assert answer


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_rounded_types_mean_there_what_they_mean_here(kind: str, tmp_path: Path) -> None:
    """llama.cpp rounds activations too (fp16, or 8 bits), hence the tolerance; a wrong block would give nats."""
    save_folder(tmp_path / "folder")
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf", kind)  # type: ignore[arg-type]
    network, tokenizer = load_gguf(tmp_path / "m.gguf")
    peer = LlamaCpp(xllamacpp, tmp_path / "m.gguf")
    assert largest_difference(network, peer, tokenizer.encode(PROBE)[:80]) < (0.02 if kind == "f16" else 0.3)


def test_codes_in_blocks(tmp_path: Path) -> None:
    network = save_packed(tmp_path / "folder")
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    tokenizer = Tokenizer.load(tmp_path / "folder")
    peer = LlamaCpp(xllamacpp, tmp_path / "m.gguf")
    assert largest_difference(network, peer, tokenizer.encode(PROBE)[:80]) < 0.3


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_ids_of_every_pattern(pattern: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(pattern)
    network = save_folder(tmp_path / "folder")
    save_model(tmp_path / "folder", network)
    tokenizer.save(tmp_path / "folder")
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    peer = LlamaCpp(xllamacpp, tmp_path / "m.gguf")
    hard = (
        "a\u00a0b \u2003 c\t\t \n\n\r\n x  \n  1234567 १२३ e\u0301\u0302 'S 'LL don't 👩‍👩‍👧\u200d ...!!!   "
    )
    for text in (PROBE, hard, hard * 40, "the in 12" * 50, " ", "\n", "<|im_end|> the <think>"):
        assert peer.tokenize(text) == tokenizer.encode(text), text[:40]


def test_control_tokens_count_where_they_are_asked_for(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    tokenizer = Tokenizer.load(tmp_path / "folder")
    peer = LlamaCpp(xllamacpp, tmp_path / "m.gguf")
    text = "<|im_start|>the<|im_end|>"
    ends = [tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]]
    assert peer.tokenize(text, special=True) == [ends[0], *tokenizer.encode("the"), ends[1]]
    assert not set(peer.tokenize(text)) & set(ends)


def test_the_template_renders_alike(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    tokenizer = Tokenizer.load(tmp_path / "folder")
    expected = tokenizer.template.render(MESSAGES, add_generation_prompt=True)
    assert LlamaCpp(xllamacpp, tmp_path / "m.gguf").template(MESSAGES) == expected


def test_generation_stops_at_the_end_of_a_turn(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    network = save_folder(tmp_path / "folder")
    end = tokenizer.special["<|im_end|>"]
    with torch.no_grad():  # a head that always says it
        network.model.norm.weight.fill_(0.0)
        network.model.norm.weight[0] = 1.0
        network.lm_head.weight.fill_(0.0)
        network.model.embed_tokens.weight[:, 0] = 5.0
        network.lm_head.weight[end, 0] = 5.0
    save_model(tmp_path / "folder", network)
    assert load_model(tmp_path / "folder").config.eos_token_id == tokenizer.eos_id != end
    export_gguf(tmp_path / "folder", tmp_path / "m.gguf")
    answer = LlamaCpp(xllamacpp, tmp_path / "m.gguf").greedy(tokenizer.encode("the"), 20)
    assert len(answer) < 20 and set(answer) <= {end}
