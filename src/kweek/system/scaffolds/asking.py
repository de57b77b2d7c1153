"""How a scaffold asks a model, and how it reads the answer out of what the model says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kweek.protocols import Message
from kweek.system.context import Context
from kweek.system.samples import Sample

#: Takes the answer out of a text; None where there is none.
Read = Callable[[str], "str | None"]

_MARKS = re.compile(
    r"(?:^|\n)\s*(?:####|(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*:?)\s*(.+)", re.IGNORECASE
)
_NAME = re.compile(r"\{(\w+)\}")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True)
class Way:
    """How a model is asked.

    Attributes:
        role: which model.
        think: true opens the thinking, false closes it, None leaves it to the model.
        instruction: added to the question; empty by default, because trained models know their task.
        max_new_tokens, temperature: None takes those of the role.
        read: takes the answer out of a text; None takes `final`.
    """

    role: str = "core"
    think: bool | None = None
    instruction: str = ""
    max_new_tokens: int | None = None
    temperature: float | None = None
    read: Read | None = None

    def ask(self, context: Context, messages: Sequence[Message], n: int = 1, role: str = "") -> list[Sample]:
        """At least one sample and at most `n`; `role` takes another model. Raises as `Context.generate`."""
        return context.generate(
            role or self.role, with_instruction(messages, self.instruction), n=n,
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, think=self.think,
        )  # fmt: skip

    def answer_of(self, sample: Sample) -> str | None:
        """The answer that a sample gives; None where it gives none, as when it was cut off in its thoughts."""
        return self.reading(sample.text)

    @property
    def reading(self) -> Read:
        """What takes the answer out of a text."""
        return self.read or final


def fits(context: Context, way: Way, messages: Sequence[Message]) -> bool:
    """Whether a chat leaves room for an answer: what `way` allows for it, or half of the context."""
    role = context.role(way.role)
    new = min(way.max_new_tokens or role.max_new_tokens, role.max_positions // 2)
    return len(role.encode(messages, way.think)) + new <= role.max_positions


def with_instruction(messages: Sequence[Message], instruction: str) -> list[Message]:
    """A chat with something added to its last message."""
    if not instruction:
        return list(messages)
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last.get('content') or ''}\n\n{instruction}"}]


def with_reply(messages: Sequence[Message], reply: str, next_question: str) -> list[Message]:
    """A chat with an answer and a further question."""
    return [
        *messages,
        {"role": "assistant", "content": reply},
        {"role": "user", "content": next_question},
    ]


def filled(template: str, **values: object) -> str:
    """A template with its {names} replaced, once: what is put in is not looked at again.

    >>> filled("{a}, {b}", a="{b}", b=1)
    '{b}, 1'
    """
    return _NAME.sub(lambda match: str(values.get(match[1], match[0])), template)


def final(text: str) -> str | None:
    """The final answer: what is boxed, else what follows "Answer:" or "####", else the whole text.

    >>> final("2 + 2 is 4.\\nAnswer: 4"), final("so \\\\boxed{7}"), final(" 12 "), final("")
    ('4', '7', '12', None)
    """
    if boxed := _BOXED.findall(text):
        return str(boxed[-1]).strip() or None
    if marked := _MARKS.findall(text):
        return str(marked[-1]).strip() or None
    return text.strip() or None


def last_number(text: str) -> str | None:
    """The last number in a text.

    >>> last_number("3 and 1,200.5 in all"), last_number("none")
    ('1,200.5', None)
    """
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def key(answer: str) -> str:
    """What equal answers have in common: numbers by value, words without case, spaces and a full stop at the end.

    >>> key("1,200.50") == key("1200.5"), key("The cat. ") == key("the  cat"), key("1/2") == key("0.5")
    (True, True, True)
    """
    plain = " ".join(answer.split()).rstrip(".!").casefold()
    digits = plain.replace(",", "").replace("−", "-").lstrip("$€£").strip()
    if _NUMBER.fullmatch(digits):
        top, _, bottom = digits.partition("/")
        if not bottom or int(bottom):
            return str(Fraction(top) / Fraction(bottom or "1"))
    return plain
