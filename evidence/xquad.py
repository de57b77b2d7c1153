"""XQuAD English from the folder that KWEEK_DATA names: 48 articles of five paragraphs, 1,190 questions.

XQuAD is CC BY-SA 4.0; nothing of it is stored here. Its paragraphs are of Wikipedia, its questions SQuAD v1.1's.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kweek.align.verifiers.text import normalised

FILE = "xquad/xquad.en.json"
APART = "\n\n"


@dataclass(frozen=True)
class Question:
    """One question. `start` is where the answer stands in its article."""

    id: str
    text: str
    answer: str
    paragraph: int
    start: int


@dataclass(frozen=True)
class Article:
    """Five paragraphs and the questions to them."""

    paragraphs: tuple[str, ...]
    questions: tuple[Question, ...]

    @property
    def text(self) -> str:
        """All paragraphs in their order."""
        return APART.join(self.paragraphs)

    @property
    def place(self) -> float:
        """A hash of the text in [0, 1): splits go by it."""
        return int(hashlib.sha256(self.text.encode()).hexdigest()[:8], 16) / 16**8


def absent() -> str:
    """Why there is no XQuAD; "" where there is."""
    folder = os.environ.get("KWEEK_DATA")
    if folder and (Path(folder) / FILE).is_file():
        return ""
    return f"KWEEK_DATA names no folder with {FILE}"


def articles() -> list[Article]:
    """All of them, by their hash."""
    data = json.loads((Path(os.environ["KWEEK_DATA"]) / FILE).read_text(encoding="utf-8"))["data"]
    found = []
    for entry in data:
        texts = tuple(paragraph["context"] for paragraph in entry["paragraphs"])
        questions: list[Question] = []
        at = 0
        for number, paragraph in enumerate(entry["paragraphs"]):
            for qa in paragraph["qas"]:
                answer = qa["answers"][0]
                start = at + answer["answer_start"]
                questions.append(Question(qa["id"], qa["question"].strip(), answer["text"], number, start))
            at += len(texts[number]) + len(APART)
        found.append(Article(texts, tuple(questions)))
    return sorted(found, key=lambda article: article.place)


def f1(answer: str, gold: str) -> float:
    """Overlap of words (SQuAD v1.1, arXiv 1606.05250, section 6.1)."""
    said, right = normalised(answer).split(), normalised(gold).split()
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


def drawn(questions: Sequence[Question], most: int) -> list[Question]:
    """At most so many, by the hash of their ids."""
    return sorted(questions, key=lambda question: hashlib.sha256(question.id.encode()).digest())[:most]
