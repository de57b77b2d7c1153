"""`kweek index` as a user types it."""

import json

import pytest
from typer.testing import CliRunner

from kweek.cli.main import app, main


def kweek(*words):
    result = CliRunner().invoke(app, ["index", *map(str, words)], env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def notes(tmp_path, monkeypatch):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "bridge.md").write_text("# The bridge\n\nIt was finished in 1402.\n")
    (folder / "secret.txt").write_text("The samovar is hidden under the stairs.")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_folder_is_indexed_searched_and_forgotten(notes):
    told = kweek("notes").stdout
    assert "2 new" in told and "not used: 1" in told and "kweek index search" in told
    assert "2 unchanged" in kweek("add", "notes").stdout
    found = kweek("search", "when was the bridge finished?").stdout
    assert found.startswith("[1] bridge.md, bytes 0-") and "1402" in found
    (passage,) = json.loads(kweek("search", "samovar", "--json").stdout)
    assert passage["source"] == "secret.txt" and passage["trusted"] is False
    assert "Nothing in the memory" in kweek("search", "zebra").stdout
    checked = kweek("check", "--list").stdout
    assert "bridge.md\nsecret.txt" in checked and "2 documents" in checked and checked.endswith("sound\n")
    forgotten = kweek("forget", "notes/secret.txt").stdout
    assert "nothing is left" in forgotten and "1 documents, 1 passages" in forgotten
    assert json.loads(kweek("search", "samovar", "--json").stdout) == []
    assert json.loads(kweek("forget", "bridge.md", "--json").stdout)["holds"] is True
    assert json.loads(kweek("check", "--json").stdout)["documents"] == 0


def failure(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(["index", *map(str, words)])
    assert caught.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("kweek: ") and "\n" not in said
    return said


def test_errors_are_one_line(notes, capsys):
    assert "there is no memory" in failure(capsys, "search", "x")
    assert "no such folder" in failure(capsys, "absent")
    kweek("notes")
    assert "nothing of that name" in failure(capsys, "forget", "absent")
    assert "is no mode" in failure(capsys, "search", "x", "--mode", "magic")
    assert "needs an encoder" in failure(capsys, "search", "x", "--mode", "dense")
    assert "show nothing" in failure(capsys, "evaluate")
    (notes / "asked.jsonl").write_text('{"question": "x"}\nno json\n')
    assert "asked.jsonl:2" in failure(capsys, "evaluate", "--questions", notes / "asked.jsonl")


def test_a_damaged_memory_is_put_aside_and_made_anew(notes, tmp_path, capsys):
    kweek("notes")
    content = bytearray((tmp_path / "memory.db").read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    (tmp_path / "memory.db").write_bytes(content)
    assert "damaged" in failure(capsys, "search", "bridge") and "--rebuild" in failure(capsys, "check")
    assert "2 new" in kweek("notes", "--rebuild").stdout
    assert (tmp_path / "damaged-1-memory.db").exists()
    assert "1402" in kweek("search", "bridge").stdout
    assert "sound" in kweek("check", "--repair").stdout
