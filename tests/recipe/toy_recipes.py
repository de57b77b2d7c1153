"""Recipes of toy stages."""

from __future__ import annotations

from kweek.recipe.schema import Recipe, parse
from kweek.recipe.text import parse_yaml

TOY = """
name: toy
seed: 3
stages:
  numbers:
    kind: toy_stages.numbers
    threads: 1
    count: 4
  left:
    kind: toy_stages.walk
    threads: 1
    inputs: {numbers: numbers}
  right:
    kind: toy_stages.walk
    threads: 1
    inputs: {numbers: numbers}
    steps: 7
"""


def recipe_of(text: str) -> Recipe:
    """The recipe of a YAML text."""
    return parse(parse_yaml(text, "toy.yaml"))
