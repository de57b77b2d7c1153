"""`kweek data show`: samples with their loss in colour, counts, and what is left out and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kweek.cli.main import app, main
from kweek.data import stories
from kweek.tokenize import bpe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bpe.train(stories.sample_texts("data", 100, "train"), 352).save(folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    records: list[Any] = [
        {
            "messages": [
                {"role": "user", "content": f"What is {i}?"},
                {"role": "assistant", "content": f"It is {i}."},
            ]
        }
        for i in range(10)
    ]
    records[1]["weight"] = 0.5
    records.append({"messages": [{"role": "wizard", "content": "x"}]})
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def kweek(*words: str, **env: str) -> Result:
    result = CliRunner().invoke(app, ["data", "show", *words], env={"COLUMNS": "200", **env})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_what_is_learnt_stands_between_brackets_where_there_are_no_colours(model: Path, chats: Path) -> None:
    said = kweek(str(chats), "--model", str(model), "-n", "2").output
    assert "<|im_start|>user\nWhat is 0?<|im_end|>\n<|im_start|>assistant\n⟦It is 0.<|im_end|>⟧\n" in said
    assert "⟦(weight 0.5) It is 1.<|im_end|>⟧" in said
    assert "What is 2?" not in said
    assert "11 records of the format 'messages' (recognised), 10 used, 1 left out" in said
    assert "1 x an unknown role (chats.jsonl:11: 'wizard' in message 0)" in said
    assert "tokens per sequence (sequences: 10, of 10 rows): p50" in said
    assert "'<|im_end|>' 10" in said


def test_what_is_learnt_is_green_and_control_tokens_are_underlined(model: Path, chats: Path) -> None:
    said = kweek(str(chats), "--model", str(model), "-n", "1", FORCE_COLOR="1", TERM="xterm-256color").output
    assert "\x1b[32mIt is 0.\x1b" in said
    assert "\x1b[4;32m<|im_end|>\x1b" in said
    assert "⟦" not in said


def test_where_tokens_end(model: Path, chats: Path) -> None:
    said = kweek(str(chats), "--model", str(model), "-n", "1", "--tokens").output
    head, _, rest = said.partition(" tokens, ")
    shown = rest.partition("learnt\n")[2].partition("\n\n")[0]
    assert shown.startswith("<|im_start|>·")
    assert shown.count("·") == int(head.split()[-1])
    assert "⟦It is 0.<|im_end|>⟧" in shown.replace("·", "")


def test_everything_as_json(model: Path, chats: Path) -> None:
    found = json.loads(kweek(str(chats), "--model", str(model), "--json", "-n", "1").output)
    assert found["report"]["rows"] == 10
    assert found["report"]["skipped"][0]["reason"] == "an unknown role"
    assert found["tokens"]["p100"] >= found["learnt"]["p100"] > 0
    (sample,) = found["samples"]
    assert "".join(text for text, weight, _ in sample["tokens"] if weight) == "It is 0.<|im_end|>"
    assert found["faults"] == []


def test_lengths_that_do_not_fit_are_said(model: Path, chats: Path) -> None:
    said = kweek(str(chats), "--model", str(model), "--max-tokens", "4").output
    assert "of 10 rows looked at, 10 cannot be encoded:" in said
    assert "10 x more tokens than fit" in said
    assert "left out: more tokens than fit" in said


def test_a_format_that_is_named_and_one_that_is_not_there(model: Path, chats: Path) -> None:
    assert "'messages' (named)" in kweek(str(chats), "--model", str(model), "--format", "messages").output
    with pytest.raises(SystemExit) as left:
        main(["data", "show", str(chats), "--model", str(model), "--format", "shared"])
    assert left.value.code == 2


def test_without_a_model_it_says_which_are_wanted(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["data", "show", str(chats)])
    assert left.value.code == 2
    assert "give a run, a model folder or a gguf file" in capsys.readouterr().err.lower()


def test_a_missing_file_is_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["data", "show", "nothing.jsonl", "--model", str(model)])
    assert left.value.code == 2
    assert capsys.readouterr().err == "kweek: nothing.jsonl: no such file or folder. Check the path.\n"
