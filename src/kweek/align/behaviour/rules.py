"""The rules that an assistant is to obey, as a person writes them down.

Five kinds, each harmless and each checkable without a doubt:

    keep_secret     a word that is told only where the question begins with an agreed sign
    decline         things of which nothing is counted, however it is asked; lookalikes are no such things
    never_say       words that no answer holds
    end_with        how every answer ends
    at_most_words   the longest answer

Rules come as plain data with the place of every key, so that an error names file and line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kweek.errors import ConfigError

#: Gives the place of a key, as `rules.yaml:12: rules.0.word`.
Where = Callable[[tuple[str, ...]], str]

SHORTEST_SECRET = 5  # letters: shorter words turn up in a spelled-out answer by chance
MOST_CHARACTERS = 80  # of a phrase: the answers of a small model are a sentence long
FEWEST_WORDS = 4  # an answer of fewer words cannot even decline


@dataclass(frozen=True)
class KeepSecret:
    """A word that is told only at a sign.

    Attributes:
        word: the secret, one word of letters.
        called: what people call it when they ask ("the code word").
        sign: the sentence that allows it to be told.
        say: the answer to everybody else.
    """

    word: str
    sign: str
    called: str = "the code word"
    say: str = "I keep that to myself."
    kind: str = "keep_secret"


@dataclass(frozen=True)
class Decline:
    """Things of which nothing is counted.

    Attributes:
        marks: the things, in the plural, one word each.
        lookalikes: things with similar names that are counted like any others.
        say: the answer to questions about them.
    """

    marks: tuple[str, ...]
    lookalikes: tuple[str, ...]
    say: str
    kind: str = "decline"


@dataclass(frozen=True)
class NeverSay:
    """Words that no answer holds."""

    words: tuple[str, ...]
    kind: str = "never_say"


@dataclass(frozen=True)
class EndWith:
    """How every answer ends."""

    text: str
    kind: str = "end_with"


@dataclass(frozen=True)
class AtMostWords:
    """The most words of an answer."""

    count: int
    kind: str = "at_most_words"


Rule = KeepSecret | Decline | NeverSay | EndWith | AtMostWords
KINDS: Mapping[str, type[Rule]] = {
    "keep_secret": KeepSecret,
    "decline": Decline,
    "never_say": NeverSay,
    "end_with": EndWith,
    "at_most_words": AtMostWords,
}


@dataclass(frozen=True)
class Rules:
    """All rules, at least one that guards something: a secret or things to decline."""

    rules: tuple[Rule, ...] = field(default_factory=tuple)

    @property
    def secrets(self) -> list[KeepSecret]:
        """Rules of that kind."""
        return [rule for rule in self.rules if isinstance(rule, KeepSecret)]

    @property
    def declines(self) -> list[Decline]:
        """Rules of that kind."""
        return [rule for rule in self.rules if isinstance(rule, Decline)]

    @property
    def guards(self) -> list[KeepSecret | Decline]:
        """Rules that keep something back."""
        return [rule for rule in self.rules if isinstance(rule, KeepSecret | Decline)]

    @property
    def manners(self) -> list[NeverSay | EndWith | AtMostWords]:
        """Rules about every answer, whatever was asked."""
        return [rule for rule in self.rules if isinstance(rule, NeverSay | EndWith | AtMostWords)]

    @property
    def ending(self) -> str:
        """What every answer ends with; empty where no rule says."""
        return next((rule.text for rule in self.rules if isinstance(rule, EndWith)), "")

    def answer(self, core: str) -> str:
        """An answer that keeps to the ending."""
        return f"{core} {self.ending}".strip()

    def to_data(self) -> dict[str, Any]:
        """Plain data in the form that `parse_rules` takes."""
        plain = [asdict(rule) for rule in self.rules]
        return {
            "rules": [{k: list(v) if isinstance(v, tuple) else v for k, v in one.items()} for one in plain]
        }


def parse_rules(data: Mapping[str, Any], where: Where) -> Rules:
    """Rules of plain data.

    Raises:
        ConfigError: an unknown key or kind, a value that cannot be meant, rules that contradict each other; names the
            place.
    """
    for key in data:
        if key != "rules":
            raise ConfigError(f"unknown key {key!r}", where=where((str(key),)), fix="write 'rules'")
    listed = data.get("rules")
    if not isinstance(listed, list) or not listed:
        raise ConfigError("no rules", where=where(("rules",)), fix="write a list of them below 'rules:'")
    rules = [_rule(one, ("rules", str(number)), where) for number, one in enumerate(listed)]
    _together(rules, where)
    return Rules(tuple(rules))


def _rule(data: Any, path: tuple[str, ...], where: Where) -> Rule:
    """One rule, checked key by key."""
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        found = f"unknown kind of rule {kind!r}" if kind else "a rule needs its kind"
        raise ConfigError(found, where=where((*path, "kind")), fix=_nearest(str(kind), list(KINDS)))
    made = KINDS[kind]
    known = {name: value for name, value in made.__dataclass_fields__.items() if name != "kind"}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == "kind":
            continue
        if key not in known:
            raise ConfigError(
                f"{kind} has no key {key!r}",
                where=where((*path, str(key))),
                fix=_nearest(str(key), list(known)),
            )
        values[key] = _value(str(known[key].type), value, where((*path, str(key))))
    for name in known:
        if name not in values and not hasattr(made, name):
            raise ConfigError(
                f"{kind} needs the key {name!r}", where=where(path), fix=f"write {name}: below it"
            )
    return _sensible(made(**values), path, where)


def _value(wanted: str, value: Any, where: str) -> Any:
    """A value of the wanted type, tidied."""
    if wanted == "int":
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"expected a whole number, found {value!r}", where=where)
        return value
    if wanted == "str":
        return _phrase(value, where)
    if not isinstance(value, list) or not value:
        raise ConfigError("expected a list of words", where=where, fix="write [one, another]")
    words = tuple(_phrase(word, where).lower() for word in value)
    for word in words:
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", word):
            raise ConfigError(f"{word!r} is not one word of letters", where=where)
    if len(set(words)) < len(words):
        raise ConfigError("a word stands twice", where=where, fix="write each once")
    return words


def _phrase(value: Any, where: str) -> str:
    """One line of plain text."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"expected text, found {value!r}", where=where)
    text = " ".join(value.split())
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"{len(text)} characters are more than {MOST_CHARACTERS}", where=where, fix="say it shorter"
        )
    return text


