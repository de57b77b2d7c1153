"""Stage `rules`: the written rules that an assistant is to obey, read from a file and checked.

Records: "rule" {rule, text} for every rule, "family" {name, held_out} for every family of attacks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

from kweek.align.behaviour.attacks import FAMILIES
from kweek.align.behaviour.rules import parse_rules
from kweek.align.behaviour.world import HELD_OUT, World
from kweek.recipe.context import Estimate, Role, StageConfig, StageContext, setting
from kweek.recipe.text import Source, parse_yaml, read_yaml
from kweek.recipe.worlds import FILE, as_document

BUILT_IN = "harbour.yaml"


class Config(StageConfig):
    """Settings of the stage."""

    roles: ClassVar[Mapping[str, Role]] = {}

    threads: Literal[1, "all"] = setting(1, doc="CPU threads: 1 or all", reason="it reads one page")
    file: str | None = setting(
        None,
        doc="a YAML file of rules: keep_secret, decline, never_say, end_with, at_most_words",
        reason="without one, the rules of a small harbour that come with Kweek (docs/behave.md shows them)",
    )
    held_out: tuple[str, ...] = setting(
        HELD_OUT,
        doc=f"families of attacks that training never meets, of {', '.join(FAMILIES)}",
        reason="a claim, a disguise and a long context: what is held off there was not learnt by heart",
    )


def external(config: Config) -> str:
    """Fingerprint of the rules as they stand, so that a changed file is a changed stage.

    Raises:
        ConfigError: the file cannot be read, or a rule cannot be meant; names file and line.
    """
    return hashlib.sha256(json.dumps(as_document(_world(config)), sort_keys=True).encode()).hexdigest()


def estimate(config: Config, machine_peak: Any, inputs: Mapping[str, Any]) -> Estimate:
    """Nothing to speak of."""
    return Estimate(0.0, 1.0, 1e8)


def run(ctx: StageContext) -> None:
    """Check the rules and write them down as later stages read them."""
    ctx.records.rewind(lambda record: False)
    world = _world(ctx.config)
    for rule in world.rules.to_data()["rules"]:
        about = {key: value for key, value in rule.items() if key != "kind"}
        ctx.records.append("rule", rule=rule["kind"], **about)
    for family in FAMILIES:
        ctx.records.append("family", name=family, held_out=family in world.held_out)
    ctx.out.write_json(FILE, as_document(world))
    ctx.out.metrics.update(num_rules=len(world.rules.rules))


def _world(config: Config) -> World:
    source = _source(config.file)
    return World(parse_rules(source.data, source.where), config.held_out)


def _source(file: str | None) -> Source:
    if file is not None:
        return read_yaml(Path(file))
    text = resources.files("kweek.align.behaviour").joinpath(BUILT_IN).read_text(encoding="utf-8")
    return parse_yaml(text, BUILT_IN)
