"""The strict YAML reader: values as people mean them, and a line for every complaint."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import ConfigError
from kweek.recipe.text import MAX_RECIPE_BYTES, parse_value, parse_yaml, read_yaml, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3E8", 3e8),
        ("2.", 2.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("-7", -7),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("null", None),
        ("~", None),
        ("12:30:00", "12:30:00"),
        ("2026-01-01", "2026-01-01"),
        ("10min", "10min"),
        ("1e15FLOP", "1e15FLOP"),
        (".", "."),
        ("inf", "inf"),
        ("_1", "_1"),
    ],
)
def test_words_mean_what_people_mean(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_words_stay_text() -> None:
    assert parse_yaml("a: '1'\nb: \"true\"\nc: |\n  3\n", "f").data == {"a": "1", "b": "true", "c": "3\n"}


def test_places() -> None:
    source = parse_yaml("name: x\nstages:\n  base:\n    kind: pretrain\n    list: [1, 2]\n", "r.yaml")
    assert source.where(("stages", "base", "kind")) == "r.yaml:4: stages.base.kind"
    assert source.where(("stages", "base", "missing")) == "r.yaml:3: stages.base.missing"
    assert source.where(()) == "r.yaml"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "twice"),
        ("s:\n  a: 1\n  a: 2\n", 3, "twice"),
        ("a: &x [1]\nb: *x\n", 1, "anchor"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("a: !!binary aGk=\n", 1, "tag"),
        ("a: !mine {b: 1}\n", 1, "tag"),
        ("a: [1\nb: 2\n", 2, "YAML"),
        ("? [1, 2]\n: x\n", 1, "word"),
        ("a: 1\n\tb: 2\n", 2, "YAML"),
    ],
)
def test_faults_name_their_line(text: str, line: int, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "r.yaml")
    assert str(caught.value).startswith(f"r.yaml:{line}: ")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "just words", "- 1\n- 2\n", "a: \x00", "a: " + "[" * 5000])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_yaml(text, "r.yaml")


def test_billion_laughs_is_refused() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    with pytest.raises(ConfigError, match="anchors"):
        parse_yaml(bomb, "bomb.yaml")


def test_files(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"a: 1\n" * MAX_RECIPE_BYTES)
    with pytest.raises(ConfigError, match="too large"):
        read_yaml(tmp_path / "big.yaml")


def test_values_of_the_command_line() -> None:
    assert parse_value("3e-4", "--set x") == 3e-4
    assert parse_value("[1, two, {a: 1.5}]", "--set x") == [1, "two", {"a": 1.5}]
    assert parse_value("", "--set x") is None
    with pytest.raises(ConfigError, match="--set x"):
        parse_value("[1", "--set x")


# JSON is YAML, except that JSON writes characters beyond 16 bits as two escapes.
_words = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=12)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_words, _plain, max_size=4))
def test_json_is_read_as_what_it_is(data) -> None:
    assert parse_yaml(json.dumps(data), "x").data == data


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        assert isinstance(parse_yaml(text, "x").data, dict)
    except ConfigError as error:
        assert "\n" not in str(error)
