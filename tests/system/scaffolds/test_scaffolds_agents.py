"""Research and the agent left to itself: every branch, with a scripted model, a real toolbox and passages."""

import hashlib
from functools import partial

from scripted_systems import system, tokenizer

from kweek.system.budget import Limits
from kweek.system.memory.passage import Passage
from kweek.system.scaffolds.autonomous import autonomous
from kweek.system.scaffolds.research import UNKNOWN, research
from kweek.system.task import Task
from kweek.system.tools.tool import tool
from kweek.system.tools.toolbox import Toolbox

TASK = Task.of("Where was the builder of the bridge born?", "Ghent")
FACTS = {"bridge": "The bridge was built by Ida Maes.", "Maes": "Ida Maes was born in Ghent in 1871."}


class Shelf:
    """A memory of two documents, found by a word of the query."""

    def __init__(self):
        self.asked = []

    def search(self, query, k=10):
        self.asked.append(query)
        found = [(name, text) for name, text in FACTS.items() if name in query]
        return [
            Passage(name, f"{name}.txt", 0, len(text), text, hashlib.sha256(text.encode()).hexdigest(), 1.0)
            for name, text in found
        ][:k]


def solve(scaffold, say, **more):
    declared = system(scaffold, say, **more)
    return declared.answer(TASK), declared.core.model.prompts


def test_research_follows_what_it_finds_and_cites_it():
    say = [
        "1. Who built the bridge?",
        'It was "built by Ida Maes" [1].',
        "Where was Ida Maes born?",
        'She was "born in Ghent" [1].',
        'In "Ghent in 1871" [2].',
    ]
    shelf = Shelf()
    solved, prompts = solve(research, say, memory=shelf)
    assert shelf.asked == [TASK.question, "Who built the bridge?", "Where was Ida Maes born?"]
    assert solved.answer.text == 'In "Ghent in 1871" [2].' and solved.answer.confidence == 1.0
    citation = solved.answer.citations[0]
    assert (
        citation.source == "Maes.txt"
        and FACTS["Maes"].encode()[citation.start : citation.end] == b"Ghent in 1871"
    )
    assert "[2] Maes.txt" in prompts[-1] and solved.answer.data["passages"] == 2
    assert [one.kind for one in solved.events].count("retrieve") == 3


def test_research_writes_again_where_a_citation_does_not_hold_and_takes_out_what_still_does_not():
    say = ["Who built the bridge?", "note", "nothing", '"Bruges" [1]', 'In "Ghent" [1], by "Ida Maes" [1].']
    solved, prompts = solve(partial(research, parts=1), say, memory=Shelf())
    assert solved.answer.data["rewritten"] and '"Bruges" [1]' in prompts[-1]
    assert solved.answer.text == 'In Ghent, by "Ida Maes" [1].' and solved.answer.confidence == 0.5
    again = [*say[:3], 'by "Ida Maes" [1] in "Ghent" [1]', '"Bruges" [1]']
    solved, _ = solve(research, again, memory=Shelf())
    assert solved.answer.text == 'by "Ida Maes" [1] in Ghent'  # the first holds more


def test_research_that_finds_nothing_says_so():
    declared = system(partial(research, hops=0), [""], memory=Shelf())
    solved = declared.answer(Task.of("What is love?"))
    assert solved.answer.text == UNKNOWN and solved.answer.confidence == 0.0


def test_research_is_replayed_and_asks_no_question_twice(tmp_path):
    say = [TASK.question, "note one", TASK.question, 'by "Ida Maes" [1]']
    shelf = Shelf()
    declared = system(research, say, memory=shelf)
    solved = declared.answer(TASK, trace=tmp_path / "trace.jsonl")
    assert shelf.asked == [TASK.question]
    again = declared.replay(tmp_path / "trace.jsonl")
    assert again.answer.text == solved.answer.text and shelf.asked == [TASK.question]


def call(name, **arguments):
    said = ", ".join(
        f'"{key}": "{value}"' if isinstance(value, str) else f'"{key}": {value}'
        for key, value in arguments.items()
    )
    return f'<tool_call>{{"name": "{name}", "arguments": {{{said}}}}}</tool_call>'


@tool
def look(place: str) -> str:
    """Look somewhere.

    Args:
        place: where.
    """
    return f"{place} is empty"


def test_an_agent_works_off_its_list_and_answers():
    say = [
        call("add_task", text="look in the drawer"),
        call("look", place="drawer"),
        call("note", text="nothing in the drawer") + call("finish_task", number=1),
        call("answer", text="nowhere"),
    ]
    solved, prompts = solve(autonomous, say, tools=Toolbox([look]))
    assert solved.answer.text == "nowhere" and solved.answer.finished
    assert solved.answer.data["tasks"] == [{"text": "look in the drawer", "done": True}]
    assert "1. [x] look in the drawer" in prompts[3] and "drawer is empty" in prompts[3]
    assert "- nothing in the drawer" in prompts[3] and '"look"' in prompts[0]


def test_what_an_agent_does_wrong_is_told_to_it():
    say = [
        "I would rather talk.",
        call("finish_task", number=3),
        call("note", text=""),
        "<tool_call>{broken</tool_call>",
        call("fly", high="up"),
        call("look", wrong=1),
        call("answer", text="done"),
    ]
    solved, prompts = solve(autonomous, say, tools=Toolbox([look]))
    assert solved.answer.text == "done" and solved.answer.data["unreadable"] == 2
    for words in (
        "nothing was called",
        "there are tasks 1 to 0",
        "the text is empty",
        "cannot be read",
        "no tool",
        "arguments",
    ):
        assert words in prompts[-1], words
    solved, prompts = solve(autonomous, [call("fly", high="up"), call("answer", text="no")])
    assert "there is no such tool" in prompts[-1]


def test_an_agent_ends_in_circles_out_of_steps_and_out_of_budget():
    solved, prompts = solve(
        autonomous, [call("note", text="a"), *[call("look", place="x")] * 5], tools=Toolbox([look])
    )
    assert (
        solved.answer.data["ended"] == "going in circles" and len(prompts) == 4 and solved.answer.text == "a"
    )
    walk = lambda prompt, request: call("look", place=str(request.seed))  # noqa: E731
    solved, _ = solve(partial(autonomous, max_steps=4), walk, tools=Toolbox([look]))
    assert solved.answer.data["ended"] == "out of steps" and not solved.answer.finished
    solved, _ = solve(autonomous, walk, tools=Toolbox([look]), limits=Limits(tokens=1500))
    assert solved.answer.data["ended"] == "budget" and "tokens" in solved.answer.data["stopped_by"]


def test_a_grammar_reaches_the_model():
    seen = []

    def say(prompt, request):
        seen.append(request.constraint)
        return call("answer", text="x")

    rule = object
    solve(partial(autonomous, grammar=rule), say)
    assert seen == [rule] and tokenizer()
