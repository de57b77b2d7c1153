"""Documentation strings: what is found, that nothing is imported, and that processes change nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from kweek.data import docstrings as module
from kweek.data.docstrings import MIN_CHARS, Package, docstrings, documentation, python_package, source_code

LONG = "This sentence is here so that the documentation is long enough to be worth reading by somebody. "


def test_docstrings_of_all_definitions_in_order() -> None:
    source = f'''"""Module. {LONG}"""
import os
if os.name:
    class A:
        """Class. {LONG}

            Indented.
        End.
        """
        async def method(self):
            """Method. {LONG}"""
            def inner():
                """Inner. {LONG}"""
        x = """Not documentation. {LONG}"""
try:
    pass
except OSError:
    def late():
        r"""Late. {LONG}"""
def short():
    """Too short."""
'''
    found = docstrings(source.encode())
    assert [text.split(".")[0] for text in found] == ["Module", "Class", "Method", "Inner", "Late"]
    assert found[1].endswith("\n\n    Indented.\nEnd.")


def test_documentation_added_to_functions_in_c() -> None:
    source = f'''
add_docstr(torch.abs, r"""abs(input) -> Tensor

{LONG}
""" + r"""
Args:
    {{input}}
    out {{{{x}}}} and {{name}} here
""".format(**common))
torch._C._add_docstr(f, "{LONG}")
print("{LONG}")
'''
    first, second = docstrings(source.encode())
    assert first == f"abs(input) -> Tensor\n\n{LONG}\n\nArgs:\n    out {{x}} and  here"
    assert second == LONG


def test_topics_are_documentation_too() -> None:
    source = f"topics = {{'if': 'If. {LONG}', 'x': 'short'}}".encode()
    assert docstrings(source, topics=True) == [f"If. {LONG}".strip()]
    assert docstrings(source) == []


@pytest.mark.parametrize("source", [b'"""', b'\0"""', b'x = """' + b"(" * 3000, 'é"""a"""'.encode("latin-1")])
def test_files_that_do_not_parse_have_none(source: bytes) -> None:
    assert docstrings(source) == []


def test_against_a_full_walk_of_the_tree() -> None:
    """Ours looks at statement lists only; the plain way is to visit every node."""
    package = python_package()
    num_found = 0
    for _, path in package.files()[::40]:
        source = Path(path).read_bytes()
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
        plain = sorted(text for text in texts if text and len(text) > MIN_CHARS)
        assert sorted(docstrings(source)) == plain
        num_found += len(plain)
    assert num_found > 50


@pytest.fixture
def package(tmp_path: Path) -> Package:
    for folder in ("", "sub", "tests", "site-packages"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(40):
            text = f'"""{folder} {number}. {LONG}"""\nx = {number}\n'
            (tmp_path / folder / f"m{number}.py").write_text(text)
    return Package("python", tmp_path, "PSF-2.0", "3")


def test_documents_say_where_they_are_from(package: Package) -> None:
    found = list(documentation(package, 10**9))
    assert len(found) == 80  # tests and installed packages are not the standard library
    assert {d.origin.split("/")[0] for d in found} == {"python"}
    assert {(d.source, d.licence, d.language) for d in found} == {("python-docs", "PSF-2.0", "en")}
    code = list(source_code(package, 10**9))
    assert {d.origin for d in code} == {d.origin for d in found}
    assert {d.language for d in code} == {"python"}


def test_less_is_the_beginning_of_more(package: Package) -> None:
    whole, part = list(documentation(package, 10**9)), list(documentation(package, 2000))
    assert part == whole[: len(part)]
    assert 2000 <= sum(d.num_bytes for d in part) < 2000 + 2 * len(LONG)
    assert len(list(source_code(package, 2000))) < 20


def test_processes_change_nothing(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POOL_BYTES", 0)
    assert list(documentation(package, 10**9, processes=2)) == list(documentation(package, 10**9))
    assert len(list(documentation(package, 50, processes=2))) == 1  # leaving early ends the processes


def test_torch_is_found_without_importing_it() -> None:
    script = (
        "import sys\nfrom kweek.data.docstrings import torch_package\n"
        "package = torch_package()\nassert len(package.files()) > 500\n"
        "print(package.version, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    version, imported = done.stdout.split()
    assert version[0].isdigit()
    assert imported == "False"


def test_our_dedent_is_that_of_inspect() -> None:
    def example() -> None:
        """First line of an example that is long enough to be kept by the rule of eighty characters.

        Second paragraph.
        """

    source = inspect.getsource(test_our_dedent_is_that_of_inspect).encode()
    assert docstrings(source) == [inspect.getdoc(example)]
