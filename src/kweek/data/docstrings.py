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
import signal
import sysconfig
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kweek.data.document import Document
from kweek.errors import DataError
from kweek.protocols import Progress, silent

MIN_CHARS = 80  # shorter docstrings say little more than the name they explain
FILES_PER_TASK = 64  # about 0.1 s of work: small enough to share evenly and to show progress
POOL_BYTES = 16 << 20  # of less source, parsing takes less than starting processes
MAX_SOURCE_FILE_BYTES = 64 << 10  # nine tenths of the standard library's files are smaller

PYTHON_DOCS, TORCH_DOCS, PYTHON_SOURCE = "python-docs", "torch-docs", "python-source"
SOURCES = (PYTHON_DOCS, TORCH_DOCS, PYTHON_SOURCE)

Files = Sequence[tuple[str, str]]
"""(origin, path) of some files."""

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


def _docstrings_of(files: Files) -> list[tuple[str, list[str]]]:
    """(origin, docstrings) of every file; what a process of the pool does."""
    with _without_collector():
        return [(origin, docstrings(_read(path), topics=origin == _TOPICS)) for origin, path in files]


def _prepare_worker() -> None:
    """Let the process end when the one that started it dies, and leave Ctrl-C to that one.

    Without this a worker of a killed pool would wait for ever for its next task.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, name="watch-parent", daemon=True).start()


@contextmanager
def _mapped(tasks: Sequence[Files], processes: int) -> Iterator[Iterator[list[tuple[str, list[str]]]]]:
    """The results of all tasks in order, from this process or from several."""
    if processes == 1 or len(tasks) == 1:
        yield map(_docstrings_of, tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # forking a process that has threads may hang
    pool = ProcessPoolExecutor(min(processes, len(tasks)), mp_context=spawn, initializer=_prepare_worker)
    try:
        yield pool.map(_docstrings_of, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def documentation(
    package: Package, max_bytes: int, *, processes: int = 1, progress: Progress = silent
) -> Iterator[Document]:
    """The documentation strings of a package, one document each.

    Args:
        package: `python_package()` or `torch_package()`.
        max_bytes: no further file is begun once this much text has been found.
        processes: above 1, files are dealt to that many spawned processes; the documents stay the same.
        progress: told the share done.
    """
    ordered = _in_order(package)
    files = [(origin, path) for origin, path, _ in ordered]
    if sum(len(data) for _, _, data in ordered) < POOL_BYTES:
        processes = 1
    del ordered
    tasks = [files[i : i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]
    size = done = 0
    with _mapped(tasks, processes) as results:
        for task, result in zip(tasks, results, strict=True):
            for origin, texts in result:
                if size >= max_bytes:
                    return
                for text in texts:
                    document = Document.of(
                        text,
                        source=f"{package.name}-docs",
                        origin=origin,
                        language="en",
                        licence=package.licence,
                    )
                    size += document.num_bytes
                    yield document
            done += len(task)
            share = max(done / len(files), size / max_bytes)
            progress(min(share, 1.0), 1.0, f"reading the documentation of {package.name}")


def source_code(package: Package, max_bytes: int) -> Iterator[Document]:
    """Whole source files of a package, until `max_bytes` are reached.

    Larger files than `MAX_SOURCE_FILE_BYTES` are left out: a handful of them would make up a held-out split.
    """
    size = 0
    for origin, _, data in _in_order(package):
        if size >= max_bytes:
            return
        if origin.startswith(_NOT_PROGRAMS) or len(data) > MAX_SOURCE_FILE_BYTES:
            continue
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            continue  # the few files that declare another encoding are tests of that
        size += len(data)
        yield Document.of(
            text,
            source=f"{package.name}-source",
            origin=origin,
            language="python",
            licence=package.licence,
        )


def _in_order(package: Package) -> list[tuple[str, str, bytes]]:
    """(origin, path, content) of all files, by the hash of their content.

    Where only part of a package is read, names and folders then have no say in which part.
    """
    read = [(origin, path, _read(path)) for origin, path in package.files()]
    return sorted(read, key=lambda file: (hashlib.sha256(file[2]).digest(), file[0]))


def builtin_documents(
    source: str, max_bytes: int, *, processes: int = 1, progress: Progress = silent
) -> Iterator[Document]:
    """One of the built-in `SOURCES` as a stream of documents, about `max_bytes` of it.

    Raises:
        DataError: an unknown name, or a package that is not there.
    """
    if source == PYTHON_DOCS:
        return documentation(python_package(), max_bytes, processes=processes, progress=progress)
    if source == TORCH_DOCS:
        return documentation(torch_package(), max_bytes, processes=processes, progress=progress)
    if source == PYTHON_SOURCE:
        return source_code(python_package(), max_bytes)
    raise DataError(f"unknown source {source!r}", fix=f"use one of {', '.join(SOURCES)}")
