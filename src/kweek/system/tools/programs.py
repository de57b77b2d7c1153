"""The tool `run_program`: Python that the model wrote, in the sandbox."""

from __future__ import annotations

from typing import Literal

from kweek.sandbox import Limits, Result, Tier, run
from kweek.system.tools.tool import FunctionTool, ToolResult, tool
from kweek.system.tools.workspace import Workspace

_LIMITS = Limits()
_SHOWN = 8_000  # characters of each stream, the end of it: tracebacks end with what matters


def program_tool(
    workspace: Workspace | None = None,
    limits: Limits = _LIMITS,
    tier: Tier | Literal["auto"] = "auto",
) -> FunctionTool:
    """The tool. What it runs has no network, sees nothing of the machine, and leaves nothing behind.

    Args:
        workspace: whose documents programs may be given copies of; None gives them none.
        limits: of each program.
        tier: see `kweek.sandbox.run`.
    """

    def started(code: str, stdin: str, documents: list[str]) -> ToolResult:
        files = {} if workspace is None else {path: workspace.read(path) for path in documents}
        result = run(code, files=files, stdin=stdin, limits=limits, tier=tier)
        content = _told(result)
        # Without documents it can only say what the model wrote, whose sources are accounted for already.
        return ToolResult(content, trusted=not files, cpu_seconds=result.cpu_seconds)

    if workspace is None:

        @tool(effects={"exec"})
        def run_program(code: str, stdin: str = "") -> ToolResult:
            """Run a Python program and read what it prints. It has the standard library, and no network.

            Args:
                code: of the program.
                stdin: what it reads from its standard input.
            """
            return started(code, stdin, [])

        return run_program

    @tool(effects={"exec", "read"}, name="run_program")
    def run_on_documents(code: str, stdin: str = "", documents: list[str] | None = None) -> ToolResult:
        """Run a Python program and read what it prints. It has the standard library, and no network.

        Args:
            code: of the program.
            stdin: what it reads from its standard input.
            documents: paths of documents that it finds in its folder, as copies.
        """
        return started(code, stdin, documents or [])

    return run_on_documents


def _told(result: Result) -> str:
    """What the model reads of a program's end."""
    if result.reason is not None:
        head = f"ended: it used more than its {result.reason} allow"
    else:
        head = f"exit status {result.exit}"
    parts = [head]
    for name, stream in (("output", result.stdout), ("errors", result.stderr)):
        text = stream.decode("utf-8", "replace")
        if len(text) > _SHOWN:
            text = f"[{len(text) - _SHOWN:,} characters before this left out]\n{text[-_SHOWN:]}"
        if text:
            parts.append(f"{name}:\n{text}")
    return "\n".join(parts)
