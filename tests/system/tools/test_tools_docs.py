"""The programs of docs/tools.md run and give what the page says, and it names every tool there is."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "tools.md").read_text(encoding="utf-8")


def test_the_first_program_of_the_page(capsys):
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    exec(program, {"__name__": "page"})
    said = re.findall(r"print\(.*\)  # (.*)", program)
    assert len(said) == 3 and capsys.readouterr().out.splitlines() == said


def test_the_program_about_mcp_is_as_the_api_is():
    pytest.importorskip("mcp")
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    compile(program, "page", "exec")
    exec("\n".join(line for line in program.splitlines() if line.startswith("from")), {})


def test_the_page_names_every_tool(tmp_path):
    from kweek.system.tools.addresses import Guard
    from kweek.system.tools.browser import Browser, browser_tools
    from kweek.system.tools.documents import document_tools
    from kweek.system.tools.fetch import fetch_tool
    from kweek.system.tools.programs import program_tool
    from kweek.system.tools.search import search_tool
    from kweek.system.tools.web_search import searxng, web_search_tool
    from kweek.system.tools.workspace import Workspace

    guard = Guard(["*"])
    tools = [*document_tools(Workspace(tmp_path)), *browser_tools(Browser(guard)), fetch_tool(guard)]
    tools += [search_tool(Workspace(tmp_path)), program_tool(), web_search_tool(searxng("http://x"))]
    for one in tools:
        assert f"`{one.name}`" in PAGE, one.name
