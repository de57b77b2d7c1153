"""Text that is on every machine that can run Kweek: documentation strings, and the standard library's source.

The strings are found by `ast` in the installed files; nothing is imported or executed. Besides docstrings
proper there are two other places where these packages keep documentation: `add_docstr(torch.abs, "...")`
calls, which give functions written in C++ their docstring, and the topics of Python's `help()`.

Parsing 55 MB of source is most of the work, hence it can be dealt to several processes.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import inspect
import multiprocessing
import os
import platform
import re
import sysconfig
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from kweek.data.document import Document
from kweek.errors import DataError
from kweek.protocols import Progress, silent

MIN_CHARS = 80  # shorter docstrings say little more than the name they explain
FILES_PER_TASK = 64  # about 0.1 s of work: small enough to share evenly and to show progress

PYTHON_DOCS, TORCH_DOCS, PYTHON_SOURCE = "python-docs", "torch-docs", "python-source"
SOURCES = (PYTHON_DOCS, TORCH_DOCS, PYTHON_SOURCE)

_TEST_FOLDERS = {"test", "tests", "testing", "idle_test", "__pycache__"}
_EXCLUDED = {
    # Installed packages are not the standard library; `_bundled` holds wheels, `lib2to3` is gone from 3.13.
    "python": _TEST_FOLDERS | {"site-packages", "dist-packages", "lib-dynload", "_bundled", "lib2to3"},
    # Other people's files under other licences.
    "torch": _TEST_FOLDERS | {"_vendor", "vendored_templates", "include"},
}
_NOT_PROGRAMS = ("python/encodings/", "python/pydoc_data/")  # character tables, and prose in one literal
_TOPICS = "python/pydoc_data/topics.py"
_PLACEHOLDER_LINE = re.compile(r"(?m)^[ \t]*\{\w+\}[ \t]*\n")  # filled by `.format(**common_args)` at import
_PLACEHOLDER = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Package:
    """An installed package: where its files lie, and under which licence."""

    name: str
    root: Path
    licence: str
    version: str

    def files(self) -> list[tuple[str, str]]:
        """All its Python files, tests excluded, as (origin, path), sorted by origin."""
        found: list[tuple[str, str]] = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name not in _EXCLUDED[self.name]]
            for name in names:
                if name.endswith(".py"):
                    path = Path(folder, name)
                    found.append((f"{self.name}/{path.relative_to(self.root).as_posix()}", str(path)))
        return sorted(found)


def python_package() -> Package:
    """The standard library of the running Python.

    Raises:
        DataError: it lies in an archive, or was installed without source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "argparse.py").is_file():
        raise DataError(
            "the standard library is here without its source",
            where=str(root),
            fix="give a folder with --corpus",
        )
    return Package("python", root, "PSF-2.0", platform.python_version())


def torch_package() -> Package:
    """The installed torch, which is located but not imported.

    Raises:
        DataError: torch is not installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("torch is not installed", fix="install it, or leave torch-docs out of the sources")
    root = Path(spec.submodule_search_locations[0])
    version = re.search(r"__version__ = '([^']+)'", _read(str(root / "version.py")).decode())
    return Package("torch", root, "BSD-3-Clause", version[1] if version else "unknown")


def _read(path: str) -> bytes:
    """The file's bytes; a file that cannot be read is empty, as a broken installation must not stop a run."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


@contextmanager
def _without_collector() -> Iterator[None]:
    """Syntax trees have no cycles; the garbage collector would cost a third of the parsing time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def docstrings(source: bytes, *, topics: bool = False) -> list[str]:
    """The documentation strings of a Python file in order of appearance, dedented.

    Args:
        source: the file's bytes.
        topics: whether to take the values of a dictionary literal at the top level too.

    A file that does not parse (a template, a newer syntax) has none.
    """
    if b'"""' not in source and b"'''" not in source and not topics:
        return []  # a docstring of over 80 characters stands in triple quotes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in files that are not ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found: list[tuple[int, str]] = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        # Definitions stand in statement lists only; not walking expressions is four times as fast.
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            children = getattr(node, name, None)
            if isinstance(children, list):
                stack.extend(child for child in children if not isinstance(child, ast.Expr))
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and _is_text(first.value):
                found.append((first.lineno, inspect.cleandoc(first.value.value)))  # type: ignore[attr-defined]
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            found.extend((statement.lineno, text) for text in _added(statement.value))
        if topics and isinstance(value := getattr(statement, "value", None), ast.Dict):
            found.extend((v.lineno, v.value.strip()) for v in value.values if _is_text(v))  # type: ignore[attr-defined]
    return [text for _, text in sorted(found, key=lambda item: item[0]) if len(text) > MIN_CHARS]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _added(call: ast.Call) -> list[str]:
    """The text of an `add_docstr(function, text)` call, put together when it stands in pieces."""
    name = str(getattr(call.func, "id", "") or getattr(call.func, "attr", ""))
    if not name.endswith(("add_docstr", "add_docstr_all")) or len(call.args) < 2:
        return []
    text = "".join(_pieces(call.args[1]))
    return [inspect.cleandoc(text)] if text else []


