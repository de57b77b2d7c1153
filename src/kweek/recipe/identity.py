"""What decides whether a finished stage still stands: its fingerprint, down to the code that made it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from kweek.errors import ConfigError
from kweek.recipe.budget import Budget
from kweek.recipe.registry import load_kind
from kweek.recipe.schema import Recipe, Stage
from kweek.store.artifact import fingerprint

#: Parts of Kweek that carry a stage's work but do not shape its result.
_FRAME = ("kweek.errors", "kweek.protocols", "kweek.store")
#: Of the recipes' own package, the frame; what else lies there is shared by stages and matters.
_RECIPE_FRAME = frozenset(
    [
        "budget",
        "builtin",
        "context",
        "describe",
        "folder",
        "identity",
        "lifeline",
        "machine",
        "plan",
        "process",
        "registry",
        "runner",
        "schedule",
        "schema",
        "summary",
        "text",
        "worker",
    ]
)
#: Files beside the modules that are built from, or only describe, the sources.
_NOT_SOURCE = {".py", ".pyc", ".pyi", ".so", ".dylib", ".dll", ".md", ".typed"}


@functools.cache
def _home(top: str) -> tuple[Path, ...]:
    """Folders of a top-level package."""
    spec = importlib.util.find_spec(top)
    return tuple(Path(p) for p in (spec.submodule_search_locations or ())) if spec else ()


@functools.cache
def _file_of(module: str) -> Path | None:
    """Source file of a module below a top-level package, None when the name is no module."""
    top, *rest = module.split(".")
    for home in _home(top):
        base = home.joinpath(*rest)
        for candidate in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if rest and candidate.is_file():
                return candidate
    return None


def _strip_docstrings(tree: ast.AST) -> None:
    """Remove docstrings: rewording one must not train a model anew."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Names of modules that a module may import, at any depth, but not those for type checking alone."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(id(inner) for part in node.body for inner in ast.walk(part))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def _scan(module: str) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's code without comments and docstrings, and the modules it imports.

    The digest is that of the syntax tree, which differs between minor versions of Python.
    """
    path = _file_of(module)
    assert path is not None
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imports = tuple(sorted(set(_imports(tree, module, path.name == "__init__.py"))))
    _strip_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _matters(module: str, top: str) -> bool:
    """Whether the module may shape a result: of the stage's own package or of Kweek, but not of the frame."""
    if any(module == frame or module.startswith(f"{frame}.") for frame in _FRAME):
        return False
    if module == "kweek.recipe" or (
        module.startswith("kweek.recipe.") and module.split(".")[2] in _RECIPE_FRAME
    ):
        return False
    return module.startswith(("kweek.", f"{top}."))


@functools.cache
def modules_of(module: str) -> tuple[str, ...]:
    """The stage module and every module that matters and is imported from it, directly or not; sorted."""
    top = module.split(".")[0]
    found: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        if name in found or _file_of(name) is None or not (name == module or _matters(name, top)):
            continue
        found.add(name)
        queue.extend(_scan(name)[1])
        queue.append(name.rpartition(".")[0])
    return tuple(sorted(found))


@functools.cache
def code_version(module: str) -> str:
    """Hash of the code that a stage module runs, and of the data files (templates, C sources) beside it.

    Read from the sources without running them; one reading per process.

    Raises:
        ConfigError: the module has no source file.
    """
    if _file_of(module) is None:
        raise ConfigError("no Python source found", where=module, fix="give the module as a .py file")
    digest = hashlib.sha256()
    folders: set[Path] = set()
    for name in modules_of(module):
        digest.update(f"{name} {_scan(name)[0]}\n".encode())
        path = _file_of(name)
        assert path is not None
        folders.add(path.parent)
    for folder in sorted(folders):
        for entry in sorted(folder.iterdir()):
            if entry.is_file() and entry.suffix not in _NOT_SOURCE and not entry.name.startswith("."):
                digest.update(f"{entry.name} {hashlib.sha256(entry.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def stage_fingerprint(stage: Stage, seed: int, budget: Budget | None, inputs: Mapping[str, str]) -> str:
    """Fingerprint of a stage: kind, resolved configuration, inputs by role, seed, budget, code.

    The budget counts only for kinds that use it; the number of threads of the run does not, nor the speed
    of the machine: a finished stage stands on a faster one too.
    """
    kind = load_kind(stage.kind)
    settings = {
        "config": stage.config.model_dump(mode="json"),
        "seed": seed,
        "budget": str(budget) if budget is not None and kind.config.uses_budget else None,
        "external": kind.external(stage.config) if kind.external else None,
    }
    return fingerprint(stage.kind, settings, dict(inputs), code_version(kind.module))


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Fingerprint of every stage of a recipe, before any has run."""
    result: dict[str, str] = {}
    for name in recipe.order():
        stage = recipe.stages[name]
        upstream = {role: result[source] for role, source in stage.inputs.items()}
        result[name] = stage_fingerprint(stage, recipe.seed, recipe.budget, upstream)
    return result