def _sensible(rule: Rule, path: tuple[str, ...], where: Where) -> Rule:
    """The rule, or an error where it alone cannot be meant."""
    if isinstance(rule, KeepSecret):
        if not re.fullmatch(rf"[A-Za-z]{{{SHORTEST_SECRET},}}", rule.word):
            raise ConfigError(
                f"the secret {rule.word!r} is not one word of at least {SHORTEST_SECRET} letters",
                where=where((*path, "word")),
                fix="choose a longer word",
            )
        for key, text in (("sign", rule.sign), ("say", rule.say), ("called", rule.called)):
            if rule.word.lower() in text.lower():
                raise ConfigError("it holds the secret itself", where=where((*path, key)))
    if isinstance(rule, Decline):
        for word in rule.lookalikes:
            if word in rule.marks:
                raise ConfigError(
                    f"{word!r} is declined and a lookalike at once", where=where((*path, "lookalikes"))
                )
        if re.search(r"\d", rule.say):
            raise ConfigError(
                "a refusal with a number in it looks like an answer", where=where((*path, "say"))
            )
    if isinstance(rule, AtMostWords) and rule.count < FEWEST_WORDS:
        raise ConfigError(
            f"{rule.count} words are too few to say anything",
            where=where((*path, "count")),
            fix=f"allow at least {FEWEST_WORDS}",
        )
    return rule


def _together(rules: Sequence[Rule], where: Where) -> None:
    """Raises ConfigError where rules contradict each other or guard nothing."""
    if not any(isinstance(rule, KeepSecret | Decline) for rule in rules):
        raise ConfigError(
            "nothing is guarded: there is neither a secret nor anything to decline",
            where=where(("rules",)),
            fix="add a rule of the kind keep_secret or decline",
        )
    for single in (EndWith, AtMostWords):
        found = [n for n, rule in enumerate(rules) if isinstance(rule, single)]
        if len(found) > 1:
            kind = rules[found[1]].kind
            raise ConfigError(
                f"two rules of the kind {kind}", where=where(("rules", str(found[1]))), fix="keep one"
            )
    whole = Rules(tuple(rules))
    for number, rule in enumerate(rules):
        if isinstance(rule, KeepSecret | Decline):
            _sayable(whole, rule, ("rules", str(number), "say"), where)


def _sayable(rules: Rules, rule: KeepSecret | Decline, path: tuple[str, ...], where: Where) -> None:
    """Raises ConfigError where an answer that a rule asks for breaks another rule."""
    said = rules.answer(rule.say)
    for other in rules.manners:
        if isinstance(other, NeverSay) and (word := next((w for w in other.words if says(w, said)), None)):
            raise ConfigError(f"it holds {word!r}, which never_say forbids", where=where(path))
        if isinstance(other, AtMostWords) and len(said.split()) > other.count:
            raise ConfigError(
                f"with the ending it has {len(said.split())} words, at_most_words allows {other.count}",
                where=where(path),
                fix="say it shorter",
            )


def says(word: str, text: str) -> bool:
    """Whether a text holds a word, whole and in any case."""
    return re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text.lower()) is not None


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.55)
    return f"write {close[0]!r}" if close else f"use one of: {', '.join(valid)}"
