"""A run is killed at every single write of its trace, before it and after it, and goes on: no effect happens twice."""

import os
import signal

import pytest
from scripted_systems import system

from kweek.store.files import FileOps, use_file_ops
from kweek.store.records import Records
from kweek.system.task import Answer, Task
from kweek.system.tools.tool import tool
from kweek.system.tools.toolbox import Toolbox
from kweek.system.trace import read_trace

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
TASK = Task.of("Send three letters.")
LETTERS = ("first", "second", "third")


def posting(box):
    @tool(effects={"write"})
    def post(text: str) -> str:
        """Post a letter.

        Args:
            text: what it says.
        """
        with box.open("a") as file:
            file.write(f"{text}\n")
        return f"posted {text}"

    def scaffold(context, task):
        said = []
        for text in LETTERS:
            said.append(context.generate("core", task.messages)[0].text)
            said.append(context.branch(text).call("post", {"text": text}).content)
        return Answer(" ".join(said), data={"unknown": context.unknown})

    return system(
        scaffold,
        lambda prompt, request: f"seed {request.seed % 97}",
        tools=Toolbox([post], {"write": "allow"}),
    )


class Dying(FileOps):
    """Kills its process at a write: before it, in the middle of it, or after it."""

    def __init__(self, at, when):
        self.at, self.when, self.count = at, when, 0

    def write(self, descriptor, data):
        self.count += 1
        if self.count == self.at:
            if self.when == "middle":
                super().write(descriptor, data[: len(data) // 2])
            if self.when == "after":
                super().write(descriptor, data)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(descriptor, data)


def life(folder, at, when):
    """One life of the run in a process of its own; whether it ended by itself."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with use_file_ops(Dying(at, when)):
                solved = posting(folder / "box").answer(TASK, trace=folder / "trace.jsonl")
            Records(folder / "answer").append(
                "answer", text=solved.answer.text, unknown=solved.unknown, told=solved.answer.data["unknown"]
            )
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("when", ["before", "middle", "after"])
def test_killed_anywhere_it_goes_on_and_no_letter_is_posted_twice(tmp_path, when):
    alone = tmp_path / "alone"
    alone.mkdir()
    assert life(alone, 10**9, when) == 0
    writes = len(read_trace(alone / "trace.jsonl"))
    whole = Records.read(alone / "answer")[0]["text"]
    assert writes == 1 + 3 * 4 + 1
    lost = 0
    for at in range(1, writes + 1):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        assert life(folder, at, when) == -signal.SIGKILL
        assert life(folder, 10**9, when) == 0
        posted = (folder / "box").read_text().split()
        answer = Records.read(folder / "answer")[0]
        assert len(set(posted)) == len(posted)
        missing = [text for text in LETTERS if text not in posted]
        if not answer["unknown"]:
            assert answer["text"] == whole and not missing
        else:  # one call was under way: whether it was made nobody knows, and that is what both are told
            lost += 1
            assert len(answer["unknown"]) == 1 and answer["told"] == answer["unknown"] and len(missing) <= 1
            assert "seed" in answer["text"]
    # Those killed between the announcement and the result of a call: once or twice for each letter.
    assert lost == {"before": 3, "middle": 3, "after": 3}[when]
