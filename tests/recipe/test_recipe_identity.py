"""Fingerprints: what changes them and, as important, what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toy_recipes import TOY, recipe_of

from kweek.errors import ConfigError
from kweek.recipe.identity import code_version, fingerprints, modules_of

PACKAGE = {
    "__init__.py": '"""A package."""\n',
    "stage.py": (
        '"""Doc."""\nfrom typing import TYPE_CHECKING\nimport json\nfrom . import helper\n'
        "if TYPE_CHECKING:\n    from outside_for_types import thing\n"
        'def run(ctx):\n    """Doc."""\n    from kweek.errors import KweekError\n    return helper.x\n'
    ),
    "helper.py": "from .deep.leaf import x  # a comment\n",
    "deep/leaf.py": "x = 1\n",
    "unused.py": "y = 1\n",
}


def version_in_fresh_process(root: Path) -> str:
    """Code version of `pack.stage`, read by a process that has cached nothing."""
    script = "from kweek.recipe.identity import code_version; print(code_version('pack.stage'))"
    path = [str(root), *(p for p in sys.path if p)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "matters"),
    [
        ("deep/leaf.py", "x = 2\n", True),
        ("stage.py", PACKAGE["stage.py"] + "z = 1\n", True),
        ("table.json", "{}", True),
        ("helper.py", "from .deep.leaf import x  # another comment\n\n", False),
        ("stage.py", PACKAGE["stage.py"].replace("Doc.", "Better doc."), False),
        ("unused.py", "y = 2\n", False),
        ("README.md", "words", False),
    ],
)
def test_what_changes_the_code_version(package: Path, name: str, text: str, matters: bool) -> None:
    before = version_in_fresh_process(package)
    (package / "pack" / name).write_text(text)
    assert (version_in_fresh_process(package) != before) is matters


def test_walk_stays_out_of_the_frame() -> None:
    names = modules_of("kweek.recipe.stages.pretrain")
    assert "kweek.recipe.stages.pretrain" in names
    assert "kweek.model.network" in names
    assert "kweek.train.trainer" in names
    assert not [
        n for n in names if n.startswith(("kweek.store", "kweek.errors", "kweek.cli", "kweek.report"))
    ]
    assert not {"kweek", "kweek.recipe", "kweek.recipe.context", "kweek.recipe.runner"} & set(names)


def test_stages_of_one_kind_differ_by_what_they_are_given() -> None:
    prints = fingerprints(recipe_of(TOY))
    assert len(set(prints.values())) == 3
    assert prints == fingerprints(recipe_of(TOY))
    renamed = TOY.replace("numbers:\n", "figures:\n").replace("numbers: numbers", "numbers: figures")
    assert fingerprints(recipe_of(renamed))["left"] == prints["left"], (
        "a stage's name is no part of its result"
    )


def test_modules_without_source_are_refused() -> None:
    with pytest.raises(ConfigError, match="no Python source"):
        code_version("no_such_package.stage")