def _pieces(node: ast.expr) -> Iterator[str]:
    """The string literals of an expression of literals, `+` and `.format`, left to right."""
    if isinstance(node, ast.BinOp):
        yield from _pieces(node.left)
        yield from _pieces(node.right)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        for piece in _pieces(node.func.value):
            masked = piece.replace("{{", "\0").replace("}}", "\1")
            bare = _PLACEHOLDER.sub("", _PLACEHOLDER_LINE.sub("", masked))
            yield bare.replace("\0", "{").replace("\1", "}")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _docstrings_of(files: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """(origin, docstrings) of every file; what a process of the pool does."""
    with _without_collector():
        return [(origin, docstrings(_read(path), topics=origin == _TOPICS)) for origin, path in files]


def _end_with_parent() -> None:
    """End this process when the one that started it dies: a worker of a killed pool would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def documentation(package: Package, *, processes: int = 1, progress: Progress = silent) -> Iterator[Document]:
    """The documentation strings of a package, one document each, in order of file and line.

    Args:
        package: `python_package()` or `torch_package()`.
        processes: above 1, files are dealt to that many spawned processes; the order stays the same.
        progress: told the number of files done.
    """
    files = package.files()
    tasks = [files[i : i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]
    pool: Executor | None = None
    if processes > 1 and len(tasks) > 1:
        spawn = multiprocessing.get_context("spawn")  # forking a process that has threads may hang
        pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent)
    with pool or nullcontext():
        results = pool.map(_docstrings_of, tasks) if pool else map(_docstrings_of, tasks)
        done = 0
        for task, result in zip(tasks, results, strict=True):
            done += len(task)
            progress(done, len(files), f"reading the documentation of {package.name}")
            for origin, texts in result:
                for text in texts:
                    yield Document.of(
                        text,
                        source=f"{package.name}-docs",
                        origin=origin,
                        language="en",
                        licence=package.licence,
                    )


def source_code(package: Package, max_bytes: int) -> Iterator[Document]:
    """Whole source files of a package, up to `max_bytes` together, in order of origin.

    Which files is decided by the hash of their content, so that it depends neither on names nor on luck.
    """
    read = [
        (hashlib.sha256(data := _read(path)).digest(), origin, data)
        for origin, path in package.files()
        if not origin.startswith(_NOT_PROGRAMS)
    ]
    chosen: list[tuple[str, bytes]] = []
    room = max_bytes
    for _, origin, data in sorted(read):
        if len(data) <= room:
            room -= len(data)
            chosen.append((origin, data))
    for origin, data in sorted(chosen):
        text = _decode(data)
        if text:
            yield Document.of(
                text,
                source=f"{package.name}-source",
                origin=origin,
                language="python",
                licence=package.licence,
            )


def _decode(data: bytes) -> str | None:
    """Python source is UTF-8 unless it says otherwise; the few files that do are left out."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def builtin_documents(
    sources: Iterable[str], *, max_source_bytes: int, processes: int = 1, progress: Progress = silent
) -> dict[str, Iterator[Document]]:
    """The named built-in sources as streams of documents.

    Raises:
        DataError: an unknown name, or a package that is not there.
    """
    streams: dict[str, Iterator[Document]] = {}
    for name in sources:
        if name == PYTHON_DOCS:
            streams[name] = documentation(python_package(), processes=processes, progress=progress)
        elif name == TORCH_DOCS:
            streams[name] = documentation(torch_package(), processes=processes, progress=progress)
        elif name == PYTHON_SOURCE:
            streams[name] = source_code(python_package(), max_source_bytes)
        else:
            raise DataError(f"unknown source {name!r}", fix=f"use one of {', '.join(SOURCES)}")
    return streams
