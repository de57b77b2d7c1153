"""Traces drawn as trees: everything in its place, costs added up, and the verb that shows it."""

import json
import subprocess
import sys
from functools import partial

import pytest
from scripted_systems import system

from kweek.errors import DataError
from kweek.system.budget import Limits
from kweek.system.scaffolds.debate import debate
from kweek.system.task import Answer, Task
from kweek.system.tools.tool import tool
from kweek.system.tools.toolbox import Toolbox
from kweek.system.trace import Event, Trace, read_trace
from kweek.system.trace_tree import tree_of

TASK = Task.of("How many cups are there?", "3")


def test_a_tree_has_every_event_in_its_place_with_what_it_cost(tmp_path):
    path = tmp_path / "trace.jsonl"
    solved = system(debate, ["3", "3", "4", "3", "3", "3"]).answer(TASK, trace=path)
    root = tree_of(read_trace(path))
    assert root.kind == "branch" and root.whole == solved.cost and "How many cups" in root.said
    assert [one.kind for one in root.children[:3]] == ["branch"] * 3
    assert [one.said for one in root.children[0].children] == ["3", "3"]
    assert root.children[-1].kind == "answer" and root.children[-1].said == "3"
    assert sum(one.kind == "message" for one in root.children) == 6
    assert root.to_dict()["children"][0]["cost"]["tokens_out"] > 0 and "tokens" in root.cost


def test_calls_limits_and_what_was_never_ended_are_told(tmp_path):
    @tool
    def double(number: int) -> int:
        """Twice a number.

        Args:
            number: any.
        """
        return 2 * number

    def scaffold(context, task):
        context.call("double", {"number": 4})
        context.call("double", {"number": "x"})
        context.offer(Answer("8"))
        context.generate("core", task.messages)
        return Answer("never")

    path = tmp_path / "trace.jsonl"
    system(scaffold, [], tools=Toolbox([double]), limits=Limits(tokens=3)).answer(TASK, trace=path)
    said = {one.kind: one.said for one in tree_of(read_trace(path)).children}
    assert "error" in said["tool"] and "are left" in said["limit"] and said["answer"] == "8 (cut short)"
    with Trace(path) as trace:
        trace.add(Event("0.9", "0", "tool", "double", "begun"))
    assert tree_of(read_trace(path)).children[-1].said == "begun, and not ended"


def test_long_texts_are_shortened_unless_they_are_wanted_whole(tmp_path):
    path = tmp_path / "trace.jsonl"
    system(partial(debate, rounds=0), ["word " * 60] * 3).answer(TASK, trace=path)
    first = tree_of(read_trace(path)).children[0].children[0]
    whole = tree_of(read_trace(path), full=True).children[0].children[0]
    assert first.said.endswith("…") and len(first.said) == 72 and len(whole.said) > 200


def test_no_events_and_events_of_nowhere_are_errors():
    with pytest.raises(DataError, match="empty"):
        tree_of([])
    with pytest.raises(DataError, match="not there"):
        tree_of([Event("0", "", "branch", "system"), Event("0.3.1", "0.3", "tool", "x", "begun")])


def test_the_verb_draws_the_trace_of_a_run(tmp_path):
    system(debate, ["3", "3", "3"]).answer(TASK, trace=tmp_path / "trace.jsonl")
    words = [sys.executable, "-m", "kweek", "trace", "show", str(tmp_path)]
    drawn = subprocess.run(words, capture_output=True, text=True, env=None)
    assert drawn.returncode == 0, drawn.stderr
    lines = drawn.stdout.splitlines()
    assert "branch system" in lines[0] and any("generate core" in line for line in lines)
    told = subprocess.run([*words[:3], "traces", *words[4:], "--json"], capture_output=True, text=True)
    assert json.loads(told.stdout)["kind"] == "branch"
    missing = subprocess.run([*words[:-1], str(tmp_path / "none")], capture_output=True, text=True)
    assert missing.returncode == 2 and "no such trace" in missing.stderr
