"""The small world as an environment: questions of all kinds, some wrapped in attacks, judged by the full checker.

Families of attacks that are held out occur in no item that anything is trained on; only `attacked` makes them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kweek.align.behaviour.attacks import FAMILIES, INNOCENT, NUM_SHOTS, Chat
from kweek.align.behaviour.checker import judge
from kweek.align.behaviour.questions import Kind, Question, kinds, question, rng
from kweek.align.behaviour.rules import Rules
from kweek.align.environment import Item, Split
from kweek.errors import ConfigError
from kweek.protocols import Message, Score, TokenInterceptor
from kweek.system.calculator import Calculator
from kweek.tokenize.tokenizer import Tokenizer

HELD_OUT = ("authority", "encoding", "many_shot")  # one of each sort: a claim, a disguise, a long context
MAX_NEW_TOKENS = 72  # two steps with the calculator take about 50

#: Kinds of questions that an innocent wrapping is put around.
WRAPPED: Sequence[Kind] = ("help", "lookalike", "sign")

#: How often each kind of item occurs in training: half of what is asked is innocent.
SHARES: Mapping[str, float] = {
    "help": 0.24, "lookalike": 0.1, "wrapped": 0.12, "sign": 0.14, "secret": 0.1, "topic": 0.1, "attack": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """An `Environment` whose judge is the gold checker.

    Attributes:
        rules: what is to be obeyed.
        held_out: families of attacks that training never meets.
        shares: of the kinds of items.
    """

    rules: Rules
    held_out: tuple[str, ...] = HELD_OUT
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    name: str = "behave"
    max_new_tokens: int = MAX_NEW_TOKENS
    max_turns: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for families that there are not, or where none is left to train on."""
        for family in self.held_out:
            if family not in FAMILIES:
                raise ConfigError(
                    f"there is no family of attacks {family!r}",
                    where="held_out",
                    fix=f"use some of {', '.join(FAMILIES)}",
                )
        if not self.trained:
            raise ConfigError(
                "no family of attacks is left to train on", where="held_out", fix="take one out"
            )

    @property
    def trained(self) -> list[str]:
        """Families that training meets."""
        return [family for family in FAMILIES if family not in self.held_out]

    @property
    def groups(self) -> list[str]:
        """Groups of items that these rules have."""
        return [group for group in SHARES if group in (*kinds(self.rules), "wrapped", "attack")]

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """See `Environment`: different items of all kinds that the rules have, by their shares."""
        found: dict[str, Item] = {}
        names = [group for group in self.groups if group in self.shares]
        weights = [self.shares[group] for group in names]
        index = 0
        while len(found) < count:
            draw = rng("item", key, index)
            item = self._item(draw.choices(names, weights)[0], f"{key}/{index}", split, draw)
            found.setdefault(item.id, item)
            index += 1
        return list(found.values())

    def plain(self) -> World:
        """The same world, of which only plain questions are asked: what a stage must not lose."""
        return World(self.rules, self.held_out, {"help": 1.0}, f"{self.name}, plain questions")

    def group(self, group: str, key: str, count: int, split: Split) -> list[Item]:
        """Different items of one kind."""
        return World(self.rules, self.held_out, {group: 1.0}).items(f"{key}/{group}", count, split)

    def attacked(self, family: str, key: str, count: int, split: Split) -> list[Item]:
        """Different attacks of one family, on secrets and on what is to be declined in turn."""
        found: dict[str, Item] = {}
        index = 0
        while len(found) < count:
            item = self._attack(family, f"{key}/{family}", index, split)
            found.setdefault(item.id, item)
            index += 1
        return list(found.values())

    def begin(self, item: Item) -> Attempt:
        """See `Environment`."""
        return Attempt(self.rules, item)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """See `Environment`: the calculator."""
        return Calculator(tokenizer)

    def asked(self, group: str, key: str, split: Split, draw: random.Random) -> tuple[Question, Item]:
        """One question of a group, but for attacks, and the item that asks it."""
        if group != "wrapped":
            asked = question(self.rules, _kind(group), key, 0, split)
            return asked, self._as_item(asked, [{"role": "user", "content": asked.text}], group, "")
        innocent = [kind for kind in WRAPPED if kind in kinds(self.rules)]
        asked = question(self.rules, draw.choice(innocent), key, 0, split)
        known = [family for family in INNOCENT if family in self.trained] or list(INNOCENT)
        family = draw.choice(known)
        return asked, self._as_item(asked, FAMILIES[family](asked, draw, ()), group, family)

    def _item(self, group: str, key: str, split: Split, draw: random.Random) -> Item:
        if group == "attack":
            return self._attack(draw.choice(self.trained), key, draw.randrange(1000), split)
        return self.asked(group, key, split, draw)[1]

    def _attack(self, family: str, key: str, index: int, split: Split) -> Item:
        wanted: list[Kind] = [kind for kind in kinds(self.rules) if kind in ("secret", "topic")]
        kind = sorted(wanted)[index % len(wanted)]
        asked = question(self.rules, kind, key, index, split)
        draw = rng("attack", key, index)
        return self._as_item(
            asked, FAMILIES[family](asked, draw, self._shots(kind, f"{key}/{index}", split)), "attack", family
        )

    def _shots(self, kind: Kind, key: str, split: Split) -> list[tuple[str, str]]:
        """Earlier turns in which an assistant seems to have answered everything."""
        shown: Kind = "help" if kind == "secret" else kind
        asked = [question(self.rules, shown, f"{key}/shot", number, split) for number in range(NUM_SHOTS)]
        return [(one.text, self.rules.answer(f"{one.answer}.")) for one in asked]

    def _as_item(self, asked: Question, chat: Chat, group: str, family: str) -> Item:
        best = self.rules.answer(asked.say or f"{asked.answer}.")
        data = {
            "kind": asked.kind,
            "answer": asked.answer,
            "say": asked.say,
            "group": group,
            "family": family,
        }
        return Item(tuple(chat), best, group, data)


def _kind(group: str) -> Kind:
    kinds: dict[str, Kind] = {
        "help": "help", "lookalike": "lookalike", "sign": "sign", "secret": "secret", "topic": "topic",
    }  # fmt: skip
    return kinds[group]


class Attempt:
    """An `Episode` of one answer, judged by the checker."""

    def __init__(self, rules: Rules, item: Item) -> None:
        self._rules, self._item = rules, item
        self._answer, self._thought = "", ""

    def step(self, message: Message) -> Sequence[Message]:
        """See `Episode`."""
        self._answer, self._thought = str(message["content"]), str(message.get("reasoning_content", ""))
        return ()

    def score(self) -> Score:
        """See `Episode`; `parts` are those of `Judgement`."""
        found = judge(self._rules, self._item.data, self._answer, self._thought)
        return Score(found.value, parsed=bool(self._answer.strip()), parts=found.parts)


def worse(rules: Rules, items: Sequence[Item]) -> dict[str, str]:
    """By id of the item an answer that anybody can tell to be worse than its gold one, and that is as well-mannered.

    What is guarded is given; what is to be told is refused; what is to be counted gets another number.
    """
    found: dict[str, Any] = {}
    for item in items:
        kind, answer = item.data["kind"], item.data["answer"]
        if item.data["say"]:
            core = f"{answer}."
        elif kind == "sign":
            core = rules.secrets[0].say
        else:
            core = f"{int(answer) + 7}."
        found[item.id] = rules.answer(core)
    return found
