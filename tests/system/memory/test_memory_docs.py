"""The guide's program runs as it stands there."""

import re
from pathlib import Path

from memory_files import folder_of

GUIDE = Path(__file__).parents[3] / "docs" / "memory.md"


def test_the_guide(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    names = {}
    exec(block, names)
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "notes", a__txt="The bridge was built in 1357. It is made of stone.")
    seen = []

    def answer_of(prompt):
        seen.append(prompt)
        return 'It is old: "built in 1357" [1], "built in 1358" [1].'

    found = names["quoted"](tmp_path / "notes", "When was the bridge built?", answer_of)
    assert [citation.quotation for citation in found.citations] == ["built in 1357"] and len(
        found.refused
    ) == 1
    assert seen[0].startswith("[1] a.txt\nThe bridge was built")
