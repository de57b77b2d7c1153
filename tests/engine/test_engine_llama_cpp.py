"""llama.cpp behind the protocol: the same tokens as Kweek's own engine, and layouts that Kweek does not load."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math

import llama_cpp_files
import numpy as np
import pytest
import torch

from kweek.compress.export import export_gguf
from kweek.engine.engine import Engine
from kweek.engine.llama_cpp import library
from kweek.engine.llama_cpp.engine import LlamaCppEngine
from kweek.engine.llama_cpp.tokenizer import LlamaTokenizer
from kweek.engine.open import open_model
from kweek.errors import CheckpointError, KweekError
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.gguf import load_gguf
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Request
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt

CLOSE = 1e-4  # natural logs; fp32 without flash attention
CLOSE_TO_TRANSFORMERS = 5e-3  # llama.cpp looks GELU up in a table of fp16


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pytest.importorskip("xllamacpp")
    torch.manual_seed(0)
    network = Network(ModelConfig(320, 64, 96, 2, 4, 2, head_dim=32, max_positions=512))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.15) if parameter.ndim == 2 else parameter.fill_(1.0)
    folder = tmp_path_factory.mktemp("llama")
    save_model(folder / "small", network)
    bpe.train([f"{i} {i * i} {i:x}" for i in range(2000)], 320).save(folder / "small")
    export_gguf(folder / "small", folder / "small.gguf", "f32")
    return folder / "small.gguf"


@pytest.fixture(scope="module")
def theirs(path):
    return LlamaCppEngine(path, num_slots=3, exact=True)


@pytest.fixture(scope="module")
def ours(path, theirs):
    return Engine(load_gguf(path)[0], token_bytes=theirs._token_bytes, num_slots=3)


class Alternating:
    """Even and odd tokens by turns."""

    def __init__(self):
        self.turn = 0

    def allowed(self):
        return np.arange(320) % 2 == self.turn

    def advance(self, token_id):
        self.turn = 1 - self.turn


class Forcing:
    """Says [9, 8] after the second new token."""

    trigger_ids = None

    def __call__(self, ids):
        return [9, 8] if len(ids) == 5 else []


REQUESTS = {
    "greedy": Request([5, 6, 7], 20),
    "sampled": Request([5, 6, 7], 20, 1.0, seed=4),
    "truncated": Request([9, 6, 7, 30], 20, 0.8, seed=5, top_k=20, top_p=0.9, min_p=0.01),
    "prompt": Request([40, 41, 42, 43], 4, num_top=3, prompt_logprobs=True),
    "bias": Request([5, 6, 7], 8, logit_bias={3: 50.0}),
    "constraint": Request([5, 6, 7], 8, constraint=Alternating),
    "tool": Request([5, 6, 7], 8, interceptor=Forcing()),
    "long": Request([(7 * i) % 290 for i in range(300)], 5),
    "budget": Request([5, 6, 7], 50, max_flop=5e5),
}


@pytest.mark.parametrize("name", list(REQUESTS))
def test_a_request_means_what_it_means_to_kweek(ours, theirs, name):
    mine, found = ours.generate([REQUESTS[name]])[0], theirs.generate([REQUESTS[name]])[0]
    assert found.token_ids == mine.token_ids and found.sampled == mine.sampled
    assert (found.stop_reason, found.stopped_by) == (mine.stop_reason, mine.stopped_by)
    assert found.logprobs == pytest.approx(mine.logprobs, abs=CLOSE)
    assert found.processed_logprobs == pytest.approx(mine.processed_logprobs, abs=CLOSE)
    assert found.kept_mass == pytest.approx(mine.kept_mass, abs=CLOSE)
    assert [[t for t, _ in place] for place in found.top] == [[t for t, _ in place] for place in mine.top]
    if mine.prompt_logprobs is not None:
        assert found.prompt_logprobs == pytest.approx(mine.prompt_logprobs, abs=CLOSE)
    assert found.flop == mine.flop or name == "long"  # of a prompt found computed only the rest is paid


def test_stop_texts_end_it(ours, theirs):
    free = ours.generate([Request([5, 6, 7], 20)])[0]
    stop = b"".join(theirs._token_bytes[t] for t in free.token_ids[6:8])
    mine, found = (e.generate([Request([5, 6, 7], 20, stop_texts=(stop,))])[0] for e in (ours, theirs))
    assert (found.token_ids, found.stop_reason, found.stopped_by) == (mine.token_ids, "stop", stop)


def test_many_requests_share_prompts_and_slots(ours, theirs):
    prompt = [(3 * i) % 290 for i in range(60)]
    requests = [Request([*prompt, i], 12, i % 2, seed=i) for i in range(8)]
    mine, found = ours.generate(requests), theirs.generate(requests)
    for a, b in zip(mine, found, strict=True):
        assert a.token_ids == b.token_ids
        assert b.logprobs == pytest.approx(a.logprobs, abs=CLOSE)
    assert isinstance(theirs, LanguageModel)


def test_scores_are_true_logprobs(ours, theirs):
    sequences = [[5, 6, 7, 8], [9], [(11 * i) % 290 for i in range(400)], []]
    for mine, found in zip(ours.score(sequences), theirs.score(sequences), strict=True):
        assert found == pytest.approx(mine, abs=CLOSE)


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(theirs):
    with pytest.raises(KweekError, match=r"500 tokens and 20 new ones exceed the model's 512"):
        theirs.generate([Request([1] * 500, 20)])


def test_prompt_scores_of_both_backends_agree(path):
    ids = [(5 * i) % 290 for i in range(300)]
    asked = Request(ids, 0, prompt_logprobs=True, num_prompt_top=4)
    mine, found = (open_model(path, name).model.generate([asked])[0] for name in ("auto", "llama.cpp"))
    assert found.prompt_logprobs == pytest.approx(
        mine.prompt_logprobs, abs=0.02
    )  # flash attention rounds to fp16
    assert len(found.prompt_ranks) == len(found.prompt_top) == 300 and found.prompt_ranks[0] == 0
    assert sum(a == b for a, b in zip(mine.prompt_ranks, found.prompt_ranks, strict=True)) > 200


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    pytest.importorskip("xllamacpp")
    pytest.importorskip("transformers")
    found = tmp_path_factory.mktemp("gpt2") / "gpt2.gguf"
    return found, llama_cpp_files.write_gpt2(found)


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    pytest.importorskip("xllamacpp")
    pytest.importorskip("transformers")
    found = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    return found, llama_cpp_files.write_mamba(found)


@torch.inference_mode()
def table(model, ids):
    return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


@pytest.mark.parametrize("layout", ["gpt2", "mamba"])
def test_layouts_that_kweek_does_not_load(layout, request):
    path, model = request.getfixturevalue(layout)
    engine = LlamaCppEngine(path, num_slots=2, exact=True)
    assert engine.backend.rewinds == (layout == "gpt2")
    prompt = [(7 * i) % 290 for i in range(40)]
    requests = [Request(prompt[: 10 + 6 * i], 8, i % 2, seed=i) for i in range(5)]
    requests.append(Request(prompt, 3, prompt_logprobs=True))
    for asked, done in zip(requests, engine.generate(requests), strict=True):
        ids = [*asked.prompt_ids, *done.token_ids]
        found = table(model, ids[:-1])
        num_prompt = len(asked.prompt_ids)
        expected = [float(found[i - 1, ids[i]]) for i in range(1, len(ids))]
        assert done.logprobs == pytest.approx(expected[num_prompt - 1 :], abs=CLOSE_TO_TRANSFORMERS)
        if asked.prompt_logprobs:
            assert done.prompt_logprobs == pytest.approx(
                [0.0, *expected[: num_prompt - 1]], abs=CLOSE_TO_TRANSFORMERS
            )
        if not asked.temperature:
            assert done.token_ids == found[num_prompt - 1 :].argmax(-1).tolist()
        assert math.isnan(done.flop)
    with pytest.raises(KweekError, match="max_flop"):
        engine.generate([Request(prompt, 3, max_flop=1e9)])


def test_a_layout_that_kweek_does_not_load_names_the_backend_that_does(gpt2):
    with pytest.raises(CheckpointError, match=r"gpt2.*--backend llama.cpp"):
        open_model(gpt2[0])


def test_llama_cpp_s_tokenizer_where_kweek_reads_none(gpt2):
    opened = open_model(gpt2[0], "llama.cpp")
    tokenizer = opened.tokenizer
    assert isinstance(tokenizer, LlamaTokenizer) and "its tokenizer too" in opened.said
    assert (opened.vocab_size, opened.max_positions) == (300, 128)
    text = "abc dab é\n\u65e5"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == b" " + text.encode()
    assert tokenizer.bos_id == 1 and tokenizer.stop_ids == {2} and tokenizer.special["</s>"] == 2
    assert 2 not in tokenizer.encode("a</s>b")
    ids = encode_prompt(tokenizer, [{"role": "user", "content": "</s>b"}])
    assert ids[0] == 1 and 2 not in ids and tokenizer.decode(ids).endswith(" </s>ba")
    with pytest.raises(CheckpointError):
        tokenizer.save(gpt2[0].parent)


def test_files_that_are_none(tmp_path):
    pytest.importorskip("xllamacpp")
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    for name in ("x.gguf", "none.gguf"):
        with pytest.raises(KweekError, match=name):
            LlamaCppEngine(tmp_path / name)


def test_a_missing_or_other_package_is_named_with_what_to_install(monkeypatch):
    library.load.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KweekError, match=r"pip install 'kweek\[llama\]'"):
        library.load()
    monkeypatch.undo()
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(KweekError, match=r"written for .* not 1\.0"):
        library.load()
    library.load.cache_clear()
