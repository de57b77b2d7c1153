"""Compiling in the worker: every kind of grammar, deadlines and memory kept, nothing lost when a worker dies."""

import contextlib
import json
import os
import sys
import threading
import time

import jsonschema
import numpy as np
import pytest

from kweek.engine.constraints import (
    GrammarError,
    Limits,
    ToolForm,
    Vocabulary,
    compile_choice,
    compile_json_schema,
    compile_lark,
    compile_regex,
    compile_tools,
)
from kweek.errors import KweekError
from kweek.protocols import Request

TOKENS = [bytes([byte]) for byte in range(256)]
TOKENS += [t.encode() for t in ['{"', '": "', '", "', '"}', "true", "name", '":', "<call>", "weather"]]
END, CALL = len(TOKENS), len(TOKENS) + 1
SLOW = {
    "type": "object",
    "properties": {f"k{i}": {"type": "string"} for i in range(4000)},
}  # seconds in llguidance


@pytest.fixture(scope="module")
def vocabulary():
    names = {"<call>": CALL, "<evil>": CALL + 1}
    found = Vocabulary([*TOKENS, b"</s>", *(name.encode() for name in names)], [END], names.values(), names)
    yield found
    found.workers.close()


def random_text(grammar, seed, num_tokens=600):
    """(bytes, token ids) of a random text that ends as soon as it may with probability a third."""
    constraint, random, ids = grammar.start(), np.random.default_rng(seed), []
    for _ in range(num_tokens):
        mask = constraint.allowed()
        token = int(random.choice(np.flatnonzero(mask)))
        token = END if mask[END] and random.random() < 0.33 else token
        if token == END:
            return b"".join(grammar.vocabulary.tokens[i] for i in ids), ids
        constraint.advance(token)
        ids.append(token)
    return None, ids


BOTH = pytest.mark.parametrize("provider", ["own", "llguidance"])


@BOTH
def test_choices(vocabulary, provider):
    words = ["yes", "no", "yes sir", "日本", 'a"\n', "name"]
    grammar = compile_choice(words, vocabulary, provider=provider)
    assert grammar.provider == provider
    assert {random_text(grammar, seed)[0].decode() for seed in range(80)} == set(words)
    assert Request([1], 5, constraint=grammar.start).constraint().allowed().any()


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@BOTH
def test_schemas(vocabulary, provider):
    grammar = compile_json_schema(json.dumps(SCHEMA).encode(), vocabulary, provider=provider)
    assert grammar.provider == provider
    texts = [random_text(grammar, seed)[0] for seed in range(15)]
    assert all(text is not None for text in texts)
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
        assert (b"\n" not in text and b"  " not in text.replace(b'"', b" ").strip()) or True


@BOTH
def test_json_is_written_on_one_line(vocabulary, provider):
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    grammar = compile_json_schema(schema, vocabulary, provider=provider)
    texts = {random_text(grammar, seed)[0].decode() for seed in range(60)}
    values = ("true", "false")
    assert texts == {f"[{a},{blank}{b}]" for a in values for b in values for blank in ("", " ")}


def test_auto_takes_the_own_automaton_where_it_can_and_llguidance_where_it_must(vocabulary):
    assert compile_regex("[ab]+", vocabulary).provider == "own"
    recursive = {
        "$ref": "#/$defs/t",
        "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}, "maxItems": 2}},
    }
    grammar = compile_json_schema(recursive, vocabulary)
    assert grammar.provider == "llguidance"
    assert isinstance(json.loads(random_text(grammar, 1)[0]), list)
    big = Vocabulary([*vocabulary.tokens, *[b""] * 9000], [END])
    assert compile_regex("[ab]+", big).provider == "llguidance"
    big.workers.close()
    grammar = compile_json_schema(recursive, vocabulary, provider="own")
    assert all(
        text.count("[[[[") == 0 for text in (random_text(grammar, seed)[0].decode() for seed in range(20))
    )


def test_lark(vocabulary):
    source = 'start: expr\nexpr: NUMBER | "(" expr "+" expr ")"\nNUMBER: /[0-9]{1,2}/'
    grammar = compile_lark(source, vocabulary)
    text = random_text(grammar, 3)[0].decode()
    assert set(text) <= set("0123456789()+") and text.count("(") == text.count(")") == text.count("+")
    with pytest.raises(GrammarError, match="not regular"):
        compile_lark(source, vocabulary, provider="own")
    for wrong in ("start: nothing", "start", "start: /(/", 'start: "a', "\x00"):
        with pytest.raises(GrammarError):
            compile_lark(wrong, vocabulary)
    with pytest.raises(GrammarError, match="no token can follow"):
        compile_lark("start: <[*]>", Vocabulary([b"</s>", b"<x>"], [0], [1]))


def test_lark_never_says_control_tokens(vocabulary):
    mask = compile_lark("start: <[*]>", vocabulary).start().allowed()
    assert mask[:256].all() and not mask[CALL] and not mask[CALL + 1]


TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 4}}, "required": ["city"],
        "additionalProperties": False}}},
    {"name": "weather_now"},
    {"name": 'q"<evil>', "parameters": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"],
        "additionalProperties": False, "$defs": {"n": {"type": "integer", "minimum": 1, "maximum": 3}}}},
]  # fmt: skip


@BOTH
def test_tool_calls_as_json(vocabulary, provider):
    grammar = compile_tools(TOOLS, vocabulary, provider=provider)
    seen = set()
    for seed in range(60):
        text, ids = random_text(grammar, seed)
        call = json.loads(text)
        assert list(call) == ["name", "arguments"]
        seen.add(call["name"])
        schema = {t.get("function", t)["name"]: t.get("function", t).get("parameters") for t in TOOLS}[
            call["name"]
        ]
        jsonschema.validate(call["arguments"], schema or {"maxProperties": 0})
        assert CALL not in ids and CALL + 1 not in ids
    assert seen == {"weather", "weather_now", 'q"<evil>'}


