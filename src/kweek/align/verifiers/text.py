"""Texts that must be equal: to the letter, or but for case, blanks, punctuation and articles."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

from kweek.align.verifiers.reading import Reading, final_answer
from kweek.align.verifiers.verdict import UNREADABLE, failed, judged
from kweek.protocols import Score

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Text:
    """1 when the answer is the gold text, or one of several.

    Attributes:
        normalise: compare what `normalised` leaves of both; by default, because a model has no say in the capitals
            of a gold answer.
        many: the gold is a JSON list of texts of which each is right; off by default, because a text may begin with [.
        reading: where the answer stands.
    """

    normalise: bool = True
    many: bool = False
    reading: Reading = "whole"

    def __call__(self, answer: str, gold: str) -> Score:
        golds = _several(gold) if self.many else [gold]
        if golds is None:
            return failed("the gold answer is no JSON list of texts")
        wanted = {normalised(text) if self.normalise else text.strip() for text in golds}
        if not all(wanted):
            return failed(f"nothing is left of the gold answer {gold[:40]!r} to compare with")
        said = final_answer(answer, self.reading)
        if said is None:
            return UNREADABLE
        return judged((normalised(said) if self.normalise else said) in wanted)


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks (SQuAD's measure, arXiv 1606.05250), Unicode's NFKC.

    A sign or point before a digit stays: -5 is not 5.

    >>> normalised("The  “Blue” Whale."), normalised("-1.5")
    ('blue whale', '-1.5')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(
        " "
        if unicodedata.category(letter)[0] in "PZC" and not (letter in ".,-" and after.isdigit())
        else letter
        for letter, after in zip(folded, folded[1:] + " ", strict=False)
    )
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _several(gold: str) -> list[str] | None:
    try:
        texts = json.loads(gold)
    except (ValueError, RecursionError):
        return None
    right = isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)
    return texts if right else None
