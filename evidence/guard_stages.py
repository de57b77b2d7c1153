"""Supervised and preference stages in the small world, whole or with one thing wrong, and what their guards say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import small_world as world
from guard_runs import KNOWN, trainer_of
from small_world import TASKS, World, tokenizer

from kweek.align.dpo import DPO
from kweek.align.environment import Item
from kweek.align.guards.abilities import task_measure, text_measures, trust_measure
from kweek.align.guards.guard import Step
from kweek.align.guards.known import another_gold
from kweek.align.guards.pair_path import answer_margins, pair_sign
from kweek.align.guards.panel import Change, Panel, PanelGuard
from kweek.align.guards.sign import SignGuard
from kweek.align.ipo import IPO
from kweek.align.pairs import Pair, pair, pair_segments, with_reference
from kweek.align.reward import BradleyTerry, RewardModel, reward_segments
from kweek.align.sequences import micro_batches
from kweek.align.turns import turn_end
from kweek.data.batches import Batch, Segment
from kweek.data.packing import keyed_generator
from kweek.engine.engine import Engine
from kweek.errors import GuardError
from kweek.model.scorer import scorer_from
from kweek.tokenize.chat import encode_prompt
from kweek.train.objective import Loss, Objective
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer

NUM_PAIRS, BATCH = 256, 32  # pairs to learn from, and of one update
NOISE = 0.1  # share of pairs that a careless labeller has turned
UPDATES = 30  # of a training on pairs
SUPERVISED = 60  # updates of a supervised stage
LOOK = 20  # updates between looks of the panel

Kind = Literal["dpo", "ipo", "reward model"]


@dataclass(frozen=True)
class Preferred:
    """A training on pairs.

    Attributes:
        swapped: update from which on the two columns are swapped; None is never.
        turned: whether the loss has the wrong sign.
    """

    base: int
    seed: int
    kind: Kind = "dpo"
    rate: float = 1e-4
    tasks: tuple[str, ...] = TASKS
    swapped: int | None = None
    turned: bool = False


def another_task(items: Sequence[Item]) -> Callable[[Item], str]:
    """For every item the right answer to the next one of another task."""
    places = {item.id: number for number, item in enumerate(items)}

    def worse(item: Item) -> str:
        rest = (*items[places[item.id] + 1 :], *items)
        return next(o.gold for o in rest if o.level != item.level and o.gold != item.gold)

    return worse


def answer_pairs(
    tasks: Sequence[str], key: str, count: int, split: Any, noise: float = 0.0, *, other_task: bool = False
) -> list[Pair]:
    """The right answer preferred to another question's, but for some noise.

    Args:
        other_task: whether that question is of another task, so that a reward model can tell within thirty updates.
    """
    where, tok = World(tuple(tasks)), tokenizer()
    items = where.items(key, count, split)
    worse, draw = (another_task if other_task else another_gold)(items), keyed_generator("noise", key)
    made = []
    for item in items:
        prompt = encode_prompt(tok, item.messages)
        end = turn_end(tok, item.messages)
        better, other = ([*tok.encode(text), end] for text in (item.gold, worse(item)))
        made.append(pair(prompt, *((other, better) if draw.random() < noise else (better, other))))
    return made


def swap(pairs: Sequence[Pair]) -> list[Pair]:
    """The columns exchanged."""
    return [
        replace(
            one, chosen=one.rejected, rejected=one.chosen, chosen_reference=one.rejected_reference,
            rejected_reference=one.chosen_reference,
        )
        for one in pairs
    ]  # fmt: skip


def turn(objective: Objective) -> Objective:
    """The same with the wrong sign."""

    def turned(network: Any, hidden_BTD: Any, batch: Batch) -> Loss:
        found = objective(network, hidden_BTD, batch)
        return Loss(-found.value, None, found.parts, found.flop)

    return turned


def prefer(setting: Preferred) -> tuple[int | None, str, float]:
    """Where the guard of the sign ends it (0 before the first update), why, and the mean known margin it came to."""
    coarse = setting.kind == "reward model"
    known = answer_pairs(setting.tasks, "known", KNOWN, "validation", other_task=coarse)
    data = answer_pairs(setting.tasks, f"data/{setting.seed}", NUM_PAIRS, "train", NOISE, other_task=coarse)
    trainer, segments, margins, known, data = _preferring(setting, known, data)
    if setting.turned:
        trainer.objective = turn(trainer.objective)

    def updates(pairs: Sequence[Pair]) -> list[Batch]:
        return micro_batches(segments(pairs), world.LENGTH)

    done = [0]

    def coming() -> list[Batch]:
        return updates(swap(data) if _swapped(setting, done[0] + 1) else data)

    guard = pair_sign(trainer, lambda: updates(known), coming, margins)
    try:
        guard.before()
    except GuardError as error:
        return 0, str(error), _mean(margins())
    return _preferred(setting, guard, trainer, updates, data, margins, done)


def _swapped(setting: Preferred, number: int) -> bool:
    """Whether the columns of this update are swapped."""
    return setting.swapped is not None and number > setting.swapped


def _preferred(
    setting: Preferred,
    guard: SignGuard,
    trainer: Trainer,
    updates: Callable[[Sequence[Pair]], list[Batch]],
    data: Sequence[Pair],
    margins: Callable[[], Sequence[float]],
    done: list[int],
) -> tuple[int | None, str, float]:
    """The updates of a training whose guard let it begin."""
    for number in range(1, UPDATES + 1):
        order = keyed_generator("pairs", setting.seed, number).choice(len(data), BATCH, replace=False)
        chosen = [data[int(i)] for i in order]
        swapped = _swapped(setting, number)
        result = trainer.step(updates(swap(chosen) if swapped else chosen), min(1.0, number / 5))
        done[0] = number
        verdict = guard.after(Step(number, {"ranked": result.parts["ranked"], "pairs": BATCH}))
        if verdict.kind == "stop":
            return number, verdict.text, _mean(margins())
    return None, "", _mean(margins())


def _preferring(setting: Preferred, known: list[Pair], data: list[Pair]) -> tuple[Any, ...]:
    """Trainer, maker of segments, margins, and pairs with what they need."""
    network = world.started(setting.base)
    if setting.kind == "reward model":
        scorer = scorer_from(network, per_token=False)
        trainer, model = trainer_of(scorer, 5 * setting.rate), RewardModel(scorer, tokenizer(), tokenizer())
        trainer.objective = BradleyTerry()

        def rewarded() -> list[float]:
            sides = [side for one in known for side in (one.chosen, one.rejected)]
            found = model.rewards(sides)
            return [a - b for a, b in zip(found[::2], found[1::2], strict=True)]

        return trainer, reward_segments, rewarded, known, data
    engine = Engine(network)
    known, data = (with_reference(pairs, engine.score) for pairs in (known, data))
    trainer = trainer_of(network, setting.rate)
    trainer.objective = DPO() if setting.kind == "dpo" else IPO()
    return trainer, pair_segments, lambda: answer_margins(known, engine.score), known, data


@dataclass(frozen=True)
class Supervised:
    """A supervised stage on chats of some tasks.

    Attributes:
        replay: segments of earlier material beside sixteen chats of an update.
        texts: learn these documents, over and over, instead of chats.
    """

    base: int
    seed: int
    tasks: tuple[str, ...]
    rate: float = 5e-4
    replay: int = 16
    texts: tuple[str, ...] = ()


def supervise(setting: Supervised) -> tuple[int | None, str, list[Change]]:
    """Where the panel ends it, why, and the table after the whole stage."""
    network = world.started(setting.base)
    engine = Engine(network)
    documents = {name: world.texts(name, "panel", 32) for name in ("prose", "lists")}
    everything = World()
    panel = Panel(
        [
            *text_measures(network, tokenizer(), documents, context_length=world.LENGTH),
            task_measure(engine, tokenizer(), everything, everything.items("panel", 128, "validation")),
            trust_measure(engine, tokenizer(), everything, everything.items("trust", 48, "validation")),
        ]
    )
    guard = PanelGuard(panel, every=LOOK)
    before = panel.read()
    guard.restore({"start": before, "kept": 0})
    trainer = Trainer(
        network,
        SplitOptimiser(network, LearningRates(setting.rate, 3 * setting.rate, setting.rate, setting.rate)),
    )
    stopped, why = None, ""
    for number, segments in enumerate(_supervised(setting), start=1):
        world.learn(trainer, segments, min(1.0, number / 5))
        if stopped is None and (verdict := guard.after(Step(number))).kind == "stop":
            stopped, why = number, verdict.text
    return stopped, why, panel.compare(before, panel.read())


def _supervised(setting: Supervised) -> list[list[Segment]]:
    """What every update learns."""
    key = f"stage/{setting.seed}"
    new = (
        world.text_segments(setting.texts, key, 64)
        if setting.texts
        else world.chat_segments(setting.tasks, key, 512)
    )
    old = [
        *world.text_segments(("prose", "lists"), f"old/{key}", 256),
        *world.chat_segments(TASKS, f"old/{key}", 256),
    ]
    made = []
    for number in range(SUPERVISED):
        draw = keyed_generator("stage", setting.seed, number)
        made.append([new[int(i)] for i in draw.choice(len(new), 16)])
        made[-1] += [old[int(i)] for i in draw.choice(len(old), setting.replay)] if setting.replay else []
    return made


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
