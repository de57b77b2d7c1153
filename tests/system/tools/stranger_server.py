"""An MCP server of somebody else, for tests: `python stranger_server.py FILE`; FILE says how it describes itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ImageContent, ListToolsResult, TextContent, Tool

SAYS = Path(sys.argv[1])
SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}


async def list_tools(context, parameters):
    names = ("look", "fail", "hang", "picture", "bad name")
    return ListToolsResult(
        tools=[
            Tool(name=name, description=f"{SAYS.read_text()} {name}", input_schema=SCHEMA) for name in names
        ]
    )


async def call_tool(context, parameters):
    print("noise on standard error", file=sys.stderr)
    what = parameters.arguments["what"]
    if parameters.name == "fail":
        return CallToolResult(content=[TextContent(text="it failed")], is_error=True)
    if parameters.name == "hang":
        await anyio.sleep(60)
    if parameters.name == "picture":
        return CallToolResult(content=[ImageContent(data="iVBORw0KGgo=", mime_type="image/png")])
    secret = os.environ.get("KWEEK_TEST_SECRET", "no secret")
    return CallToolResult(content=[TextContent(text=f"saw {what}; {secret}")])


async def serve():
    server = Server("stranger", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


anyio.run(serve)
