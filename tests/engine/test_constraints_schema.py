"""JSON Schema as a regular pattern: what it lets through is JSON and valid, by an independent validator."""

import json

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kweek.engine.constraints.automaton import build
from kweek.engine.constraints.limits import BeyondAutomaton, GrammarError, Limits
from kweek.engine.constraints.numbers import between
from kweek.engine.constraints.own import AutomatonGrammar
from kweek.engine.constraints.schema import check_patterns, parse_json, schema_pattern
from kweek.engine.constraints.vocabulary import Vocabulary

LIMITS = Limits()
TOKENS = [bytes([byte]) for byte in range(256)]
TOKENS += [
    t.encode() for t in ['{"', '": "', '", "', '"}', "true", "null", '":', "é", '\\"', " 1", "[]", "10"]
]
VOCABULARY = Vocabulary([*TOKENS, b"</s>"], [len(TOKENS)])


def automaton_of(schema):
    return build(schema_pattern(schema, LIMITS, 0), VOCABULARY.units, LIMITS)


def accepts(automaton, text):
    return bool(automaton.accepting_S[automaton.step(0, text.encode())])


def random_text(grammar, seed, num_tokens=400):
    """A random text, which ends as soon as it may with probability a half; None where it has not ended in time."""
    constraint, random, data = grammar.start(), np.random.default_rng(seed), b""
    for _ in range(num_tokens):
        mask = constraint.allowed()
        token = int(random.choice(np.flatnonzero(mask)))
        token = len(TOKENS) if mask[len(TOKENS)] and random.random() < 0.5 else token
        if token == len(TOKENS):
            return data.decode()
        constraint.advance(token)
        data += TOKENS[token]
    return None


def objects(schemas):
    names = st.lists(st.sampled_from(["a", "b", 'q"', "é", "long name"]), unique=True, max_size=4)

    def one(pairs):
        keys, values, flags = pairs
        properties = dict(zip(keys, values, strict=False))
        required = [name for name, flag in zip(properties, flags, strict=False) if flag]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    return st.tuples(
        names, st.lists(schemas, min_size=4, max_size=4), st.lists(st.booleans(), min_size=4)
    ).map(one)


SIMPLE = [
    {"type": "boolean"}, {"type": "null"}, {"type": "integer"}, {"type": "number"}, {"const": "é"},
    {"type": "integer", "minimum": -12, "maximum": 130}, {"type": "integer", "exclusiveMinimum": 7},
    {"type": "string", "maxLength": 3}, {"type": "string", "minLength": 1, "maxLength": 2},
    {"type": "string", "pattern": '^[a-z"\\\\]{1,3}$'}, {"type": "string", "pattern": "x."},
    {"enum": ["a", 1, None, 'q"', [1, {"k": 2.5}]]}, {"type": ["integer", "null"]},
    {"type": "string", "format": "date"}, {"enum": [1, "1", True], "type": "integer"},
]  # fmt: skip


def _compound(inner):
    arrays = st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + t[2]}
    )
    options = st.lists(inner, min_size=1, max_size=3).map(lambda found: {"anyOf": found})
    reference = inner.map(lambda part: {"$ref": "#/$defs/part", "$defs": {"part": part}})
    return st.one_of(objects(inner), arrays, options, reference)


schemas = st.recursive(st.sampled_from(SIMPLE), _compound, max_leaves=5)


def _has_nested_reference(schema):
    return json.dumps(schema).count("$ref") > 1 or ("$ref" in json.dumps(schema) and "$ref" not in schema)


@settings(max_examples=150, deadline=None)
@given(schemas, st.integers(0, 2**32))
def test_random_texts_are_valid(schema, seed):
    assume(not _has_nested_reference(schema))  # the path would start at another root
    grammar = AutomatonGrammar(VOCABULARY, automaton_of(schema))
    text = random_text(grammar, seed)
    assume(text is not None)  # too many that do not end are an error of hypothesis
    jsonschema.validate(json.loads(text), schema)


def test_most_random_texts_end():
    ended = [
        random_text(AutomatonGrammar(VOCABULARY, automaton_of(schema)), seed) is not None
        for schema in SIMPLE
        for seed in range(4)
    ]
    assert sum(ended) >= 0.9 * len(ended)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(-2000, 2000) | st.none(),
    st.integers(-2000, 2000) | st.none(),
    st.lists(st.integers(-30000, 30000)),
)
def test_whole_numbers_between_bounds(low, high, values):
    if low is not None and high is not None and high < low:
        with pytest.raises(GrammarError, match="nothing satisfies"):
            build(between(low, high), VOCABULARY.units, LIMITS)
        return
    automaton = build(between(low, high), VOCABULARY.units, LIMITS)
    edges = [bound + step for bound in (low, high) if bound is not None for step in (-1, 0, 1)]
    for value in [*values, *edges, 0]:
        wanted = (low is None or value >= low) and (high is None or value <= high)
        assert accepts(automaton, str(value)) == wanted, value
    assert not accepts(automaton, "007") and not accepts(automaton, "")


def test_properties_come_in_order_and_optional_ones_may_be_left_out():
    flag = {"type": "boolean"}
    schema = {"type": "object", "properties": {"a": flag, "b": flag, "c": flag}, "required": ["b"]}
    automaton = automaton_of(schema)
    for text, fits in {
        '{"a":true,"b":true,"c":false}': True, '{"a": true, "b": true}': True, '{"b":true,"c":true}': True,
        '{"b":true}': True, '{"a":true}': False, "{}": False, '{"c":true,"b":true}': False, '{,"b":true}': False,
        '{"b":true,}': False, '{"b":true,"b":true}': False, '{"b":true,"d":true}': False, '{ "b":true}': False,
    }.items():  # fmt: skip
        assert accepts(automaton, text) == fits, text


