"""Opening a model: which backend is taken, what is said, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_engine import library_or_skip
from typer.testing import CliRunner

from kweek.cli.main import app
from kweek.compress.export import export_gguf
from kweek.compress.scales import nearest_codes, searched_scales
from kweek.engine.engine import Engine
from kweek.engine.native import library
from kweek.engine.open import has_four_bits, open_model
from kweek.errors import ConfigError, KweekError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor
from kweek.protocols import Request
from kweek.tokenize import bpe

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="auto takes the CUDA device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("open") / "small"
    network = Network(ModelConfig(320, 64, 96, 2, 4, 2, head_dim=32, max_positions=256))
    initialise(network, torch.Generator().manual_seed(0))
    save_model(found, network)
    tokenizer = bpe.train([f"{i} {i * i} {i:x}" for i in range(2000)], 320)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save(found)
    return found


@pytest.fixture(scope="module")
def gguf(folder):
    path = folder.parent / "small.gguf"
    export_gguf(folder, path, "f32")
    return path


REQUESTS = [Request([5, 6, 7], 8), Request([9, 4], 8, 1.0, seed=3)]


@on_a_cpu
def test_backends_agree_and_say_what_they_are(folder, gguf):
    opened = {"torch": open_model(folder, "torch"), "auto": open_model(gguf)}
    assert "torch on the CPU" in opened["torch"].said
    done = {name: found.model.generate(REQUESTS) for name, found in opened.items()}
    assert [c.token_ids for c in done["torch"]] == [c.token_ids for c in done["auto"]]
    for found in opened.values():
        assert (found.vocab_size, found.max_positions) == (320, 256)
        assert found.model.generate([Request([5], 4, stop_texts=(b"absent",))])[0].stop_reason == "length"


@on_a_cpu
def test_without_the_native_library_auto_goes_on_with_torch_and_native_does_not(folder, monkeypatch):
    def missing(target=None):
        raise KweekError("no compiler")

    monkeypatch.setattr(library, "load", missing)
    opened = open_model(folder)
    assert opened.said == "Computed by torch on the CPU, several times slower than natively: no compiler."
    assert len(opened.model.generate(REQUESTS)[0].token_ids) == 8
    with pytest.raises(KweekError, match="no compiler"):
        open_model(folder, "native")


@on_a_cpu
@pytest.mark.parametrize("weights", ["f32", "q8"])
def test_natively_opened_a_model_is_held_once(folder, weights):
    library_or_skip()
    opened, whole = open_model(folder, weights=weights).model, Engine(load_model(folder), weights=weights)
    assert not any(p.numel() for p in opened.network.parameters() if p.ndim == 2)
    assert opened.generate(REQUESTS) == whole.generate(REQUESTS)
    long = Request([9, 4], 200, 1.0, seed=3)
    ticket = opened.submit(long)
    opened.step()
    suspended = opened.suspend([ticket])[0]  # the identity of the weights is still known
    whole.resume(suspended)
    ended = [done for _ in range(200) for _, done in whole.step()]
    assert ended[0].token_ids == whole.generate([long])[0].token_ids


@on_a_cpu
def test_opened_for_torch_the_network_stays(folder):
    model = open_model(folder, "torch").model
    assert all(p.numel() for p in model.network.parameters())


def test_what_is_refused(folder, gguf):
    with pytest.raises(ConfigError, match=r"no backend 'gpu'.*auto, native, torch, llama.cpp, vllm"):
        open_model(folder, "gpu")
    with pytest.raises(ConfigError, match=r"this is a folder.*kweek export"):
        open_model(folder, "llama.cpp")
    with pytest.raises(ConfigError, match=r"this is a file.*--backend llama.cpp"):
        open_model(gguf, "vllm")
    for option, value in (
        (":weights", "q8"),
        (":weights", "f32"),
        (":kv", "f32"),
        (":kv", "f16"),
        (":threads", 1),
    ):
        name = option.removeprefix(":")
        with pytest.raises(
            ConfigError, match=f"--{name}: {value} is for the native library.*--backend torch"
        ):
            open_model(folder, "torch", **{name: value})


@on_a_cpu
def test_rows_without_whole_groups_are_refused_when_the_model_is_opened(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m", ignore=shutil.ignore_patterns("model.safetensors"))
    network = Network(ModelConfig(320, 64, 90, 2, 4, 2, head_dim=32, max_positions=256))
    initialise(network, torch.Generator().manual_seed(0))
    save_model(tmp_path / "m", network)
    with pytest.raises(ConfigError, match=r"--weights: rows of 90 are no whole groups of 32 for q8"):
        open_model(tmp_path / "m", weights="q8")


def rounded(network, bits, but=()):
    found = {}
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 2 and name not in but:
            scales = searched_scales(tensor, bits)
            found[name] = QuantizedTensor.from_codes(nearest_codes(tensor, scales, bits), scales, bits)
    return found


@on_a_cpu
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_of_four_bits_keeps_them(folder, tmp_path, tied):
    network = Network(ModelConfig(320, 64, 96, 2, 4, 2, head_dim=32, max_positions=256, tied_embeddings=tied))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:  # an untrained head answers every question alike
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    said = {}
    cases = {"3": (3, ()), "4": (4, ()), "8": (8, ()), "4 but one": (4, ("model.embed_tokens.weight",))}
    for name, (bits, but) in cases.items():
        shutil.copytree(
            folder, tmp_path / name, ignore=shutil.ignore_patterns("model.safetensors", "config.json")
        )
        save_model(tmp_path / name, network, torch.float16, quantized_tensors=rounded(network, bits, but))
        said[name] = open_model(tmp_path / name).said
        export_gguf(tmp_path / name, tmp_path / f"{name}.gguf")
        said[f"{name}, GGUF"] = open_model(tmp_path / f"{name}.gguf").said
    four = {name for name, words in said.items() if "4-bit weights" in words}
    assert four == {"3", "4", "3, GGUF", "4, GGUF"} and len(said) == 8
    exact, kept = (
        open_model(tmp_path / "4", weights=form).model.score([[1, 2, 3]])[0] for form in ("f32", "auto")
    )
    assert exact != kept and exact == pytest.approx(kept, abs=0.05), "activations in 8 bits"


@pytest.mark.parametrize("change", ["bf16 scales", "a pattern", "no list"])
def test_four_bits_of_others_are_only_taken_where_they_stay(folder, tmp_path, change):
    network = Network(ModelConfig(320, 64, 96, 2, 4, 2, head_dim=32, max_positions=256))
    initialise(network, torch.Generator().manual_seed(0))
    but = ("lm_head.weight",) if change == "a pattern" else ()
    save_model(tmp_path, network, torch.float16, quantized_tensors=rounded(network, 4, but))
    config = json.loads((tmp_path / "config.json").read_text())
    if change == "bf16 scales":
        stored = load_file(tmp_path / "model.safetensors")
        scales = {name: part.bfloat16() for name, part in stored.items() if name.endswith("_scale")}
        save_file(stored | scales, tmp_path / "model.safetensors")
    elif change == "a pattern":
        config["quantization_config"]["ignore"] = ["re:.*lm_head"]
    else:
        del config["quantization_config"]["ignore"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_model(tmp_path)  # is read as it is
    assert has_four_bits(tmp_path) == (change == "no list")


def test_chat_with_a_gguf_file_by_llama_cpp(gguf):
    pytest.importorskip("xllamacpp")
    words = ["chat", str(gguf), "--backend", "llama.cpp", "-m", "12", "--max-tokens", "5"]
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["usage"]["completion_tokens"] <= 5
    assert result.stderr.startswith("Computed by llama.cpp (xllamacpp ")
    mine = CliRunner().invoke(app, ["chat", str(gguf), "-m", "12", "--max-tokens", "5", "--json"])
    assert json.loads(mine.stdout)["content"] == json.loads(result.stdout)["content"]
