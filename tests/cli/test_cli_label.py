"""`kweek label` at a real terminal: keys, undo, leaving, a kill and coming back; what is kept is preference data."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kweek.cli.main import main
from kweek.data import stories
from kweek.data.chats_reading import read_chats
from kweek.data.chats_report import Report
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.store.records import Records
from kweek.tokenize import bpe

pty = pytest.importorskip("pty")

PATIENCE = 120.0  # seconds; the machine may be doing something else
SCREEN = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.pid, self.screen = pty.fork()
        if self.pid == 0:  # the child, whose standard streams are the terminal
            os.environ["COLUMNS"] = "100"
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # as a person's shell has it, whatever runs these tests
            os.execv(sys.executable, [sys.executable, "-m", "kweek", *words])
        self.seen = ""

    def until(self, text: str) -> str:
        """Read the screen until it shows a text; what was there up to it."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.screen], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            with contextlib.suppress(OSError):
                if data := os.read(self.screen, 65536):
                    self.seen += SCREEN.sub("", data.decode("utf-8", "replace"))
                    continue
            raise AssertionError(f"left before {text!r}: {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before

    def press(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def leave(self) -> tuple[str, int]:
        """Everything else on the screen, and the exit status."""
        with contextlib.suppress(OSError):
            while data := os.read(self.screen, 65536):
                self.seen += SCREEN.sub("", data.decode("utf-8", "replace"))
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return self.seen, os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.screen)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    records = [{"prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def choose(terminal: Terminal, word: str) -> str:
    """Wait for a pair and press the key of the answer that has a word in it; what was shown."""
    shown = terminal.until("q: leave")
    first, second = shown.index("good"), shown.index("bad")
    terminal.press("1" if (first < second) == (word == "good") else "2")
    return shown


def test_judging_undoing_leaving_and_coming_back(
    terminals: list[Terminal], pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "prefs.jsonl"
    terminal = Terminal("label", str(pairs), "--out", str(out))
    terminals.append(terminal)
    terminal.until("0 of 3 judged")
    terminal.until("q: leave")
    assert "Question" in choose(terminal, "bad")
    terminal.until("is better")
    assert len(Records.read(out)) == 1  # at once, not at the end
    terminal.until("q: leave")
    terminal.press("x")  # means nothing
    terminal.until("q: leave")
    terminal.press("u")
    terminal.until("taken back")
    assert Records.read(out) == []
    shown = terminal.until("q: leave")
    terminal.press("u")
    terminal.until("nothing to take back")
    terminal.press("1" if shown.index("good") < shown.index("bad") else "2")
    assert "Question" not in terminal.until("is better"), "what is shown stays as it is"
    terminal.until("q: leave")
    terminal.press("q")
    screen, status = terminal.leave()
    assert status == 0
    assert "chosen 1, rejected 0" in screen
    assert f"kept in {out}" in screen

    terminal = Terminal("label", str(pairs), "--out", str(out), "--json")
    terminals.append(terminal)
    terminal.until("1 of 3 judged")
    terminal.until("q: leave")
    terminal.until("q: leave")
    terminal.press("t")
    terminal.until("tie")
    terminal.until("q: leave")
    terminal.press("s")
    terminal.until("All pairs are judged.")
    screen, status = terminal.leave()
    assert status == 0
    summary = json.loads(screen[screen.index("{") :])
    assert summary["tally"]["won"] == {"chosen": 1, "rejected": 0}
    assert (summary["tally"]["ties"], summary["skipped"]) == (1, 1)
    assert 0 <= summary["median_seconds"] < 60

    report = Report()
    (row,) = read_chats(out, report)
    assert row.chosen[0]["content"].startswith("good")  # type: ignore[union-attr]
    assert report.skipped == {"a tie": 1, "passed over by the person": 1}


def test_a_killed_session_loses_nothing(terminals: list[Terminal], pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "prefs.jsonl"
    terminal = Terminal("label", str(pairs), "--out", str(out))
    terminals.append(terminal)
    terminal.until("q: leave")
    choose(terminal, "good")
    terminal.until("is better")
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.leave()
    terminal = Terminal("label", str(pairs), "--out", str(out))
    terminals.append(terminal)
    terminal.until("1 of 3 judged")
    terminal.until("q: leave")
    terminal.until("q: leave")
    terminal.press("\x03")  # Ctrl-C
    screen, status = terminal.leave()
    assert "chosen 1, rejected 0" in screen
    assert status == 0


def grown(folder: Path, seed: int) -> Path:
    """A small model that says something."""
    tokenizer = bpe.train(stories.sample_texts("label", 100, "train"), 320)
    network = Network(
        ModelConfig(
            tokenizer.vocab_size, 32, 64, 2, 2, 1, head_dim=16, tied_embeddings=False, max_positions=128
        )
    )
    initialise(network, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 1, generator=torch.Generator().manual_seed(seed + 10))
    save_model(folder, network)
    tokenizer.save(folder)
    return folder


def test_two_models_answer_the_prompts_of_a_file(terminals: list[Terminal], tmp_path: Path) -> None:
    a, b = grown(tmp_path / "model-a", 1), grown(tmp_path / "model-b", 2)
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "prefs.jsonl"
    prompts.write_text('{"prompt": "How many?"}\n{"prompt": "How much?"}\n{"prompt": 7}\n')
    terminal = Terminal(
        *("label", str(a), str(b), "--prompts", str(prompts), "--out", str(out), "--max-tokens", "5"),
        *("--backend", "torch"),
    )
    terminals.append(terminal)
    terminal.until("left out: 1 (1 x no messages")
    terminal.until("0 of 2 judged")
    terminal.until("q: leave")
    for _ in range(2):
        terminal.until("How m")
        terminal.until("q: leave")
        terminal.press("1")
        terminal.until("is better")
    screen, status = terminal.leave()
    assert status == 0
    assert "of the decided pairs for" in screen
    records = Records.read(out)
    assert [set(record["order"]) for record in records] == [{str(a), str(b)}] * 2
    assert all(record["winner"] == record["order"][0] for record in records)
    assert "model-a" not in terminal.seen.split("preferred")[0]  # nobody was told whose answer is whose


def test_prompts_without_a_second_model_are_not_passed_over(
    terminals: list[Terminal], pairs: Path, tmp_path: Path
) -> None:
    terminal = Terminal("label", str(pairs), "--prompts", str(pairs), "--out", str(tmp_path / "out.jsonl"))
    terminals.append(terminal)
    screen, status = terminal.leave()
    assert status == 2
    assert "prompts need two models" in screen


def test_without_a_person_there_is_nothing_to_judge(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["label", str(pairs)])
    assert left.value.code == 2
    assert "judging needs a person at a terminal" in capsys.readouterr().err
