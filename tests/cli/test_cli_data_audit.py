"""`kweek data audit`: a table, a JSON object, and a status that scripts can trust."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from kweek.cli import data
from kweek.errors import ConfigError, GuardError


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)  # a group, as the whole command line is
    data.register(app)
    return lambda *words: CliRunner().invoke(app, ["data", "audit", *words])


def prompts(path, verifier):
    lines = [{"prompt": f"What is {i}+{i}?", "gold": str(2 * i), "verifier": verifier} for i in range(1, 60)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_a_sound_file(run, tmp_path):
    shown = run(prompts(tmp_path / "p.jsonl", "number"))
    assert shown.exit_code == 0, shown.output
    assert "best constant" in shown.output and "FAILS" not in shown.output
    said = json.loads(run(prompts(tmp_path / "p.jsonl", "number"), "--json").stdout)
    assert said["exploitability"] <= 0.2 and all(row["passed"] for row in said["findings"])


def test_an_exploitable_file_is_refused_after_the_table(run, tmp_path):
    lines = [
        {"prompt": f"Is {i} even?", "gold": "yes" if i % 2 == 0 else "no", "verifier": "text"}
        for i in range(60)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refused = run(str(tmp_path / "p.jsonl"), "--count", "20")
    assert isinstance(refused.exception, GuardError) and re.search(r"best constant.*FAILS", refused.output)
    assert run(str(tmp_path / "p.jsonl"), "--limit", "best constant=0.8").exit_code == 0


def test_what_cannot_be_meant(run, tmp_path):
    path = prompts(tmp_path / "p.jsonl", "number")
    for words in (("--limit", "best constant"), ("--limit", "best constnt=0.5"), ()):
        done = run(*((path, *words) if words else ("storys",)))
        assert isinstance(done.exception, ConfigError), words
