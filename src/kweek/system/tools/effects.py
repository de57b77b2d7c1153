"""What a tool may do to the world, what a system lets it do, and what a conversation has read.

Words in front of a model decide what it does, whoever wrote them: a model is taken to obey every instruction that it
reads. So nothing here depends on the model. An effect that is not granted does not happen; and what is private does
not leave together with a stranger's instructions (the "rule of two" for agents, Meta 2025; the "lethal trifecta",
Willison 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kweek.errors import ConfigError

#: Reads what belongs to the user; writes it; sends something out of this machine or takes it in; runs programs.
Effect = Literal["read", "write", "net", "exec"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)

#: Of an effect: never; a person is asked each time; as often as wanted, but a person is asked before something goes out
#: once private and untrusted text are both in the conversation; the same without that question.
Grant = Literal["deny", "ask", "allow", "unguarded"]

#: What a person says: this once; this tool for this reason from now on; no.
Verdict = Literal["once", "always", "deny"]


@dataclass(frozen=True)
class Question:
    """What a person is asked before a call is made.

    Attributes:
        tool: its name.
        arguments: as the model gave them; they may hold anything, control characters among it.
        effects: what the tool does.
        why: the reason for asking, a clause.
    """

    tool: str
    arguments: Mapping[str, Any]
    effects: frozenset[Effect]
    why: str


#: The face that asks a person. Only one question is asked at a time.
Approve = Callable[[Question], Verdict]


@dataclass
class Seen:
    """What a conversation holds so far.

    Attributes:
        private: something that belongs to the user and was read by a tool.
        untrusted: something that a stranger may have written.
    """

    private: bool = False
    untrusted: bool = False

    def add(self, *, private: bool = False, untrusted: bool = False) -> None:
        """Something more is in the conversation; it never leaves it again."""
        self.private |= private
        self.untrusted |= untrusted


def checked_grants(grants: Mapping[Effect, Grant]) -> dict[Effect, Grant]:
    """One grant for each effect; what is not named is denied.

    Raises:
        ConfigError: an effect or a grant that there is not.
    """
    for effect, grant in grants.items():
        if effect not in EFFECTS:
            raise ConfigError(
                f"there is no effect {effect!r}", where="grants", fix=f"use {', '.join(EFFECTS)}"
            )
        if grant not in get_args(Grant):
            known = ", ".join(get_args(Grant))
            raise ConfigError(f"{grant!r} cannot be granted", where=f"grants.{effect}", fix=f"use {known}")
    return {effect: grants.get(effect, "deny") for effect in EFFECTS}


def denied(effects: frozenset[Effect], grants: Mapping[Effect, Grant]) -> list[Effect]:
    """The effects that this system does not grant."""
    return [effect for effect in EFFECTS if effect in effects and grants[effect] == "deny"]


def reason_to_ask(effects: frozenset[Effect], grants: Mapping[Effect, Grant], seen: Seen) -> str | None:
    """Why a person must be asked before effects that are not denied; None where nobody need be."""
    asked = [effect for effect in EFFECTS if effect in effects and grants[effect] == "ask"]
    if asked:
        return f"this system asks before {' and '.join(asked)}"
    if "net" in effects and grants["net"] == "allow" and seen.private and seen.untrusted:
        return "the conversation holds private text and text of strangers, and this sends something out"
    return None
