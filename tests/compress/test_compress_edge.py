from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from compress_networks import make_network
from export_folders import VOCABULARY, make_tokenizer, save_folder, save_packed

from kweek.compress.edge import default_kind, export_edge, model_name
from kweek.compress.lineage import ancestors
from kweek.compress.modelfile import modelfile, read_pieces
from kweek.errors import StoreError
from kweek.model.checkpoint import save_model
from kweek.model.gguf import load_gguf
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.tokenize.tokenizer import Tokenizer

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are SmolLM<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUMBERED = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}"
REFUSING = "{{ raise_exception('no') if messages[0].role == 'system' else 'x' }}" + SMOLLM


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    network = save_packed(tmp_path / "folder")
    made = export_edge(tmp_path / "folder", tmp_path / "edge", licence="apache-2.0")
    assert made.files == ["Modelfile", "README.md", "model.gguf", "start.sh"]
    assert Artifact.open(tmp_path / "edge", verify="hash").kind == "edge"
    loaded, _ = load_gguf(tmp_path / "edge" / "model.gguf")
    assert torch.equal(loaded.lm_head.weight, network.lm_head.weight)
    card = (tmp_path / "edge" / "README.md").read_text()
    file = tmp_path / "edge" / "model.gguf"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    total = network.config.num_parameters()["total"]
    assert f"| parameters | {total:,} |" in card
    assert f"{8 * file.stat().st_size / total:.2f}, vocabulary included" in card
    assert "| Q4_0 | 15 | none |" in card and card.rstrip().endswith("apache-2.0")
    assert 'LICENSE """apache-2.0"""' in (tmp_path / "edge" / "Modelfile").read_text()


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    first = export_edge(tmp_path / "folder", tmp_path / "edge").exported
    assert set(first.types) == {"Q8_0", "F32"}
    second = export_edge(tmp_path / "folder", tmp_path / "edge", "f16").exported
    assert set(second.types) == {"F16", "F32"}
    assert set(load_gguf(tmp_path / "edge" / "model.gguf")[1].special) == set(make_tokenizer().special)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="not an artifact"):
        export_edge(tmp_path / "folder", tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_default_type(tmp_path: Path) -> None:
    save_folder(tmp_path / "plain")
    save_packed(tmp_path / "packed")
    assert default_kind(tmp_path / "plain") == "q8_0" and default_kind(tmp_path / "packed") == "stored"


def test_names(tmp_path: Path) -> None:
    assert model_name(tmp_path / "runs" / "laptop" / "artifacts" / "rl") == "laptop-rl"
    assert model_name(tmp_path / "My model (2)") == "My-model-2"


def artifact(path: Path, kind: str, mark: str, lineage: dict[str, str]) -> None:
    with ArtifactWriter(path, kind=kind, fingerprint=mark, lineage=lineage) as out:
        if kind == "corpus":
            rows = {"licence": ["PSF-2.0", "PSF-2.0", None], "source": ["docs", "docs", "web"]}
            pq.write_table(pa.table(rows), out.path("train.parquet"))
        elif kind == "sft":
            save_model(out, make_network(vocab_size=VOCABULARY))
            make_tokenizer().save(out)
            out.metrics["bits_per_byte"] = 2.25
        else:
            out.write_text("nothing.txt", kind)


def test_lineage_reaches_the_documents(tmp_path: Path) -> None:
    here = tmp_path / "laptop" / "artifacts"
    artifact(here / "corpus", "corpus", "c" * 64, {})
    artifact(here / "base", "pretrain", "b" * 64, {"corpus": "c" * 64, "outside": "f" * 64})
    artifact(here / "sft", "sft", "a" * 64, {"model": "b" * 64})
    found = {ancestor.name: ancestor for ancestor in ancestors(here / "sft")}
    assert [(name, one.depth, one.kind) for name, one in found.items()] == [
        ("base", 1, "pretrain"), ("corpus", 2, "corpus"), ("outside", 2, None),
    ]  # fmt: skip
    assert found["corpus"].licences == {("PSF-2.0", "docs"): 2, ("not stated", "web"): 1}
    export_edge(here / "sft", tmp_path / "edge")
    card = (tmp_path / "edge" / "README.md").read_text()
    assert "| PSF-2.0 | docs | 2 |" in card and "| base | pretrain |" in card
    assert "# laptop-sft" in card and "| bits per byte | 2.25 |" in card
    assert "Not stated: no licence file" in card


def test_a_licence_file_is_taken_over(tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    (tmp_path / "folder" / "LICENSE").write_text("Do as you please.\n")
    export_edge(tmp_path / "folder", tmp_path / "edge")
    assert "Do as you please." in (tmp_path / "edge" / "README.md").read_text()
    assert "says nothing of where it comes from" in (tmp_path / "edge" / "README.md").read_text()


def test_the_templates_pieces() -> None:
    ours = read_pieces(make_tokenizer())
    assert ours is not None and ours.head == "" and ours.opening == "<|im_start|>assistant\n"
    assert ours.around["user"] == ("<|im_start|>user\n", "<|im_end|>\n")
    smollm = read_pieces(make_tokenizer(template=SMOLLM))
    assert smollm is not None and smollm.head == "<|im_start|>system\nYou are SmolLM<|im_end|>\n"
    assert smollm.go().startswith(
        "{{ if not .System }}<|im_start|>system\nYou are SmolLM<|im_end|>\n{{ end }}"
    )


def test_the_go_template_says_the_same(tmp_path: Path) -> None:
    """Its few constructs, replayed: a case by role, contents, and text as it stands."""
    pieces = read_pieces(make_tokenizer(template=SMOLLM))
    assert pieces is not None
    go = pieces.go().replace(pieces.head, "", 1)
    inside = go.split("{{ range .Messages }}")[1].rsplit("{{ end }}{{ end }}", 1)[0]
    cases = dict(
        part.removesuffix("{{ else ").split('" }}', 1)
        for part in inside.split('if eq .Role "')
        if '" }}' in part
    )
    text = "".join(
        cases[role].replace("{{ .Content }}", content)
        for role, content in (("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"))
    )
    messages = [
        {"role": role, "content": content}
        for role, content in (("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V"))
    ]
    expected = make_tokenizer(template=SMOLLM).template.render(messages, add_generation_prompt=True)
    assert text + pieces.opening == expected


@pytest.mark.parametrize("template", [NUMBERED, REFUSING, "{{ messages[5].content }}"])
def test_templates_that_do_more_are_left_to_ollama(template: str) -> None:
    tokenizer = make_tokenizer(template=template)
    assert read_pieces(tokenizer) is None
    text = modelfile(tokenizer, make_network().config, "model.gguf", None)
    assert "TEMPLATE" not in text and "# Its chat template cannot be said in Go" in text


def test_the_token_before_a_text_is_not_said_twice() -> None:
    template = "{{ '<|endoftext|>' }}" + SMOLLM
    plain = make_tokenizer(template=template)
    pieces = read_pieces(plain)
    assert pieces is not None and pieces.head.startswith("<|endoftext|>")
    habit = {"bos_token": "<|endoftext|>", "add_bos_token": True}
    pieces = read_pieces(Tokenizer(plain.definition, {**plain.config, **habit}, template))
    assert pieces is not None and pieces.head.startswith("<|im_start|>system")
    assert pieces.around["system"][0] == "<|im_start|>system\n"


def test_modelfile_stops_where_a_turn_ends() -> None:
    text = modelfile(make_tokenizer(), make_network(max_positions=96).config, "model.gguf", None)
    assert text.startswith("FROM ./model.gguf\nTEMPLATE ")
    assert 'PARAMETER stop "<|endoftext|>"\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 96\n' in text


@pytest.mark.parametrize(
    ("engine", "said"),
    [("llama-server", "--model model.gguf --host 127.0.0.1 --port 9 --ctx-size"), ("ollama", "run folder x")],
)
def test_the_start_script_takes_the_engine_that_is_there(engine: str, said: str, tmp_path: Path) -> None:
    save_folder(tmp_path / "folder")
    export_edge(tmp_path / "folder", tmp_path / "edge")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / engine).write_text('#!/bin/sh\necho "$@"\n')
    (tools / engine).chmod(0o755)
    script = ["/bin/sh", str(tmp_path / "edge" / "start.sh"), "x"]
    path = f"{tools}:{os.defpath}"
    done = subprocess.run(script, env={"PATH": path, "PORT": "9"}, capture_output=True, text=True, check=True)
    assert said in done.stdout.splitlines()[-1]
    (tools / engine).unlink()
    done = subprocess.run(script, env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "install llama.cpp or Ollama" in done.stderr
