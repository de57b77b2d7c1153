from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kweek.cli.main import app, main
from kweek.cli.screen import harmless
from kweek.sandbox import SandboxError, namespaces
from kweek.sandbox.wasm import guest


def kweek(*words: str) -> Result:
    result = CliRunner().invoke(app, ["sandbox", *words], env={"COLUMNS": "160"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def spaces() -> None:
    refusal = namespaces.refusal()
    if refusal is not None:
        pytest.skip(str(refusal))


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "answer.py"
    path.write_text(
        "import sys, other\nprint(other.x, sys.stdin.read())\nopen('d', 'w').write('e')\nsys.exit(4)\n"
    )
    (tmp_path / "other.py").write_text("x = 5\n")
    (tmp_path / "in").write_text("given")
    return str(path)


@pytest.mark.usefixtures("spaces")
def test_run_a_file(program: str, tmp_path: Path) -> None:
    folder = Path(program).parent
    words = [
        "run",
        program,
        "--file",
        str(folder / "other.py"),
        "--stdin",
        str(folder / "in"),
        "--seconds",
        "60",
    ]
    done = kweek(*words, "--out", str(tmp_path / "out"))
    assert done.exit_code == 4 and done.stdout == "5 given\n"
    assert (tmp_path / "out" / "d").read_text() == "e"
    told = json.loads(kweek(*words, "--json").stdout)
    assert told["stdout"] == "5 given\n" and told["files"] == {"d": 1} and told["tier"] == "ns"


@pytest.mark.usefixtures("spaces")
def test_a_limit_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text("while True: pass")
    done = kweek("run", str(tmp_path / "loop.py"), "--cpu-seconds", "0.2", "--seconds", "60")
    assert done.exit_code == 1 and "ended for cpu_seconds (limit 0.2)" in done.stderr


@pytest.mark.usefixtures("spaces")
def test_check_says_what_is_enforced() -> None:
    said = kweek("check").output
    assert "NOT KEPT" not in said and "system calls" in said and "memory in all" in said
    (told,) = json.loads(kweek("check", "--json").output)
    assert told["works"] and {"network", "orphans", "disk"} <= {row["what"] for row in told["rows"]}


def test_where_it_refuses_it_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = SandboxError(
        "user namespaces are switched off", fix="get the portable tier: pip install 'kweek[wasm]'"
    )
    for tier in (namespaces, guest):
        monkeypatch.setattr(tier, "refusal", lambda: refused)
    with pytest.raises(SystemExit) as caught:
        main(["sandbox", "check"])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "pip install 'kweek[wasm]'" in lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.py"], "nowhere.py: cannot be read"),
        (["run", __file__, "--tier", "docker"], "'docker' is no tier"),
        (["run", __file__, "--memory", "1"], "memory_bytes"),
        (["check", "--tier", "x"], "'x' is no tier"),
    ],
)
def test_errors_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sandbox", *words])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_what_a_program_prints_does_nothing_to_a_terminal() -> None:
    assert harmless("a\tb\n\x1b]0;title\x07\x9b2J ü") == "a\tb\n\\x1b]0;title\\x07\\x9b2J ü"
