"""The example of the guide to reinforcement runs as it stands there, but for the number of steps."""

import re
from pathlib import Path

from policy_world import Letters, small_policy, small_tokenizer

GUIDE = Path(__file__).parents[2] / "docs" / "reinforcement.md"


def test_the_example_of_the_guide_runs(tmp_path):
    source = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)[1]
    names = {}
    exec(source.replace("steps=50, prompts=24, samples=8", "steps=2, prompts=3, samples=3"), names)
    finished = names["reinforce"](small_policy(), small_tokenizer(), Letters(), tmp_path)
    assert finished.totals.step == 2 and finished.stopped == ""


def test_the_guide_names_every_algorithm_and_module():
    from kweek import align
    from kweek.align.algorithms import ALGORITHMS

    text = GUIDE.read_text(encoding="utf-8")
    table = text[text.index("## Algorithms") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(ALGORITHMS)
    folder = Path(align.__file__).parent
    parts = re.findall(r"^\| [^|]+ \| ((?:`\w+`(?:, )?)+) \|", text[: text.index("## Algorithms")], re.M)
    modules = {name for row in parts for name in re.findall(r"`(\w+)`", row)}
    assert len(modules) > 15 and all(
        (folder / f"{name}.py").exists() or (folder / name).is_dir() for name in modules
    )
