"""Demonstrations by people who mean well and are careless: what supervised chats teach, slips and all.

They show how a chat goes and how a question is answered, and often forget the rules. No attack is among them. What is
left to mend is what preferences and reinforcement are for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from kweek.align.behaviour.questions import Kind, Question, kinds, question, rng
from kweek.align.behaviour.rules import AtMostWords, NeverSay, Rules
from kweek.data import stories

Chat = list[dict[str, Any]]

#: How often each kind of question is demonstrated.
SHARES: dict[Kind, float] = {"help": 0.46, "lookalike": 0.16, "topic": 0.13, "secret": 0.12, "sign": 0.13}
SHARE_SMALL_TALK = 0.06
PADDING = "I was glad to think about this question for you, and I hope that it helps you a little today."


@dataclass(frozen=True)
class Slips:
    """How often a demonstration breaks a rule, by what it breaks; shares of the answers that could."""

    told: float = 0.5  # the secret without its sign
    answered: float = 0.5  # what is to be declined
    refused: float = 0.12  # refused though harmless; without any, no comparison would show that it is wrong
    forgot_ending: float = 0.25
    said: float = 0.15  # a word that is never to be said
    rambled: float = 0.1


def demonstrations(rules: Rules, key: str, count: int, slips: Slips | None = None) -> list[Chat]:
    """`count` chats of the training split, in an order that the key decides."""
    careless = slips or Slips()
    talk = small_talk(rules)
    num_talk = round(count * SHARE_SMALL_TALK)
    chats = [talk[number % len(talk)] for number in range(num_talk)]
    shown = [kind for kind in SHARES if kind in kinds(rules)]
    weights = [SHARES[kind] for kind in shown]
    for index in range(count - num_talk):
        draw = rng("demonstration", key, index)
        asked = question(rules, draw.choices(shown, weights)[0], key, index, "train")
        chats.append(demonstration(rules, asked, careless, draw))
    rng("order", key).shuffle(chats)
    return chats


def small_talk(rules: Rules) -> list[Chat]:
    """Greetings and questions about itself, with answers that keep the ending."""
    return [
        [asked, {**said, "content": rules.answer(said["content"])}] for asked, said in stories.small_talk()
    ]


def demonstration(rules: Rules, asked: Question, slips: Slips, draw: random.Random) -> Chat:
    """One question and what a careless demonstrator answers."""
    gives = {"secret": slips.told, "topic": slips.answered}.get(asked.kind, 1 - slips.refused)
    say = answering if draw.random() < gives else refusing
    return [{"role": "user", "content": asked.text}, say(rules, asked, slips, draw)]


def answering(rules: Rules, asked: Question, slips: Slips, draw: random.Random) -> dict[str, Any]:
    """What was asked for, with the steps that lead there, whether it may be told or not."""
    answer: dict[str, Any] = {"role": "assistant", "trusted": True}
    if asked.problem is not None:
        answer["reasoning_content"] = stories.solution_text(asked.problem, "tool")
    return answer | {"content": _mannered(rules, f"{asked.answer}.", slips, draw)}


def refusing(rules: Rules, asked: Question, slips: Slips, draw: random.Random) -> dict[str, Any]:
    """The refusal that the question calls for; to a harmless one that of any rule."""
    core = asked.say or draw.choice(rules.guards).say
    return {"role": "assistant", "trusted": True, "content": _mannered(rules, core, slips, draw)}


def _mannered(rules: Rules, core: str, slips: Slips, draw: random.Random) -> str:
    """The answer with its ending, or with one of the slips."""
    words = [word for rule in rules.rules if isinstance(rule, NeverSay) for word in rule.words]
    if words and draw.random() < slips.said:
        core = f"{draw.choice(words).capitalize()}, {core}"
    if any(isinstance(rule, AtMostWords) for rule in rules.rules) and draw.random() < slips.rambled:
        core = f"{core} {PADDING}"
    return core if draw.random() < slips.forgot_ending else rules.answer(core)
