"""Contrasts: harmless questions, each with what a demonstrator answers and with a refusal, for somebody to compare.

Among a small model's own answers to a harmless question the one that refuses is often the better one, since the other
is wrong. So comparisons of them alone teach that a refusal is rather good everywhere. A contrast asks about the refusal
alone: beside it stands an answer of somebody who knows how. Preference data of public assistants hold such borderline
questions for the same reason (Llama 2: Touvron et al. 2023, arXiv 2307.09288, section 4.2; XSTest: Röttger et al. 2023,
arXiv 2308.01263).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kweek.align.behaviour.demonstrations import Slips, answering, refusing
from kweek.align.behaviour.questions import rng
from kweek.align.behaviour.world import World
from kweek.align.environment import Item, Split

#: Both answers are well-mannered: where one forgot its ending, a labeller would choose by that.
CAREFUL = Slips(told=0, answered=0, refused=0, forgot_ending=0, said=0, rambled=0)

#: How often each group occurs: mostly where a refusal is tempting.
SHARES: Mapping[str, float] = {"help": 0.3, "lookalike": 0.3, "wrapped": 0.3, "sign": 0.1}


@dataclass(frozen=True)
class Contrast:
    """A harmless question and two answers to it, messages of the assistant.

    Attributes:
        answer: as a demonstrator gives it, with the steps that lead there.
        refusal: in the words of one of the rules.
    """

    item: Item
    answer: Mapping[str, Any]
    refusal: Mapping[str, Any]


def contrasts(world: World, key: str, count: int, split: Split) -> list[Contrast]:
    """`count` contrasts about different questions, which the key decides; both answers keep all rules about manners."""
    groups = [group for group in SHARES if group in world.groups]
    weights = [SHARES[group] for group in groups]
    found: dict[str, Contrast] = {}
    index = 0
    while len(found) < count:
        draw = rng("contrast", key, index)
        asked, item = world.asked(draw.choices(groups, weights)[0], f"{key}/{index}", split, draw)
        answer, refusal = (say(world.rules, asked, CAREFUL, draw) for say in (answering, refusing))
        found.setdefault(item.id, Contrast(item, answer, refusal))
        index += 1
    return list(found.values())
