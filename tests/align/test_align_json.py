"""JSON: equal, holding, valid under a schema; ambiguous and hostile JSON is no answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.verifiers.json_value import Json, NotJson, equal, read_json
from kweek.align.verifiers.schema import Schema

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-1000, 1000), st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_a_value_equals_itself_however_it_is_laid_out(value):
    gold = json.dumps(value)
    for text in (
        gold,
        json.dumps(value, indent=1),
        f"```json\n{gold}\n```",
        json.dumps(value, ensure_ascii=False),
    ):
        assert Json()(text, gold).value == 1.0


@given(VALUES, VALUES)
def test_equality_is_that_of_texts(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    if same:
        assert equal(one, other)
    if equal(one, other):
        assert json.dumps(_floats(one), sort_keys=True) == json.dumps(_floats(other), sort_keys=True)


def _floats(value):
    if isinstance(value, bool) or not isinstance(value, int | float | list | dict):
        return value
    if isinstance(value, list):
        return [_floats(part) for part in value]
    return {k: _floats(v) for k, v in value.items()} if isinstance(value, dict) else float(value) + 0.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [('{"a": true}', '{"a": 1}'), ("[1, 2]", "[2, 1]"), ("1", '"1"'), ("{}", "[]"), ("0", "false")],
)
def test_different_values(answer, gold):
    score = Json()(answer, gold)
    assert score.value == 0.0 and score.parsed


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": 1, "a": 2}', "NaN", "[Infinity]", "1e999", "[" * 100, "[" * 90_000, "1 2", "{'a': 1}",
     "Here: {}", '"' + "x" * 200_000 + '"', "9" * 5000],
)  # fmt: skip
def test_what_is_no_json(text):
    with pytest.raises(NotJson):
        read_json(text)
    assert not Json()(text, "1").parsed and Json()("1", text).error is not None


def test_holding():
    holds = Json("holds")
    assert holds('{"a": 1, "b": {"c": [1], "d": 0}}', '{"b": {"c": [1]}}').value == 1.0
    assert holds('{"b": {"c": [1, 2]}}', '{"b": {"c": [1]}}').value == 0.0
    assert holds("{}", "{}").error is not None


@pytest.fixture(scope="module")
def schema():
    pytest.importorskip("jsonschema", reason="the extra `verifiers` has it")
    return Schema()


def test_schemas(schema):
    gold = '{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}'
    assert schema('{"a": 1}', gold).value == 1.0
    assert schema('{"a": "1"}', gold).value == 0.0 and not schema("{", gold).parsed


@pytest.mark.parametrize(
    "gold", ["", "{}", "true", '{"type": "objekt"}', '{"$ref": "https://example.org/schema"}', "[]"]
)
def test_schemas_that_ask_for_nothing_or_for_the_network(schema, gold):
    score = schema("1", gold)
    assert score.value == 0.0 and score.error is not None


def test_a_pattern_that_never_ends_is_an_error(schema):
    score = schema(json.dumps("a" * 60 + "!"), '{"pattern": "^(a+)+$"}')
    assert score.value == 0.0 and "took over" in score.error
    assert schema('"b"', '{"const": "b"}').value == 1.0