def test_strings_are_json_strings_and_lengths_count_characters():
    automaton = automaton_of({"type": "string", "minLength": 1, "maxLength": 2})
    for text, fits in {
        '"a"': True, '"日é"': True, '"\\n\\""': True, '""': False, '"abc"': False, '"\n"': False, '"""': False,
        '"\\x"': False, '"𝄞𝄞"': True,
    }.items():  # fmt: skip
        assert accepts(automaton, text) == fits, text


def test_maps_have_free_names_and_at_most_so_many():
    for most, three in ((None, True), (2, False)):
        schema = {"type": "object", "additionalProperties": {"type": "integer"}}
        automaton = automaton_of({**schema, **({"maxProperties": most} if most else {})})
        fits = {"{}": True, '{"a":1}': True, '{"a":1,"b":2,"c":3}': three, '{"a":true}': False}
        assert {text: accepts(automaton, text) for text in fits} == fits
    none = automaton_of({"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 0})
    assert accepts(none, "{}") and not accepts(none, '{"a":null}')


def test_recursion_is_unrolled_to_a_depth():
    schema = {
        "type": "object",
        "properties": {"in": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["in"],
    }
    automaton = build(schema_pattern(schema, LIMITS, 2), VOCABULARY.units, LIMITS)
    texts = ["null"]
    for _ in range(5):
        texts.append(f'{{"in":{texts[-1]}}}')
    assert [accepts(automaton, text) for text in texts] == [False, True, True, True, False, False]
    with pytest.raises(GrammarError, match="nothing satisfies"):
        build(schema_pattern({"$ref": "#"}, LIMITS, 2), VOCABULARY.units, LIMITS)
    twice = {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}
    with pytest.raises(BeyondAutomaton, match="once references"):
        schema_pattern(twice, LIMITS, 12)


def test_many_optional_properties_take_linear_space():
    size = {}
    for count in (20, 40):
        properties = {f"key{i}": {"type": "boolean"} for i in range(count)}
        size[count] = automaton_of({"type": "object", "properties": properties}).num_states
    assert size[40] < 2.2 * size[20]


NULL = {"type": "null"}
BEYOND = [
    {"$ref": "#"}, {"type": "object"}, {}, True, {"type": "number", "minimum": 1}, {"not": NULL}, {"type": "array"},
    {"type": "integer", "multipleOf": 3}, {"type": "string", "format": "email"}, {"allOf": [NULL, NULL]},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]}, {"type": "string", "pattern": "a", "minLength": 3},
    {"type": "object", "properties": {}, "required": ["a"]}, {"enum": [1], "minimum": 0},
    {"type": "object", "patternProperties": {"a": NULL}}, {"type": "object", "properties": {}, "maxProperties": 1},
    {"$defs": {"a": {"anyOf": [NULL, {"$ref": "#/$defs/b"}]}, "b": {"type": "array", "items": {"$ref": "#/$defs/a"}}},
     "$ref": "#/$defs/a"},
]  # fmt: skip


@pytest.mark.parametrize("schema", BEYOND, ids=str)
def test_what_is_not_covered_is_said_and_never_ignored(schema):
    with pytest.raises(BeyondAutomaton):
        schema_pattern(schema, LIMITS, 0)


WRONG = [
    {"type": "text"}, {"type": 3}, {"anyOf": []}, {"anyOf": 3}, {"enum": "a"}, {"$ref": "#/nowhere"}, {"$ref": "http://x"},
    {"type": "string", "maxLength": -1}, {"type": "string", "minLength": "1"}, {"type": "integer", "minimum": "1"},
    {"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 1}, {"type": "array", "items": 3},
    {"type": "string", "pattern": "("}, {"type": "string", "pattern": 3}, {"type": "object", "properties": []},
    {"type": "object", "properties": {}, "required": "a"},
]  # fmt: skip


@pytest.mark.parametrize("schema", WRONG, ids=str)
def test_what_is_no_schema_is_refused(schema):
    with pytest.raises(GrammarError) as caught:
        schema_pattern(schema, LIMITS, 0)
    assert not isinstance(caught.value, BeyondAutomaton)


def test_doubling_references_are_counted_not_followed():
    defs = {
        f"d{i}": {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}} for i in range(40)
    }
    defs["d40"] = {"type": "null"}
    with pytest.raises(BeyondAutomaton, match="once references are followed"):
        schema_pattern({"$ref": "#/$defs/d0", "$defs": defs}, LIMITS, 0)


def test_json_text_is_checked_before_it_is_read():
    assert parse_json('{"a": "[[["}', LIMITS) == {"a": "[[["}
    for text, what in {
        "[" * 65: "deeper",
        '{"a": NaN}': "not JSON",
        "{": "not JSON",
        "1" * 5000: "not JSON",
    }.items():
        with pytest.raises(GrammarError, match=what):
            parse_json(text, LIMITS)


def test_expressions_in_a_schema_are_found_wherever_they_are():
    deep = {"properties": {"a": {"items": [{"patternProperties": {"(?=x)": True}}]}}}
    with pytest.raises(GrammarError, match="look-ahead"):
        check_patterns(deep, LIMITS)
    check_patterns({"properties": {"pattern": {"pattern": "^a"}}}, LIMITS)
