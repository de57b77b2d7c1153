"""The programs of the pages on systems and scaffolds run, and the pages name what there is."""

import importlib
import re
from pathlib import Path
from typing import get_args

import torch
from scripted_systems import tokenizer

from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.system.trace import Kind, read_trace

DOCS = Path(__file__).parents[2] / "docs"


def programs(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_programs_of_the_page_on_systems(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = tokenizer()
    network = Network(ModelConfig(words.vocab_size, 32, 64, 1, 2, 1, 16, max_positions=1024))
    initialise(network, torch.Generator().manual_seed(0))
    save_model(tmp_path / "model", network)
    words.save(tmp_path / "model")
    names = {"__name__": "page", "MODEL": tmp_path / "model"}
    for program in programs("system.md"):
        exec(program, names)
    assert capsys.readouterr().out.splitlines()[-1] == "15"
    assert {one.kind for one in read_trace(tmp_path / "trace.jsonl")} == {"branch", "generate", "answer"}


def test_the_programs_of_the_page_on_scaffolds(capsys):
    names = {"__name__": "page", "TOKENIZER": tokenizer()}
    for program in programs("scaffolds.md"):
        exec(program, names)
    assert "difference" in capsys.readouterr().out


def test_the_pages_are_complete():
    page = (DOCS / "scaffolds.md").read_text(encoding="utf-8")
    for names, module in re.findall(r"^\| (`.*?`) \| `(\w+)` \|", page, re.MULTILINE):
        found = importlib.import_module(f"kweek.system.scaffolds.{module}")
        for name in re.findall(r"`(\w+)`", names):
            assert callable(getattr(found, name)), name
    traces = (DOCS / "traces.md").read_text(encoding="utf-8")
    for kind in get_args(Kind):
        assert f"`{kind}`" in traces
