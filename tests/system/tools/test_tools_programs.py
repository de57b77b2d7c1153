"""Programs and sums."""

import pytest

from kweek.sandbox import Limits, namespaces
from kweek.system.tools import Toolbox
from kweek.system.tools.calculator import calculator
from kweek.system.tools.programs import program_tool
from kweek.system.tools.workspace import Workspace


@pytest.fixture(autouse=True)
def spaces(request):
    if "calculator" not in request.node.name and (refusal := namespaces.refusal()) is not None:
        pytest.skip(str(refusal))


def test_a_program():
    box = Toolbox([program_tool()], {"exec": "allow"})
    result = box.call("run_program", {"code": "print(input()[::-1])", "stdin": "abc"})
    assert result.content == "exit status 0\noutput:\ncba\n" and result.trusted
    assert result.cpu_seconds > 0


def test_how_programs_end():
    run = program_tool(limits=Limits(seconds=2, output_bytes=200_000))
    assert "exit status 1" in (said := run({"code": "print('a' * 20000); 1/0"}).content)
    assert "ZeroDivisionError" in said and "12,001 characters before this left out" in said
    assert "more than its seconds" in run({"code": "import time; time.sleep(60)"}).content


def test_programs_and_documents(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.create("a/b.txt", "one two")
    tool = program_tool(workspace)
    assert tool.effects == {"exec", "read"}
    box = Toolbox([tool], {"exec": "allow", "read": "allow"})
    code = "print(len(open('a/b.txt').read().split())); open('a/b.txt', 'w').write('gone')"
    result = box.call("run_program", {"code": code, "documents": ["a/b.txt"]})
    assert "2\n" in result.content and not result.trusted
    assert workspace.read("a/b.txt") == "one two"
    assert "no such document" in (box.call("run_program", {"code": "", "documents": ["c"]}).error or "")


def test_calculator():
    box = Toolbox([calculator])
    assert box.call("calculator", {"expression": "12*(3+0.5)"}).content == "42"
    assert "no expression that has a value" in (box.call("calculator", {"expression": "2**9"}).error or "")
