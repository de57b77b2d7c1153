"""The guide to guards: its example works in a run, and its tables name what there is."""

import re
from pathlib import Path

from policy_world import Letters, small_policy, small_tokenizer, small_trainer

from kweek.align.algorithms import reinforce
from kweek.align.collecting import Collector, Course
from kweek.align.guards.collapse import Figures
from kweek.align.learner import Learner
from kweek.align.loop import Loop
from kweek.align.sources import Synchronous
from kweek.engine.engine import Engine

TEXT = (Path(__file__).parents[2] / "docs" / "guards.md").read_text(encoding="utf-8")


def test_the_guard_of_the_guide_ends_a_run():
    names = {}
    exec(re.search(r"```python\n(.*?)```", TEXT, re.S)[1], names)
    network, where = small_policy(), Letters()
    learner, course = Learner(small_trainer(network), reinforce(), limit=8), Course(4, 2, 2)
    source = Synchronous(Collector(where, small_tokenizer(), course, "guide"), Engine(network))
    stopped = Loop(learner, source, course, guards=[names["Budget"](200), names["Budget"](1)]).run().stopped
    assert re.fullmatch(r"budget: answers are \d+ tokens long", stopped)


def test_the_guide_names_every_guard_and_figure():
    from kweek.recipe.watch import QUESTIONS

    rows = re.findall(r"^\| `(\w+)` \| (?:are|does|what)", TEXT, re.M)
    assert sorted(rows) == sorted(QUESTIONS)
    shown = Figures(1, *[0.0] * 9).shown()
    assert all(f"`{name}`" in TEXT for name in shown)
