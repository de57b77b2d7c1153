"""What the checker of arguments accepts is what the reference implementation accepts."""

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.system.tools.schema import faults

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 2.0, "", "a", "ab", "abc"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])


def keywords(inner):
    """Schemas of one keyword each; several are merged below."""
    small = st.integers(0, 3)
    named = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    several = st.lists(inner, min_size=1, max_size=2)
    return st.one_of(
        st.builds(lambda v: {"type": v}, KINDS | st.lists(KINDS, min_size=1, max_size=2, unique=True)),
        st.builds(lambda v: {"enum": v}, st.lists(VALUES, min_size=1, max_size=2)),
        st.builds(lambda v: {"const": v}, VALUES),
        st.builds(lambda v: {"properties": v}, named),
        st.builds(lambda v: {"required": v}, st.lists(st.sampled_from("abc"), max_size=2, unique=True)),
        st.builds(lambda v: {"additionalProperties": v}, inner | st.booleans()),
        st.builds(lambda v: {"patternProperties": {"^[ab]": v}}, inner),
        st.builds(lambda v: {"propertyNames": v}, inner),
        st.builds(lambda v: {"dependentRequired": {"a": v}}, st.just(["b"])),
        st.builds(lambda v: {"dependentSchemas": {"a": v}}, inner),
        st.builds(lambda k, v: {k: v}, st.sampled_from(["minProperties", "maxProperties"]), small),
        st.builds(lambda v: {"items": v}, inner | st.booleans()),
        st.builds(lambda v: {"prefixItems": v}, several),
        st.builds(lambda v, k, n: {"contains": v, k: n}, inner, st.sampled_from(["minContains", "maxContains"]), small),
        st.builds(lambda v: {"uniqueItems": v}, st.booleans()),
        st.builds(lambda k, v: {k: v}, st.sampled_from(["minItems", "maxItems", "minLength", "maxLength"]), small),
        st.builds(lambda v: {"pattern": v}, st.sampled_from(["^a", "b$", "c"])),
        st.builds(
            lambda k, v: {k: v},
            st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
            st.integers(-2, 2),
        ),
        st.builds(lambda v: {"multipleOf": v}, st.sampled_from([1, 2, 0.5])),
        st.builds(lambda k, v: {k: v}, st.sampled_from(["anyOf", "oneOf", "allOf"]), several),
        st.builds(lambda v: {"not": v}, inner),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
        st.builds(lambda v: {"$ref": "#/$defs/x", "$defs": {"x": v}}, st.sampled_from([{"type": "string"}, True])),
    )  # fmt: skip


def merged(parts):
    whole = {}
    for part in parts:
        whole.update(part)
    return whole


SCHEMAS = st.recursive(
    st.builds(lambda v: {"type": v}, KINDS) | st.booleans(),
    lambda inner: st.lists(keywords(inner), min_size=1, max_size=3).map(merged),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(VALUES, SCHEMAS)
def test_as_the_reference(value, schema):
    if isinstance(schema, dict) and "$ref" in str(schema) and "$defs" not in schema:
        return  # the places that generated schemas refer to are at their top
    whole = {"$defs": {"x": {"type": "string"}}, **schema} if isinstance(schema, dict) else schema
    expected = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert (not faults(value, whole)) == expected


def test_faults_have_their_places():
    schema = {
        "type": "object",
        "properties": {"list": {"type": "array", "items": {"type": "integer"}}},
        "required": ["list", "more"],
        "additionalProperties": False,
    }
    found = faults({"list": [1, "2"], "odd": 0}, schema)
    assert found == [
        "more is missing",
        'list[1]: "2" is not of type integer',
        '"odd" is no property of it; there are: list',
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"$ref": "http://127.0.0.1/schema"},
        {"$ref": "#/$defs/none"},
        {"pattern": "("},
    ],
)
def test_schemas_that_lead_nowhere_end(schema):
    assert faults("x", schema)


def test_values_nest_as_deep_as_they_may():
    value = 0
    for _ in range(500):
        value = [value]
    schema = {"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}
    assert faults(value, schema) == ["it takes too long to compare with the schema"]
