"""Multiple choice: the answer names one option, by its letter or by its text, and no other."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kweek.align.verifiers.reading import MAX_ANSWER_CHARS, bare, final_answer
from kweek.align.verifiers.text import normalised
from kweek.align.verifiers.verdict import UNREADABLE, failed, judged
from kweek.errors import ConfigError
from kweek.protocols import Score

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")
_LEADING = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[).:])\s{1,3}(?=\S)")
_CLAIM = re.compile(r"\b(?:answer|option|choice)\b\s{0,3}(?:is\b|:|=)?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?]\s")
_LETTER = re.compile(r"(?<![A-Za-z'])([A-Z])(?![A-Za-z'])")


@dataclass(frozen=True)
class Choice:
    """1 when the answer names the gold option and no other.

    Read are: a letter alone ("B", "(b)", "B.", in a box), a letter before a text ("B) red"), a claim ("The answer is
    (B)"), the text of exactly one option. Answers that name several options are no answer, so a list of all letters
    earns nothing.

    Attributes:
        options: their texts in the order of the letters; without them only letters are read.
        num_options: how many there are where no texts are given; 26 by default, as many as there are letters.
    """

    options: tuple[str, ...] = ()
    num_options: int = len(LETTERS)

    def __post_init__(self) -> None:
        texts = [normalised(option) for option in self.options]
        if len(self.options) > len(LETTERS) or len(set(texts)) < len(texts) or not all(texts):
            raise ConfigError(
                "the options are too many, alike or empty",
                where="options",
                fix="give up to 26 different texts",
            )
        if not 2 <= self.num_options <= len(LETTERS):
            raise ConfigError(f"{self.num_options} options", where="num_options", fix="give 2 to 26")

    @property
    def _letters(self) -> str:
        return LETTERS[: len(self.options) or self.num_options]

    def __call__(self, answer: str, gold: str) -> Score:
        wanted = self._option(gold)
        if wanted is None:
            return failed(f"the gold answer {gold[:40]!r} is none of the options")
        said = answer.strip()
        named = self._named(said) if 0 < len(said) <= MAX_ANSWER_CHARS else set()
        return judged(named == {wanted}) if len(named) == 1 else UNREADABLE

    def _option(self, text: str) -> str | None:
        """The letter of an option given by letter or whole text."""
        if (match := _ALONE.fullmatch(bare(text))) and match[1].upper() in self._letters:
            return match[1].upper()
        return next(
            (
                letter
                for letter, option in zip(self._letters, self.options, strict=False)
                if normalised(option) == normalised(text)
            ),
            None,
        )

    def _named(self, text: str) -> set[str]:
        """Letters of the options that a text names."""
        if (whole := self._option(text)) is not None:
            return {whole}
        if (boxed := final_answer(text, "boxed")) is not None:
            return {letter} if (letter := self._option(boxed)) else set()
        claims = {
            letter
            for match in _CLAIM.finditer(text)
            for letter in _LETTER.findall(_SENTENCE_END.split(text[match.end() :], maxsplit=1)[0])
            if letter in self._letters
        }
        lines = [match for line in text.split("\n") if (match := _LEADING.match(line.lstrip()))]
        leading = {(match[1] or match[2]).upper() for match in lines} & set(self._letters)
        return claims or leading or self._texts(text)

    def _texts(self, text: str) -> set[str]:
        """Options whose text stands in a text, other than within that of a longer one."""
        rest = f" {normalised(text)} "
        found = set()
        by_length = sorted(
            zip(self._letters, self.options, strict=False), key=lambda pair: -len(normalised(pair[1]))
        )
        for letter, option in by_length:
            if (sought := f" {normalised(option)} ") in rest:
                found.add(letter)
                rest = rest.replace(sought, " | ")
        return found
