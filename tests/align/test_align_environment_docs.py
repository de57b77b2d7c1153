"""The programs of docs/environments.md run, and the page names every verifier, finding and task there is."""

import re
from pathlib import Path

from kweek.align.audit.attacks import attacks
from kweek.align.audit.audit import BEHAVIOUR
from kweek.align.environments.gym_tasks import TASKS
from kweek.align.verifiers.named import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")


def test_the_programs_of_the_page(capsys):
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) >= 2
    names: dict = {"__name__": "page"}
    for program in programs:
        exec(program, names)
    assert "refused: the verifier scores 1.00 on 'empty'" in capsys.readouterr().out


def test_the_page_is_complete():
    for kind in KINDS:
        assert f"`{kind}`" in PAGE, kind
    for name in [attack.name for attack in attacks([""], [""])] + ["best constant", *BEHAVIOUR]:
        assert name in PAGE, name
    for task in TASKS:
        assert f"`{task}`" in PAGE, task
