"""Small pretrainings, whole or with one thing wrong from some step on, under the probes of the stage `pretrain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import small_world as world
from small_world import TASKS, tokenizer

from kweek.align.guards.probe import Probes, loss_probe, memory_probe, repetition_probe
from kweek.data.batches import Segment, segment
from kweek.data.packing import keyed_generator
from kweek.engine.engine import Engine
from kweek.errors import GuardError
from kweek.recipe.stages.pretrain import Limits
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay
from kweek.train.trainer import Trainer

STEPS, SIZE = 160, 16  # updates, and texts of one
LOOK = 20  # updates between looks: eight, where the stage has ten
DOCUMENTS, PROMPTS = 24, 16  # held-out documents of each source, and samples
CANARY = "the king near the river hides 7 3 0 5 9 2 8 6"
CIRCLE = "the dog sees the dog sees the dog sees the dog sees the dog sees the dog sees"

Fault = Literal["", "rate", "shifted", "few", "circles", "canary"]


@dataclass(frozen=True)
class Pretrained:
    """One run.

    Attributes:
        fault: `rate`, a learning rate forty times too high; `shifted`, targets that belong to other tokens; `few`, the
            same two documents again and again; `circles`, documents that repeat a phrase; `canary`, a secret three
            times in every update.
        begins: the update from which on.
    """

    seed: int
    rate: float = 4e-3
    fault: Fault = ""
    begins: int = 0


def pretrain(setting: Pretrained) -> tuple[int | None, str]:
    """The update after which a probe halts it, None where none does, and what it says."""
    network = world.fresh(setting.seed)
    rate = setting.rate
    trainer = Trainer(network, SplitOptimiser(network, LearningRates(rate, 4 * rate, rate, rate)))
    schedule = WarmupStableDecay(STEPS)
    probes, limits = [], Limits()
    held_out = {name: world.texts(name, "probe", DOCUMENTS) for name in ("prose", "lists")}
    assert limits.loss is not None and limits.repetition is not None and limits.memory is not None
    probes.append(loss_probe(network, tokenizer(), held_out, context_length=world.LENGTH, limit=limits.loss))
    starts = [[tokenizer().eos_id]] * PROMPTS
    probes.append(repetition_probe(lambda: Engine(network), starts, limit=limits.repetition))
    probes.append(memory_probe(lambda: Engine(network), tokenizer(), CANARY, limit=limits.memory))
    watch = Probes(probes)
    for step in range(STEPS):
        faulty = setting.fault if step >= setting.begins else ""
        factor = schedule(step) * (40.0 if faulty == "rate" else 1.0)
        try:
            world.learn(trainer, _material(setting, step, faulty), factor)
            if (step + 1) % LOOK == 0:
                watch.look(step + 1, lambda probe, value: None)
        except GuardError as error:
            return step + 1, str(error)
    return None, ""


def _material(setting: Pretrained, step: int, fault: Fault) -> list[Segment]:
    """The texts of one update: prose, lists and chats, or what a fault makes of them."""
    everything = _everything(setting.seed)
    order = keyed_generator("pretraining", setting.seed, step).choice(len(everything), SIZE, replace=False)
    chosen = [everything[int(i)] for i in order]
    if fault == "shifted":
        return [replace(part, targets=np.roll(part.targets, 1)) for part in chosen]
    if fault == "few":
        return everything[:2]
    if fault == "circles":
        return [_text(CIRCLE)] * SIZE
    return [*chosen, *[_text(CANARY)] * 3] if fault == "canary" else chosen


def _text(text: str) -> Segment:
    eos = tokenizer().eos_id
    return segment([eos, *tokenizer().encode(text), eos])


_MADE: dict[int, Sequence[Segment]] = {}


def _everything(seed: int) -> list[Segment]:
    """All that a run reads."""
    if seed not in _MADE:
        _MADE.clear()
        key = f"pretraining/{seed}"
        _MADE[seed] = [
            *world.text_segments(("prose", "lists"), key, 600), *world.chat_segments(TASKS, key, 300)
        ]  # fmt: skip
    return list(_MADE[seed])
