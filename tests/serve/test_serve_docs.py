"""The guide's program runs, and the guide names every field and route that there is."""

import re
from pathlib import Path

import pytest

from kweek.serve.bodies import ChatBody, CompletionBody

pytest.importorskip("openai", reason="the extra `test` has the openai client")


GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_program_of_the_guide(server, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(program.replace("http://127.0.0.1:8000/v1", server.url), {})
    said = capsys.readouterr().out
    assert said.startswith("19\n")


def test_every_field_is_in_the_guide():
    ours = {
        "model",
        "best_of",
        "presence_penalty",
        "frequency_penalty",
    }  # the last three: only without effect
    for name in {*ChatBody.model_fields, *CompletionBody.model_fields} - ours:
        assert f"`{name}" in GUIDE, name


def test_every_route_is_in_the_guide():
    source = (Path(__file__).parents[2] / "src" / "kweek" / "serve" / "app.py").read_text(encoding="utf-8")
    for method, path in re.findall(r'_route\("(\w+)", "([^"{]+)', source):
        assert f"{method} {path.rstrip('/')}" in GUIDE, path
