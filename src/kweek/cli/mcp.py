"""`kweek mcp`: Kweek's tools for any MCP client, and what the servers of others offer."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kweek.cli.screen import harmless

if TYPE_CHECKING:
    from kweek.system.tools import Effect, Grant, Tool

verbs = typer.Typer(no_args_is_help=True, help="Tools over the Model Context Protocol, both ways.")
_PINS = Path("mcp-pins.json")  # beside what it is used for, and visible


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.add_typer(verbs, name="mcp")


@verbs.command("serve")
def serve(
    workspace: Annotated[
        Path | None, typer.Option(help="A folder whose documents may be read and changed.")
    ] = None,
    read_only: Annotated[bool, typer.Option(help="Let documents be read only.")] = False,
    programs: Annotated[bool, typer.Option(help="Let Python run in the sandbox.")] = False,
    search: Annotated[str | None, typer.Option(help="Address of a SearXNG server.")] = None,
    fetch: Annotated[
        list[str] | None, typer.Option(help="A name of which pages may be fetched; repeat.")
    ] = None,
) -> None:
    """Serve the calculator, and what is asked for, on standard input and output.

    Examples: kweek mcp serve --workspace notes · kweek mcp serve --programs --fetch docs.python.org
    """
    from kweek.system.tools import Toolbox
    from kweek.system.tools.mcp_server import serve_stdio

    tools, grants = _asked_for(workspace, read_only, programs, search, fetch or [])
    serve_stdio(Toolbox(tools, grants))


def _asked_for(
    folder: Path | None, read_only: bool, programs: bool, search: str | None, fetch: list[str]
) -> tuple[list[Tool], dict[Effect, Grant]]:
    """The tools of some options, and what they need to be granted."""
    from kweek.system.tools.addresses import Guard
    from kweek.system.tools.calculator import calculator
    from kweek.system.tools.documents import document_tools
    from kweek.system.tools.fetch import fetch_tool
    from kweek.system.tools.programs import program_tool
    from kweek.system.tools.web_search import searxng, web_search_tool
    from kweek.system.tools.workspace import Workspace

    tools: list[Tool] = [calculator]
    grants: dict[Effect, Grant] = {}
    workspace = None if folder is None else Workspace(folder)
    if workspace is not None:
        tools += document_tools(workspace)
        grants["read"] = "allow"
        grants["write"] = "deny" if read_only else "allow"
    if programs:
        tools.append(program_tool(workspace))
        grants["exec"] = "allow"
    if search is not None:
        tools.append(web_search_tool(searxng(search)))
        grants["net"] = "allow"
    if fetch:
        tools.append(fetch_tool(Guard(fetch)))
        grants["net"] = "allow"
    return tools, grants


@verbs.command("accept")
def accept(
    name: Annotated[str, typer.Argument(help="What the server is called here.")],
    server: Annotated[
        list[str], typer.Argument(metavar="COMMAND...|ADDRESS", help="After --: a command, or an address.")
    ],
    pins: Annotated[Path, typer.Option(help="The file of what was accepted.")] = _PINS,
    yes: Annotated[bool, typer.Option("--yes", help="Accept without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; accept only with --yes.")] = False,
) -> None:
    """Show the tools of a server that are new or have changed, and accept them as they are now.

    Examples: kweek mcp accept files -- my-mcp-server --stdio · kweek mcp accept remote http://127.0.0.1:8000/mcp
    """
    from kweek.system.tools.mcp_client import McpServer
    from kweek.system.tools.mcp_pins import Pins

    known = Pins(pins)
    is_address = len(server) == 1 and server[0].startswith(("http://", "https://"))
    with McpServer(server[0] if is_address else server, name=name, pins=known) as connection:
        found = connection.refused()
    if as_json:
        print(json.dumps([{**asdict(offer), "state": state} for offer, state in found]))
    else:
        for offer, state in found:
            print(f"{harmless(offer.name)} ({state}): {harmless(offer.description)}")
            print(f"  {harmless(json.dumps(offer.parameters))}")
        if not found:
            print("Nothing is new, and nothing has changed.")
    if found and (yes or (not as_json and typer.confirm("Accept them as they are?"))):
        known.accept(name, [offer for offer, _ in found])
