"""Programs: judged by what they return and print, not by how they end."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from kweek.align.verifiers.program import BadTests, Program, from_asserts, read_tests, sandboxed, source_of
from kweek.sandbox import SandboxError
from kweek.sandbox.run import choose


@dataclass
class Ended:
    exit: int
    stdout: bytes
    reason: str | None


def plain(source, stdin):
    """An ordinary process: these programs are our own."""
    try:
        done = subprocess.run([sys.executable, "-c", source], input=stdin, capture_output=True, timeout=20)
    except subprocess.TimeoutExpired:
        return Ended(-9, b"", "seconds")
    return Ended(done.returncode, done.stdout, None)


@pytest.fixture(params=[plain, sandboxed], ids=["plain", "sandboxed"])
def run(request):
    if request.param is sandboxed:
        try:
            choose(programs=True)
        except SandboxError as error:
            pytest.skip(str(error))
    return request.param


TESTS = json.dumps(
    [{"call": "f", "args": [2, 3], "expected": 5}, {"call": "f", "args": [0.1, 0.2], "expected": 0.3}]
)


@pytest.mark.parametrize(
    ("program", "value", "passed"),
    [
        ("def f(a, b):\n    return a + b", 1.0, 1.0),
        ("Sure!\n```python\ndef f(a, b):\n    return a + b\n```\nDone.", 1.0, 1.0),
        ("print('noise')\ndef f(a, b):\n    print(a)\n    return a + b", 1.0, 1.0),
        ("def f(a, b):\n    return 5", 0.0, 0.5),
        ("def f(a, b):\n    raise ValueError", 0.0, 0.0),
        ("def f(a):\n    return 5", 0.0, 0.0),
        ("g = 1", 0.0, 0.0),
        ("import sys\nsys.exit(0)", 0.0, 0.0),  # leaves with status 0 before any test
        ("import os\nos._exit(0)", 0.0, 0.0),
        # An object that equals everything equals nothing once it is JSON.
        (
            "class A:\n    def __eq__(self, other):\n        return True\ndef f(a, b):\n    return A()",
            0.0,
            0.0,
        ),
        ("def f(a, b):\n    return True", 0.0, 0.0),
    ],
)
def test_programs(run, program, value, passed):
    score = Program(run)(program, TESTS)
    assert (score.value, score.parts["passed"], score.error) == (value, passed, None)


def test_what_is_no_program(run):
    assert not Program(run)("I do not know how.", TESTS).parsed
    assert not Program(run)("", TESTS).parsed
    half = Program(run)("print('\ud800')", TESTS)
    assert not half.parsed and half.error is None, "the answer's fault, and not the sandbox's"


def test_programs_that_read_and_print(run):
    gold = json.dumps([{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "1 1\n", "stdout": "2\n"}])
    good = "a, b = map(int, input().split())\nprint(a + b)"
    assert Program(run)(good, gold).value == 1.0
    assert Program(run)("print(5)", gold).parts["passed"] == 0.5
    assert Program(run)(good + "\nraise SystemExit(1)", gold).value == 0.0


def test_expected_values_never_enter_the_sandbox(run):
    seen = []

    def watching(source, stdin):
        seen.append(source.encode() + stdin)
        return run(source, stdin)

    gold = json.dumps([{"call": "f", "args": [1], "expected": "a secret"}])
    assert Program(watching)("def f(a):\n    return 1", gold).value == 0.0
    assert seen and all(b"a secret" not in text for text in seen)


def test_a_sandbox_that_fails_is_no_judgement():
    def broken(source, stdin):
        raise OSError("no namespaces here")

    score = Program(broken)("def f(a, b):\n    return a + b", TESTS)
    assert score.value == 0.0 and "no namespaces here" in score.error


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "[]",
        "{}",
        "[1]",
        '[{"call": "f"}]',
        '[{"stdin": "", "stdout": ""}]',
        '[{"stdin": "", "stdout": " "}]',
    ],
)
def test_tests_that_test_nothing_are_an_error(run, gold):
    with pytest.raises(BadTests):
        read_tests(gold)
    assert Program(run)("x = 1", gold).error is not None


def test_asserts_become_tests():
    gold = from_asserts("assert f(1, [2]) == {'a': (1, 2)}\nassert f(0) == -1")
    assert json.loads(gold)[0] == {"call": "f", "args": [1, [2]], "expected": {"a": [1, 2]}}
    for statements in (
        "assert f(x) == 1",
        "f(1)",
        "assert f(1)",
        "assert f(1) == f(2)",
        "assert f(",
        "assert f(1) == 1e999",
    ):
        with pytest.raises(BadTests):
            from_asserts(statements)


def test_the_last_block_is_the_program():
    assert source_of("```python\na\n```\nor\n```py\nb\n```") == "b" and source_of("c") == "c"
