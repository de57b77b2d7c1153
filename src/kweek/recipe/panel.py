"""The panel around a stage: what the model could before, what it can after, and whether that much may be lost.

The readings lie in the model's artifact (`panel.json`). A stage that trains on from it compares with them, item by
item, so nothing is measured twice and every stage of a line answers the same questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from kweek.align.environment import Environment
from kweek.align.environments import named
from kweek.align.guards.abilities import SOLVED_IN, TEXT_OF, task_measure, text_measures, trust_measure
from kweek.align.guards.panel import Change, Panel, PanelGuard, Readings
from kweek.engine.engine import Engine
from kweek.errors import KweekError
from kweek.model.network import Network
from kweek.recipe.context import StageContext
from kweek.recipe.derive import MAX_LENGTH
from kweek.recipe.materials import TASKS, validation_texts
from kweek.store.files import read_json
from kweek.tokenize.tokenizer import Tokenizer

FILE = "panel.json"
TEXT_BYTES = 60_000  # bits per byte of a source to some hundredths, in a second
SOLVED = 96  # items: a loss of a sixth of them is no chance
TRUSTED, VOTES = 64, 4  # items, and samples of each: more items tell more than more votes
BUILT_IN = ("stories", "guessing")  # environments that a name opens without reading a file
LOOKS = 2  # of a stage with rollouts: half-way, where little is spent yet, and at its end


class Tolerances(BaseModel):
    """What a stage may cost; beyond it, with 99% certainty, the stage ends. Null tells and does not gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bits: float | None = Field(
        default=0.2, gt=0, description="bits per byte of any source: twice the worst of 45 healthy stages"
    )
    solved: float | None = Field(default=0.05, gt=0, description="share of held-out tasks of earlier stages")
    trust: float | None = Field(default=0.1, gt=0, description="Brier score of how often samples agree")


class StagePanel:
    """The panel of one stage.

    Args:
        ctx: whose input `of` may hold readings, and whose input `corpus`, if there is one, gives the texts.
        network: read whenever the panel is; at first that of the input.
        environments: of tasks; none for a model that has not learnt to answer. Those that the input's panel knows by
            name are added: they are what earlier stages taught.
        of: role of the input that the network comes from, where it is not `model`.
    """

    def __init__(
        self,
        ctx: StageContext,
        network: Network,
        tokenizer: Tokenizer,
        environments: Sequence[Environment] = (),
        tolerances: Tolerances | None = None,
        of: str = "model",
    ) -> None:
        allowed, self._ctx, engine = tolerances or Tolerances(), ctx, Engine(network)
        texts = validation_texts(ctx.inputs["corpus"], TEXT_BYTES) if "corpus" in ctx.inputs else {}
        bits, solved, trust = (_limit(v) for v in (allowed.bits, allowed.solved, allowed.trust))
        measures = text_measures(network, tokenizer, texts, context_length=MAX_LENGTH, tolerance=bits)
        model = ctx.inputs.get(of)
        self._stored = _stored(read_json(model.file(FILE))) if model and FILE in model.files else None
        for where in _with_earlier(environments, self._stored or {}):
            items = where.items("panel", SOLVED, "validation")
            measures.append(task_measure(engine, tokenizer, where, items, solved))
            measures.append(
                trust_measure(engine, tokenizer, where, items[:TRUSTED], samples=VOTES, tolerance=trust)
            )
        self.panel = Panel(measures)
        self._start: Readings = {}

    def before(self) -> Readings:
        """What the input could. Text is read now where no stage has; of tasks, what the input's panel does not know is
        new, but for an input without a panel, of which nothing is known."""
        stored = self._stored
        found: dict[str, list[float]] = {}
        for measure in self.panel.measures:
            known = (stored or {}).get(measure.name)
            if known is not None and known[0] == measure.key:
                found[measure.name] = known[1]
            elif stored is None or known is not None or measure.name.startswith(TEXT_OF):
                found[measure.name] = list(measure.read())
        self._start = found
        return found

    def guard(self, steps: int) -> PanelGuard:
        """Watches a run of so many updates; `before` has been called."""
        return PanelGuard(self.panel, -(-steps // LOOKS), last=steps, start=self._start)

    def changes(self, readings: Readings) -> list[Change]:
        """What was lost since `before`."""
        return self.panel.compare(self._start, readings)

    def tell(self, readings: Readings) -> list[Change]:
        """Record the table of what was lost since `before`."""
        changes = self.changes(readings)
        for change in changes:
            self._ctx.records.append("panel", **change.row())
        return changes

    def finish(self, readings: Readings) -> None:
        """Record the table, and write the readings of the finished model into its artifact."""
        self.tell(readings)
        measures = {
            m.name: {"key": m.key, "better": m.better, "values": list(readings[m.name])}
            for m in self.panel.measures
        }
        self._ctx.out.write_json(FILE, {"format": 1, "measures": measures})

    def documents_bits(self, readings: Readings) -> float:
        """Bits per byte over all human documents, as `kweek.recipe.pretraining.documents_bits`."""
        bits = size = 0.0
        for measure in self.panel.measures:
            if measure.name.startswith(TEXT_OF) and measure.name != TEXT_OF + TASKS:
                bits += sum(v * w for v, w in zip(readings[measure.name], measure.weights, strict=True))
                size += sum(measure.weights)
        return bits / size


def _with_earlier(environments: Sequence[Environment], stored: Iterable[str]) -> list[Environment]:
    """These, and those of stored measures that are built in: a name in a model's file never opens code or files."""
    found = list(environments)
    for name in (name.removeprefix(SOLVED_IN) for name in stored if name.startswith(SOLVED_IN)):
        built_in = name in BUILT_IN or name.startswith("gym:")
        if built_in and all(where.name != name for where in found):
            with suppress(KweekError):  # an extra that is not installed
                found.append(named.environment(name))
    return found


def _limit(tolerance: float | None) -> float:
    return math.inf if tolerance is None else tolerance


def _stored(file: Mapping[str, Any]) -> dict[str, tuple[str, list[float]]]:
    """Key and values by measure."""
    measures = cast(Mapping[str, Mapping[str, Any]], file["measures"])
    return {name: (row["key"], list(row["values"])) for name, row in measures.items()}
