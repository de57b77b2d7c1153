"""Questions with options, answered by which option a model finds likeliest: cheap, without any format to learn first.

So a model that was taught to answer in one way can still be asked what it knows. The likelihood of an option is divided
by its bytes, else the shortest would win.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kweek.errors import DataError
from kweek.protocols import LanguageModel
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Choice:
    """A question, its right answer and wrong ones. Without a question whole sentences are compared, as plain text."""

    question: str
    right: str
    wrong: tuple[str, ...]


def general_questions() -> list[Choice]:
    """64 questions of general knowledge, four options each: most of them a model of 100M parameters knows."""
    text = resources.files("kweek.evaluate").joinpath("general.jsonl").read_text(encoding="utf-8")
    return _choices(text, "general.jsonl")


def read_choices(path: Path) -> list[Choice]:
    """Lines of JSON with `question`, `right` and `wrong`, a list.

    Raises:
        DataError: the file cannot be read, or a line is no such question; names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"it cannot be read ({error})", where=str(path), fix="check the path") from error
    return _choices(text, str(path))


def _choices(text: str, where: str) -> list[Choice]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            wrong = row["wrong"]
            if not (isinstance(wrong, list) and wrong):
                raise TypeError("no list of wrong answers")
            texts = [row.get("question", ""), row["right"], *wrong]
            if not all(isinstance(part, str) for part in texts) or not all(texts[1:]):
                raise TypeError("answers are text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fix = 'write {"question": …, "right": …, "wrong": [ … ]}'
            raise DataError(
                f"no question with options ({error})", where=f"{where}, line {number}", fix=fix
            ) from None
        found.append(Choice(texts[0], texts[1], tuple(wrong)))
    if not found:
        raise DataError("there are no questions", where=where, fix="give one per line")
    return found


def chosen_rightly(model: LanguageModel, tokenizer: Tokenizer, choices: Sequence[Choice]) -> list[float]:
    """1.0 for every question whose right answer is the likeliest of its options, else 0.0."""
    sequences: list[list[int]] = []
    starts: list[int] = []
    for choice in choices:
        if choice.question:
            prompt = encode_prompt(tokenizer, [{"role": "user", "content": choice.question}])
        else:
            prompt = [tokenizer.eos_id]
        for option in (choice.right, *choice.wrong):
            sequences.append([*prompt, *tokenizer.encode(option)])
            starts.append(len(prompt))
    scored = iter(zip(model.score(sequences), starts, strict=True))
    found = []
    for choice in choices:
        likelihoods = []
        for option in (choice.right, *choice.wrong):
            values, start = next(scored)
            likelihoods.append(sum(values[start:]) / len(option.encode()))
        found.append(float(likelihoods[0] > max(likelihoods[1:])))
    return found
