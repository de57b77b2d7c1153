"""Recipe text: a small, strict YAML reader that knows on which line every key stands.

YAML as people expect it: `1e-3` is a number, `no` is text, no dates, no anchors, no tags, and a key that
stands twice is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kweek.errors import ConfigError

#: Recipes are pages, not data; a larger file is a mistake.
MAX_RECIPE_BYTES = 1 << 20

_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*\Z")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}

KeyPath = tuple[str, ...]


@dataclass
class Source:
    """Plain data with the place every key came from (`laptop.yaml:12`, `--set`)."""

    data: dict[str, Any]
    name: str
    places: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """The place and dotted name of a key, or of the nearest key above it that has a place."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                break
        place = self.places.get(path[:length], self.name)
        return f"{place}: {'.'.join(path)}" if path else place


def scalar(text: str) -> Any:
    """The value of an unquoted YAML word: null, true, false, an integer, a number, or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.match(text):
        return int(text.replace("_", ""))
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    return text


def _refuse(what: str, name: str, mark: Any, fix: str) -> ConfigError:
    return ConfigError(what, where=f"{name}:{mark.line + 1}", fix=fix)


def _convert(node: yaml.Node, path: KeyPath, source: Source, seen: set[int]) -> Any:
    """Build plain data from a composed node, noting the line of every key."""
    if id(node) in seen:
        raise _refuse("anchors and aliases are not allowed", source.name, node.start_mark, "write it out")
    seen.add(id(node))
    if not isinstance(node, yaml.ScalarNode) and not node.tag.startswith("tag:yaml.org,2002:"):
        raise _refuse(f"unknown tag {node.tag!r}", source.name, node.start_mark, "remove it")
    if isinstance(node, yaml.ScalarNode):
        if node.tag != "tag:yaml.org,2002:str":
            raise _refuse(f"unknown tag {node.tag!r}", source.name, node.start_mark, "remove it")
        return node.value if node.style else scalar(node.value)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, (*path, str(i)), source, seen) for i, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refuse("a key must be a word", source.name, key_node.start_mark, "write key: value")
        key = str(key_node.value)
        if key in result:
            raise _refuse(
                f"key {key!r} stands twice in the same place",
                source.name,
                key_node.start_mark,
                f"remove one (the first is on line {source.places[(*path, key)].rpartition(':')[2]})",
            )
        source.places[(*path, key)] = f"{source.name}:{key_node.start_mark.line + 1}"
        result[key] = _convert(value_node, (*path, key), source, seen)
    return result


def parse_yaml(text: str, name: str) -> Source:
    """Read a mapping from YAML text.

    Args:
        text: the whole document.
        name: file name for messages.

    Raises:
        ConfigError: not YAML, not one mapping, a repeated key, an anchor or a tag; names the line.
    """
    try:
        # BaseLoader resolves nothing, so that every word reaches `scalar` as it was written.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(
            f"not valid YAML: {error.problem or error.context}", where=where, fix="correct the line"
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        what = " ".join(str(error).split())[:200] or "nested too deeply"
        raise ConfigError(f"not valid YAML: {what}", where=name, fix="correct it") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("expected keys and values", where=name, fix="see `kweek recipe show laptop`")
    source = Source({}, name)
    try:
        source.data = _convert(node, (), source, set())
    except RecursionError as error:
        raise ConfigError("not valid YAML: nested too deeply", where=name, fix="correct it") from error
    return source


def parse_value(text: str, name: str) -> Any:
    """Read one value as it could stand after a key in a recipe (`3e-4`, `[1, 2]`, `some text`).

    Raises:
        ConfigError: not YAML.
    """
    try:
        return parse_yaml(f"value: {text}", name).data["value"]
    except ConfigError as error:
        raise ConfigError(error.what, where=name, fix="quote the value") from error


def read_yaml(path: Path) -> Source:
    """Read a recipe file.

    Raises:
        ConfigError: missing, unreadable, too large, not UTF-8, or not a mapping.
    """
    try:
        if path.is_file() and path.stat().st_size > MAX_RECIPE_BYTES:
            raise ConfigError("file is too large for a recipe", where=str(path), fix="name a recipe file")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text", where=str(path), fix="save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror or error})", where=str(path), fix="check the path"
        ) from error
    return parse_yaml(text, str(path))
