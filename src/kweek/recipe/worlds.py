"""The world of written rules as an artifact: what the stage `rules` writes and later stages read."""

from __future__ import annotations

from typing import Any

from kweek.align.behaviour.rules import parse_rules
from kweek.align.behaviour.world import World
from kweek.store import files
from kweek.store.artifact import Artifact

FILE = "rules.json"


def as_document(world: World) -> dict[str, Any]:
    """Rules and held-out families as JSON."""
    return {**world.rules.to_data(), "held_out": list(world.held_out)}


def read_world(artifact: Artifact) -> World:
    """The world of a `rules` artifact.

    Raises:
        ConfigError: the file does not hold what the stage wrote.
    """
    path = artifact.file(FILE)
    document = files.read_json(path)
    rules = parse_rules({"rules": document["rules"]}, lambda key: f"{path}: {'.'.join(key)}")
    return World(rules, tuple(document["held_out"]))
