"""Programs, judged by unit tests in a sandbox.

The program and the judge never meet: the sandbox is told what to call, and what comes back is compared out here. So a
program gains nothing by leaving with status 0 before the tests, by objects that equal everything, or by reading the
expected values from a file, as it does where `assert` statements run beside it.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kweek import sandbox
from kweek.align.verifiers.json_value import MAX_CHARS, NotJson, equal, read_json
from kweek.align.verifiers.verdict import UNREADABLE, failed
from kweek.protocols import Score

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
_FLOAT_TOLERANCE = 1e-9  # relative; sums in another order differ by 1e-16 a step

#: Runs inside the sandbox: reads the calls, defines what the program defines, and writes the results as JSON.
_DRIVER = """
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
calls = json.load(sys.stdin)
names = {{"__name__": "program"}}
try:
    exec(compile({program!r}, "program.py", "exec"), names)
    results = []
except SyntaxError:
    calls, results = [], "syntax"
for call in calls:
    try:
        results.append({{"value": json.loads(json.dumps(names[call["call"]](*call.get("args", []))))}})
    except Exception as error:
        results.append({{"raised": type(error).__name__}})
answers.write("\\n" + json.dumps(results) + "\\n")
answers.flush()
"""


class Ran(Protocol):
    """What came of a program in a sandbox: how it ended, what it wrote, the limit that it broke."""

    @property
    def exit(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...
    @property
    def reason(self) -> str | None: ...


#: Runs a Python program on some standard input; raises only when the sandbox itself fails.
Run = Callable[[str, bytes], Ran]


def sandboxed(source: str, stdin: bytes) -> Ran:
    """Run a program in this machine's sandbox, within its default limits. Raises SandboxError where there is none."""
    return sandbox.run(source, stdin=stdin)


class BadTests(Exception):
    """A gold answer that is no list of tests."""


@dataclass(frozen=True)
class Program:
    """1 when a Python program passes all tests of the gold answer.

    The gold is a JSON list. A test is `{"call": "f", "args": [2, 3], "expected": 5}`, or `{"stdin": "2 3\\n",
    "stdout": "5"}` with blanks at the ends of lines forgiven. The program is the last fenced block of the answer, or
    all of it. Parts: "passed", the share of tests.

    Attributes:
        run: the sandbox.
    """

    run: Run = sandboxed

    def __call__(self, answer: str, gold: str) -> Score:
        try:
            tests = read_tests(gold)
        except BadTests as error:
            return failed(f"the gold answer is no list of tests: {error}")
        program = source_of(answer)
        if not program.strip() or any("\ud800" <= letter <= "\udfff" for letter in program):
            return UNREADABLE  # nothing, or no text that a file can hold
        calls = [test for test in tests if "call" in test]
        try:
            results = self._called(program, calls) if calls else []
            if results is None:
                return UNREADABLE
            passed = sum(map(_same, results, (test["expected"] for test in calls)))
            passed += sum(self._printed(program, test) for test in tests if "stdin" in test)
        except Exception as error:  # whatever a sandbox raises is no judgement of the program
            return failed(" ".join(f"the sandbox failed: {type(error).__name__}: {error}".split())[:300])
        return Score(float(passed == len(tests)), parsed=True, parts={"passed": passed / len(tests)})

    def _called(self, program: str, calls: list[dict[str, Any]]) -> list[Any] | None:
        """What each call returned, shorter where the program ended early; None when it is no Python."""
        jobs = [{"call": test["call"], "args": test.get("args", [])} for test in calls]
        ran = self.run(_DRIVER.format(program=program), json.dumps(jobs).encode())
        lines = ran.stdout.decode(errors="replace").strip().rsplit("\n", 1)
        try:
            results = read_json(lines[-1])
        except NotJson:
            return []
        if results == "syntax":
            return None
        return results if isinstance(results, list) and len(results) == len(calls) else []

    def _printed(self, program: str, test: dict[str, Any]) -> bool:
        ran = self.run(program, str(test["stdin"]).encode())
        said = ran.stdout.decode(errors="replace")
        return ran.exit == 0 and ran.reason is None and _lines(said) == _lines(str(test["stdout"]))


def source_of(answer: str) -> str:
    """The program in an answer."""
    if len(answer) > MAX_CHARS:
        return ""
    blocks = _FENCE.findall(answer)
    return str(blocks[-1]) if blocks else answer


def read_tests(gold: str) -> list[dict[str, Any]]:
    """The tests of a gold answer.

    Raises:
        BadTests: it has none, or one that tests nothing.
    """
    try:
        tests = read_json(gold)
    except NotJson as error:
        raise BadTests(str(error)) from None
    if not isinstance(tests, list) or not tests:
        raise BadTests("not a list with at least one test")
    for number, test in enumerate(tests):
        keys = set(test) if isinstance(test, dict) else set()
        if not ({"call", "expected"} <= keys or {"stdin", "stdout"} <= keys):
            raise BadTests(f"test {number} has neither call and expected nor stdin and stdout")
        if "stdin" in test and not str(test["stdout"]).strip():
            raise BadTests(f"test {number} expects no output, which every program that ends has")
    return tests


def from_asserts(statements: str) -> str:
    """Statements such as `assert f(2, 3) == 5` as a gold answer.

    Raises:
        BadTests: a statement of another form; its values must be literals.
    """
    tests = []
    try:
        for statement in ast.parse(statements).body:
            test = statement.test if isinstance(statement, ast.Assert) else None
            if not (
                isinstance(test, ast.Compare)
                and len(test.ops) == 1
                and isinstance(test.ops[0], ast.Eq)
                and isinstance(test.left, ast.Call)
                and isinstance(test.left.func, ast.Name)
                and not test.left.keywords
            ):
                raise BadTests(f"{ast.unparse(statement)[:80]!r} is not of the form assert f(…) == value")
            arguments = [ast.literal_eval(argument) for argument in test.left.args]
            expected = ast.literal_eval(test.comparators[0])
            tests.append({"call": test.left.func.id, "args": arguments, "expected": expected})
        return json.dumps(tests, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BadTests(f"it holds what is no literal of JSON ({error})") from None


def _same(result: Any, expected: Any) -> bool:
    return isinstance(result, dict) and "value" in result and _close(result["value"], expected)


def _close(one: Any, other: Any) -> bool:
    """Equality of JSON in which floats may differ by rounding."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, float) and isinstance(other, float | int) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=_FLOAT_TOLERANCE, abs_tol=_FLOAT_TOLERANCE)
    return equal(one, other)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]
