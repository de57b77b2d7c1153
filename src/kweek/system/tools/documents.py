"""Tools for the documents of a workspace: list, read, create, edit, patch, undo."""

from __future__ import annotations

from kweek.system.tools.tool import Tool, tool
from kweek.system.tools.workspace import Workspace

_MAX_LINES = 400  # of one reading, where the model does not say


def document_tools(workspace: Workspace) -> list[Tool]:
    """The tools that read ("read") and those that change ("write") the documents of a workspace.

    A document may hold anybody's words, so what is read is not trusted.
    """
    return [*_reading(workspace), *_changing(workspace)]


def _reading(workspace: Workspace) -> list[Tool]:
    @tool(effects={"read"})
    def list_documents() -> str:
        """List the paths of all documents."""
        return "\n".join(workspace.documents()) or "(no documents)"

    @tool(effects={"read"})
    def read_document(path: str, first_line: int = 1, num_lines: int = _MAX_LINES) -> str:
        """Read a document, or some of its lines.

        Args:
            path: of the document, like notes/plan.md.
            first_line: where to begin; the first line is 1.
            num_lines: how many lines at most.
        """
        lines = workspace.read(path).split("\n")
        start = max(0, first_line - 1)
        end = start + max(0, num_lines)
        shown = "\n".join(lines[start:end])
        rest = len(lines) - end
        return f"{shown}\n[{rest:,} more lines, from line {end + 1}]" if rest > 0 else shown

    return [list_documents, read_document]


def _changing(workspace: Workspace) -> list[Tool]:
    @tool(effects={"write"})
    def create_document(path: str, text: str) -> str:
        """Create a document that does not exist yet.

        Args:
            path: of the document, like notes/plan.md.
            text: all of it.
        """
        workspace.create(path, text)
        return f"created {path}"

    @tool(effects={"read", "write"})
    def edit_document(path: str, old: str, new: str) -> str:
        """Replace one passage of a document.

        Args:
            path: of the document.
            old: the passage exactly as it stands there, long enough to be there once only.
            new: what takes its place.
        """
        workspace.edit(path, old, new)
        return f"edited {path}"

    @tool(effects={"read", "write"})
    def patch_document(path: str, patch: str) -> str:
        """Apply a patch to a document.

        Args:
            path: of the document.
            patch: in the unified form, as diff -u writes it.
        """
        workspace.patch(path, patch)
        return f"patched {path}"

    @tool(effects={"write"})
    def undo_document(path: str) -> str:
        """Take back the last change of a document; called again, the change before.

        Args:
            path: of the document.
        """
        return f"undid: {workspace.undo(path)} of {path}"

    return [create_document, edit_document, patch_document, undo_document]