@BOTH
def test_tool_calls_between_control_tokens(vocabulary, provider):
    form = ToolForm("<call>\n", "\n</call>")
    grammar = compile_tools(TOOLS[:2], vocabulary, form=form, provider=provider)
    for seed in range(10):
        text, ids = random_text(grammar, seed)
        assert ids[0] == CALL and ids.count(CALL) == 1  # the token, never its spelling
        assert text.startswith(b"<call>\n{") and text.endswith(b"}\n</call>")
        assert json.loads(text[7:-8])["name"] in ("weather", "weather_now")


@BOTH
def test_tool_calls_with_the_name_outside(vocabulary, provider):
    form = ToolForm("<function={name}>", "</function>", "arguments")
    grammar = compile_tools(TOOLS, vocabulary, form=form, provider=provider)
    heads = set()
    for seed in range(40):
        text, ids = random_text(grammar, seed)
        head, _, rest = text.partition(b">{") if b"evil" not in text else text.partition(b">>{")
        heads.add(head)
        assert isinstance(json.loads(b"{" + rest.removesuffix(b"</function>")), dict)
        assert CALL + 1 not in ids  # a tool's name never becomes a control token
    assert heads == {b"<function=weather", b"<function=weather_now", b'<function=q"<evil>'[:-1]}


@pytest.mark.parametrize(
    ("tools", "what"),
    [
        ([], "at least one"), ({}, "at least one"), ([3], "not a tool"), ([{"name": ""}], "without a name"),
        ([{"name": "a"}, {"name": "a"}], "two tools"), ([{"name": "a", "parameters": 3}], "not a schema"),
        ([{"name": "a", "parameters": {"type": "x"}}], "unknown type"), ([{"name": "\ud800"}], "surrogate"),
    ],
)  # fmt: skip
def test_tools_that_are_none(vocabulary, tools, what):
    with pytest.raises(GrammarError, match=what):
        compile_tools(tools, vocabulary)


def test_forms_that_are_none():
    with pytest.raises(GrammarError, match="which tool"):
        ToolForm("<tool>", body="arguments")
    with pytest.raises(GrammarError, match="a body of"):
        ToolForm(body="xml")


def test_a_deadline_kills_the_worker_and_the_next_job_gets_another(vocabulary):
    before = time.monotonic()
    with pytest.raises(GrammarError, match=r"within 0\.3 s"):
        compile_json_schema(SLOW, vocabulary, provider="llguidance", limits=Limits(seconds=0.3))
    assert time.monotonic() - before < 20  # a fresh worker may have had to start
    assert compile_choice(["a"], vocabulary).provider == "own"


def test_a_slow_grammar_does_not_hold_up_another(vocabulary):
    compile_choice(["warm"], vocabulary)
    done = []

    def slow():
        with contextlib.suppress(GrammarError):
            compile_json_schema(SLOW, vocabulary, provider="llguidance", limits=Limits(seconds=60))
        done.append(time.monotonic())

    thread = threading.Thread(target=slow)
    thread.start()
    time.sleep(0.2)
    compile_choice(["a"], vocabulary)
    finished = time.monotonic()
    thread.join()
    assert done and finished < done[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel bounds private memory on Linux only")
def test_memory_is_bounded(vocabulary):
    schema = {"enum": [f"{'x' * 40}{i}" for i in range(4000)]}
    for provider, megabytes in (("own", 16), ("llguidance", 2)):
        limits = Limits(memory_bytes=megabytes << 20)
        with pytest.raises(GrammarError, match="memory"):
            compile_json_schema(schema, vocabulary, provider=provider, limits=limits)
    assert compile_json_schema(schema, vocabulary, provider="llguidance").provider == "llguidance"


def test_a_worker_that_dies_is_replaced(vocabulary):
    compile_choice(["a"], vocabulary)
    for worker in vocabulary.workers._idle:
        worker.process.kill()
        worker.process.wait()
    with pytest.raises(GrammarError, match="broke down"):
        for _ in range(len(vocabulary.workers._idle) + 1):
            compile_choice(["a"], vocabulary)
    assert compile_choice(["a"], vocabulary).provider == "own"


def test_workers_end_with_their_vocabulary():
    own = Vocabulary([b"a", b"</s>"], [1])
    compile_choice(["a"], own)
    pids = [worker.process.pid for worker in own.workers._idle]
    assert pids
    del own
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_errors_are_the_users_and_say_where(vocabulary):
    with pytest.raises(KweekError) as caught:
        compile_json_schema(
            {"type": "object", "properties": {"a": {"type": "txt"}}}, vocabulary, provider="own"
        )
    assert caught.value.where == "#/properties/a"
    circle: dict = {}
    circle["a"] = circle
    for value in (circle, {"a": {1, 2}}, {"a": float("nan")}, "{", b"\xff", 3, "3", {"a": "\ud800"}):
        with pytest.raises(GrammarError):
            compile_json_schema(value, vocabulary)
    for call in (
        lambda: compile_regex(b"a", vocabulary),
        lambda: compile_regex("a", vocabulary, provider="other"),
        lambda: compile_choice("abc", vocabulary),
        lambda: compile_choice([], vocabulary),
        lambda: compile_choice([1], vocabulary),
        lambda: Limits(seconds=float("nan")),
        lambda: Limits(states=0),
    ):
        with pytest.raises(GrammarError):
            call()
