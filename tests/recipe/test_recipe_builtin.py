"""Recipes by name, and what the command line changes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kweek.errors import ConfigError
from kweek.recipe.budget import Budget
from kweek.recipe.builtin import builtin_names, find_recipe, load_recipe, override
from kweek.recipe.schema import parse
from kweek.recipe.text import Source, parse_yaml

TEXT = "name: t\nstages:\n  c: {kind: corpus}\n  n:\n    kind: toy_stages.numbers\n    count: 4\n"


@pytest.mark.parametrize("name", builtin_names())
def test_built_in_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    if any(stage.kind == "pretrain" for stage in recipe.stages.values()):
        assert recipe.prior is not None
        assert recipe.prior.lo < recipe.prior.mid < recipe.prior.hi
    assert parse(Source(recipe.to_dict(), "again")) == recipe


def test_there_is_a_default() -> None:
    assert "laptop" in builtin_names()
    with pytest.raises(ConfigError, match="no recipe 'lapdog'"):
        find_recipe("lapdog")


def test_the_command_line_changes_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = ["stages.n.count=2e1", "stages.n.label=a b", "seed=9", "stages.n.threads=1"]
    recipe = load_recipe("t.yaml", corpus=Path("docs"), budget="2min", seed=4, settings=settings)
    assert recipe.seed == 9, "--set comes last"
    assert recipe.budget == Budget(seconds=120.0)
    assert recipe.stages["n"].config.model_dump() == {"threads": 1, "count": 20, "scale": 1.0, "label": "a b"}
    assert recipe.stages["c"].config.folder == str(tmp_path / "docs"), "absolute, for the workers"


def test_inputs_and_whole_stages_can_be_set() -> None:
    source = parse_yaml(TEXT, "t.yaml")
    override(source, "stages.w={kind: toy_stages.walk, inputs: {numbers: n}}")
    override(source, "stages.w.inputs.numbers=m")
    with pytest.raises(ConfigError, match=r"--set: stages\.w\.inputs\.numbers: input 'm' is not a stage"):
        parse(source)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("", "expected key=value"),
        ("seed", "expected key=value"),
        ("=3", "expected key=value"),
        ("stages..count=3", "expected key=value"),
        ("sede=3", "unknown key 'sede'. Write 'seed'"),
        ("stages.m.count=3", "nothing is called 'm' here. Use one of: c, n."),
        ("stages.n.count.more=3", "nothing is called 'more' here|'count' has no keys"),
        ("stages.n.count=[1", "--set stages.n.count: not valid YAML"),
    ],
)
def test_bad_assignments(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(parse_yaml(TEXT, "t.yaml"), assignment)
