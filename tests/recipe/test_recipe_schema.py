"""Recipes: the same in YAML and Python, and an error for every mistake with key, place and remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from toy_recipes import recipe_of
from toy_stages import numbers, walk

from kweek.errors import ConfigError
from kweek.recipe.budget import Budget
from kweek.recipe.describe import describe
from kweek.recipe.registry import BUILTIN_KINDS, load_kind, nearest
from kweek.recipe.schema import Prior, Recipe, Stage, parse
from kweek.recipe.text import Source


def test_yaml_and_python_are_equal(toy: Recipe) -> None:
    written = Recipe(
        name="toy",
        seed=3,
        stages={
            "numbers": Stage(kind="toy_stages.numbers", config=numbers.Config(threads=1, count=4)),
            "left": Stage(
                kind="toy_stages.walk", inputs={"numbers": "numbers"}, config=walk.Config(threads=1)
            ),
            "right": Stage(
                kind="toy_stages.walk", inputs={"numbers": "numbers"}, config=walk.Config(threads=1, steps=7)
            ),
        },
    )
    assert written == toy
    assert parse(Source(toy.to_dict(), "again")) == toy
    assert toy.order() == ["numbers", "left", "right"]


HEAD = "name: t\nstages:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: t\nstages: {}\n", "toy.yaml:1: nam: unknown key 'nam'. Write 'name'"),
        ("stages:\n  n: {kind: toy_stages.numbers}\n", "toy.yaml: name: missing. Give it a value."),
        ("name: t\n", "toy.yaml: stages: expected stages by name. Write stages:."),
        ("name: t\nstages: {}\n", "toy.yaml:2: stages: no stages. Add at least one."),
        (HEAD + "  n: {}\n", "toy.yaml:3: stages.n.kind: a stage needs its kind. Write kind: KIND."),
        (HEAD + "  n: 3\n", "toy.yaml:3: stages.n: expected the keys of a stage. Write kind: KIND."),
        (HEAD + "  N: {kind: toy_stages.numbers}\n", "toy.yaml:3: stages.N: 'N' is not a stage name"),
        (HEAD + "  n: {kind: pretain}\n", "unknown stage kind 'pretain'. Write 'pretrain'"),
        (HEAD + "  n: {kind: no.such.kind}\n", "stages.n.kind: stage kind 'no.such.kind' names a module"),
        (HEAD + "  n: {kind: json.decoder}\n", "module json.decoder has no class Config"),
        (
            HEAD + "  n:\n    kind: toy_stages.numbers\n    cuont: 3\n",
            "toy.yaml:5: stages.n.cuont: unknown key 'cuont'. Write 'count'",
        ),
        (
            HEAD + "  n:\n    kind: toy_stages.numbers\n    count: many\n",
            'toy.yaml:5: stages.n.count: expected a valid integer, found "many". It means: how many numbers.',
        ),
        (
            HEAD + "  n:\n    kind: toy_stages.numbers\n    count: '3'\n    scale: x\n",
            'expected a valid integer, found "3" (and 1 more)',
        ),
        (HEAD + "  n: {kind: toy_stages.numbers, count: true}\n", "expected a valid integer, found true"),
        (
            HEAD + "  n: {kind: toy_stages.numbers, count: 0}\n",
            "expected greater than or equal to 1, found 0",
        ),
        (HEAD + "  n: {kind: toy_stages.numbers, label: 3}\n", "expected a valid string, found 3"),
        (HEAD + "  n: {kind: toy_stages.numbers, threads: some}\n", "expected 1 or 'all', found \"some\""),
        (
            HEAD
            + "  n: {kind: toy_stages.numbers}\n  w:\n    kind: toy_stages.walk\n    inputs: {numbers: m}\n",
            "toy.yaml:6: stages.w.inputs.numbers: input 'm' is not a stage",
        ),
        (
            HEAD + "  n: {kind: toy_stages.numbers}\n  w: {kind: toy_stages.walk}\n",
            "kind 'toy_stages.walk' needs the input 'numbers' (where the chain starts). Add numbers:",
        ),
        (
            HEAD + "  n: {kind: toy_stages.numbers}\n  w: {kind: toy_stages.walk, inputs: {number: n}}\n",
            "kind 'toy_stages.walk' takes no input 'number'. Write 'numbers'",
        ),
        (
            HEAD + "  n: {kind: toy_stages.walk, inputs: {numbers: m}}\n"
            "  m: {kind: toy_stages.walk, inputs: {numbers: n}}\n",
            "toy.yaml:3: stages.n: stages need each other in a circle: n -> m -> n. Cut one input.",
        ),
        (HEAD + "  n: {kind: toy_stages.numbers, inputs: [a]}\n", "stages.n.inputs: expected an object"),
        ("budget: ten\n" + HEAD + "  n: {kind: toy_stages.numbers}\n", "toy.yaml:1: budget: 'ten' is not a"),
        (
            "seed: -1\n" + HEAD + "  n: {kind: toy_stages.numbers}\n",
            "toy.yaml:1: seed: expected greater than",
        ),
        ("prior: {lo: 1}\n" + HEAD + "  n: {kind: toy_stages.numbers}\n", "prior.mid: missing (and 1 more)"),
        (
            "prior: {low: 1}\n" + HEAD + "  n: {kind: toy_stages.numbers}\n",
            "toy.yaml:1: prior.low: unknown key 'low' (and 3 more). Write 'lo'",
        ),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_of(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_floats_are_counts() -> None:
    stage = recipe_of(HEAD + "  n: {kind: toy_stages.numbers, count: 2e3, scale: 3}\n").stages["n"]
    assert stage.config == numbers.Config(count=2000, scale=3.0)


def test_python_recipes_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="not a stage"):
        Recipe(
            name="t",
            stages={"w": Stage(kind="toy_stages.walk", inputs={"numbers": "x"}, config=walk.Config())},
        )
    with pytest.raises(ValidationError):
        numbers.Config(cuont=3)


@pytest.mark.parametrize(
    ("text", "seconds", "flop"),
    [
        ("10min", 600.0, None),
        ("90s", 90.0, None),
        ("1.5 h", 5400.0, None),
        ("2d", 172800.0, None),
        ("1e15FLOP", None, 1e15),
        ("3.5e12 flop", None, 3.5e12),
    ],
)
def test_budgets(text: str, seconds: float | None, flop: float | None) -> None:
    assert Budget.parse(text) == Budget(seconds, flop)


@pytest.mark.parametrize(
    "text", ["10", "", "min", "0min", "-1h", "1e999FLOP", "10 parsecs", "1..2h", 600, None]
)
def test_what_is_no_budget(text: object) -> None:
    with pytest.raises(ConfigError, match="is not a budget"):
        Budget.parse(text)


@given(st.floats(1e-3, 1e30), st.booleans())
def test_budgets_survive_being_written(amount: float, is_time: bool) -> None:
    budget = Budget(seconds=amount) if is_time else Budget(flop=amount)
    again = Budget.parse(str(budget))
    assert (again.seconds or again.flop) == pytest.approx(amount, rel=1e-12)
    assert str(Budget.parse(str(again))) == str(again)


@given(
    st.integers(0, 10**6),
    st.none() | st.builds(Budget, seconds=st.integers(1, 10**6).map(float)),
    st.none()
    | st.builds(
        Prior, lo=st.floats(0, 9), mid=st.floats(0, 9), hi=st.floats(0, 9), reason=st.text(max_size=9)
    ),
    st.integers(1, 99),
    st.floats(1e-3, 1e3),
    st.text(max_size=9),
)
def test_recipes_survive_being_written(seed, budget, prior, count, scale, label) -> None:
    config = numbers.Config(count=count, scale=scale, label=label)
    recipe = Recipe(
        name="x",
        seed=seed,
        budget=budget,
        prior=prior,
        stages={"n": Stage(kind="toy_stages.numbers", config=config)},
    )
    assert parse(Source(recipe.to_dict(), "again")) == recipe


def test_nearest() -> None:
    assert (
        nearest("learnin_rate", ["learning_rate", "threads"])
        == "write 'learning_rate', the nearest valid name"
    )
    assert nearest("zzz", ["b", "a"]) == "use one of: a, b"
    assert nearest("zzz", []) == "remove it"


def test_descriptions(toy: Recipe) -> None:
    described = describe(toy)
    assert [key["key"] for key in described["keys"]] == ["seed", "prior", "budget"]
    right = described["stages"][2]
    assert right["inputs"] == [
        {"role": "numbers", "stage": "numbers", "required": True, "doc": "where the chain starts"}
    ]
    steps = next(key for key in right["keys"] if key["key"] == "steps")
    assert steps == {
        "key": "steps",
        "value": 7,
        "default": 20,
        "required": False,
        "doc": "length of the chain",
        "reason": "a second or so",
    }


@pytest.mark.parametrize("kind", BUILTIN_KINDS)
def test_every_built_in_key_has_doc_and_reason(kind: str) -> None:
    for name, field in load_kind(kind).config.model_fields.items():
        assert field.description, f"{kind}.{name} has no doc"
        assert isinstance(field.json_schema_extra, dict), f"{kind}.{name} has no reason"
        assert field.json_schema_extra.get("reason"), f"{kind}.{name} has no reason"
