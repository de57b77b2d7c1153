"""Finding a recipe by name or path, and changing it from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kweek.errors import ConfigError
from kweek.recipe.registry import nearest
from kweek.recipe.schema import Recipe, parse
from kweek.recipe.text import Source, parse_value, read_yaml

_FOLDER = Path(__file__).parent / "builtin"


def builtin_names() -> list[str]:
    """Names of the recipes that come with Kweek."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_recipe(name: str) -> Source:
    """The source of a built-in recipe, or of a YAML file when the name looks like a path.

    Raises:
        ConfigError: neither; names the nearest built-in recipe.
    """
    if name in builtin_names():
        return read_yaml(_FOLDER / f"{name}.yaml")
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file():
        return read_yaml(path)
    raise ConfigError(f"no recipe {name!r}", where=None, fix=nearest(name, builtin_names()))


def override(source: Source, assignment: str) -> None:
    """Apply one `--set key=value` to recipe data in place; the value is read as in YAML.

    Raises:
        ConfigError: no "=", a key below something that does not exist; names the nearest valid one.
    """
    dotted, equals, text = assignment.partition("=")
    path = tuple(dotted.strip().split("."))
    where = f"--set {dotted.strip()}"
    if not equals or not all(path):
        raise ConfigError(
            "expected key=value", where=f"--set {assignment}", fix="write stages.NAME.KEY=VALUE"
        )
    if path[0] not in Recipe.model_fields:
        raise ConfigError(
            f"unknown key {path[0]!r}", where=where, fix=nearest(path[0], list(Recipe.model_fields))
        )
    target: Any = source.data
    for depth, part in enumerate(path[:-1]):
        if not isinstance(target, dict) or (depth < 2 and part not in target):
            valid = list(target) if isinstance(target, dict) else []
            raise ConfigError(f"nothing is called {part!r} here", where=where, fix=nearest(part, valid))
        target = target.setdefault(part, {})
    if not isinstance(target, dict):
        raise ConfigError(f"{path[-2]!r} has no keys", where=where, fix=f"set {'.'.join(path[:-1])} itself")
    target[path[-1]] = parse_value(text, where)
    source.places = {known: place for known, place in source.places.items() if known[: len(path)] != path}
    source.places[path] = "--set"


def load_recipe(
    name: str,
    *,
    corpus: Path | None = None,
    budget: str | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
) -> Recipe:
    """A recipe with what the command line changes in it.

    Args:
        name: a built-in recipe or the path of a YAML file.
        corpus: a folder of documents, for every stage of the kind `corpus`.
        budget: "10min", "1e15FLOP".
        seed: replaces the recipe's.
        settings: `key=value` assignments, applied last.

    Raises:
        ConfigError: names the key, its place and the remedy.
    """
    source = find_recipe(name)
    for key, value in (("budget", budget), ("seed", seed)):
        if value is not None:
            source.data[key] = value
            source.places[(key,)] = f"--{key}"
    if corpus is not None:
        _take_corpus(source, corpus)
    for assignment in settings:
        override(source, assignment)
    return parse(source)


def _take_corpus(source: Source, corpus: Path) -> None:
    if not corpus.is_dir():
        what = "is not a folder" if corpus.exists() else "does not exist"
        raise ConfigError(f"{corpus} {what}", where="--corpus", fix="name a folder of documents")
    stages = source.data.get("stages")
    names = [
        name
        for name, stage in (stages.items() if isinstance(stages, dict) else ())
        if isinstance(stage, dict) and stage.get("kind") == "corpus"
    ]
    if not names:
        raise ConfigError("the recipe has no stage of the kind corpus", where="--corpus", fix="leave it out")
    for name in names:
        source.data["stages"][name]["folder"] = str(corpus.resolve())
        source.places[("stages", name, "folder")] = "--corpus"
