"""A toolbox for any MCP client, on standard input and output. Needs the extra `mcp`.

The grants are those of the toolbox. Nobody can be asked here, so what would be asked is refused; the client's own
questions to its user are beside that.
"""

from __future__ import annotations

import base64
import importlib.util
from typing import TYPE_CHECKING, Any

from kweek.errors import ConfigError
from kweek.system.tools.tool import ToolResult
from kweek.system.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from mcp.server import Server
    from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult

_PNG = b"\x89PNG"


def make_server(box: Toolbox, name: str = "kweek") -> Server[Any]:
    """A server of the protocol over the tools that may be called.

    Args:
        box: of one client; what it has read is remembered for as long as it serves.
        name: shown to clients.

    Raises:
        ConfigError: the extra is not installed.
    """
    if importlib.util.find_spec("mcp") is None:
        raise ConfigError(
            "MCP needs a package that is not installed (mcp)", fix="install it: pip install 'kweek[mcp]'"
        )
    import anyio.to_thread
    from mcp.server import Server
    from mcp.types import ListToolsResult, Tool

    offered = [entry["function"] for entry in box.described()]
    tools = [
        Tool(name=entry["name"], description=entry["description"], input_schema=entry["parameters"])
        for entry in offered
    ]

    async def list_tools(context: Any, parameters: Any) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call_tool(context: Any, parameters: CallToolRequestParams) -> CallToolResult:
        result = await anyio.to_thread.run_sync(box.call, parameters.name, parameters.arguments or {})
        return _answer(result)

    return Server(name, on_list_tools=list_tools, on_call_tool=call_tool)


def serve_stdio(box: Toolbox, name: str = "kweek") -> None:
    """Serve until the client closes standard input.

    Raises:
        ConfigError: the extra is not installed.
    """
    server = make_server(box, name)
    import anyio
    from mcp.server.stdio import stdio_server

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(serve)


def _answer(result: ToolResult) -> CallToolResult:
    from mcp.types import CallToolResult, ImageContent, TextContent

    text = result.content if result.error is None else result.error
    pictures = [
        ImageContent(
            data=base64.b64encode(image).decode(),
            mime_type="image/png" if image.startswith(_PNG) else "image/jpeg",
        )
        for image in result.images
    ]
    content = [TextContent(text=text), *pictures]
    return CallToolResult(content=content, is_error=result.error is not None)
