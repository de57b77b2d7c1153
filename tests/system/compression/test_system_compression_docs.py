"""The programs of docs/compression.md run, and the page names every kind, option and header that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from kweek.cli.proxy import ProxyOptions
from kweek.serve.savings import Saving
from kweek.system.compression.protected import KINDS
from kweek.system.compression.report import Method

GUIDE = (Path(__file__).parents[3] / "docs" / "compression.md").read_text(encoding="utf-8")


def test_the_programs_of_the_guide(capsys):
    names: dict[str, object] = {}
    for program in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(program, names)
    said = capsys.readouterr().out
    assert "founded in 1712" in said and "1911" not in said
    assert "difference=0.0" in said


def test_the_guide_names_what_there_is():
    for word in (*KINDS, *get_args(Method)):
        assert f"`{word}`" in GUIDE, word
    known = {"upstream", "compress", "examples", "tolerance", "measured", "judge", "unmeasured", "price"}
    assert known <= set(ProxyOptions.__dataclass_fields__)
    for option in known:
        assert f"--{option}" in GUIDE, option
    for header in ("x-kweek-compression", "x-kweek-tokens-before", "x-kweek-saved-money"):
        assert header in GUIDE and header in Saving("none", "", 0, 0, True, 0.0, None).headers
