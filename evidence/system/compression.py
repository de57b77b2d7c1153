"""Four and five times fewer tokens of context for a model that reads: what its answers lose, and what that saves.

The set-up, plainly. A context is a whole Wikipedia article of XQuAD: five paragraphs, some 850 tokens, in their order.
Each question is answered from one of them, so four fifths of the context are beside the point, but of the same matter
with the same names. The reader is SmolLM2-135M-Instruct with an adapter trained on other articles, whole and by the
paragraph, never on compressed text. This is where extraction by question can win: the tokens that go are those that
answer other questions. Two rows beside it show where it cannot: a context of the right paragraph alone, and
compressors that are not told the question.

Tokens are those of whole prompts as the reader gets them: system message, context, question, template. A right answer
is SQuAD's exact match. The difference is paired by question; its interval takes questions as independent, the one by
article (48 clusters at most) stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import reader
import torch
from harness import evidence, kept
from xquad import Article, Question, absent, articles, drawn, f1

from kweek.align.verifiers.text import Text
from kweek.stats.intervals import wilson
from kweek.stats.paired import paired_difference
from kweek.system.compression.chat import compress_chat
from kweek.system.compression.compressor import Compressor, Settings
from kweek.system.compression.report import Compressed, break_even, questions_to_cache, reading
from kweek.system.compression.segments import segments

NAME = "system/compression"
LOSS, RATIO, GOAL, LEAST = 0.03, 4.0, 5.0, 400
READS = 0.3  # exact match on the right paragraph alone, below which a model does not read
TRAINED_SHARE = 0.4  # of the articles
QUESTIONS, QUICK_QUESTIONS = 640, 5
ASKING, QUICK_ASKING = (
    60,
    2,
)  # questions for compression with the question by perplexity, which reads every context twice
BESIDE = 40  # tokens of a prompt besides its context, for compressors that are told no question
MARGIN = 1.04  # aimed beyond the ratio, since a template's tokens are not of any text
PART = 160  # questions of a part that is kept

Made = tuple[str, Compressed | None]
Make = Callable[[Article, Question], Made]


class Conditions:
    """The contexts that a question is put to, by name."""

    def __init__(self, model: reader.Reader) -> None:
        self._model, self._blind = model, dict[tuple[str, str], Made]()
        self._count = Compressor(Settings(), model.tokenizer).count

    def all(self, quick: bool) -> dict[str, Make]:
        """By name; the first is what the others are compared with."""
        extracted = {
            f"extract {ratio:g}": self._extract(ratio) for ratio in ((4,) if quick else (4, 5, 2, 8))
        }
        return {
            "whole article": lambda article, _: (article.text, None),
            **extracted,
            "lead 4": self._lead,
            "blind perplexity 4": self._blindly,
            "perplexity 4": self._perplexity,
            "right paragraph": lambda article, question: (article.paragraphs[question.paragraph], None),
            "right paragraph, extract 2": self._paragraph,
        }

    def _settings(self, ratio: float, **more: Any) -> Settings:
        return Settings(ratio * MARGIN, min_tokens=1, **more)

    def _extract(self, ratio: float) -> Make:
        compressor = Compressor(self._settings(ratio), self._model.tokenizer)
        return lambda article, question: self._as_chat(compressor, article.text, question)

    def _paragraph(self, article: Article, question: Question) -> Made:
        compressor = Compressor(self._settings(2), self._model.tokenizer)
        return self._as_chat(compressor, article.paragraphs[question.paragraph], question)

    def _perplexity(self, article: Article, question: Question) -> Made:
        settings = self._settings(RATIO, method="perplexity")
        compressor = Compressor(settings, self._model.tokenizer, self._model.engine)
        return self._as_chat(compressor, article.text, question)

    def _as_chat(self, compressor: Compressor, context: str, question: Question) -> Made:
        """As a chat is compressed by the proxy: the question is found there."""
        chat = compress_chat(compressor, reader.chat(context, question.text))
        end = f"{reader.APART}Question: {question.text}"
        content = chat.messages[-1]["content"]
        assert content.endswith(end), "the question stays to the letter"
        return content.removesuffix(end), chat.context

    def _lead(self, article: Article, question: Question) -> Made:
        """The first sentences, as many as fit: what cutting a prompt off does."""
        budget = (self._count(article.text) + BESIDE) / (RATIO * MARGIN) - BESIDE
        end = 0
        for part in segments(article.text):
            if self._count(article.text[: part.span.end]) > budget:
                break
            end = part.span.end
        return article.text[:end], None

    def _blindly(self, article: Article, question: Question) -> Made:
        """By perplexity without the question: once for an article."""
        key = ("blind", article.text)
        if key not in self._blind:
            settings = self._settings(RATIO, method="perplexity")
            use = Compressor(settings, self._model.tokenizer, self._model.engine)(
                article.text, "", beside=BESIDE
            )
            self._blind[key] = use.text, use
        return self._blind[key]


def ask(model: reader.Reader, make: Make, chosen: Sequence[tuple[Article, Question]]) -> list[dict[str, Any]]:
    """One part of a condition: a row for each question."""
    made = [make(article, question) for article, question in chosen]
    chats = [
        reader.chat(context, question.text) for (context, _), (_, question) in zip(made, chosen, strict=True)
    ]
    rows = model.answer(chats)
    for row, (context, use), (_, question) in zip(rows, made, chosen, strict=True):
        row |= {
            "id": question.id,
            "right": Text()(row["answer"], question.answer).value,
            "f1": f1(row["answer"], question.answer),
            "holds": question.answer in context,
        }
        if use is not None:
            row |= {"use": use.to_dict() | {"kept": None}}
    return rows


def told(
    name: str, rows: list[dict[str, Any]], every: list[dict[str, Any]], place: dict[str, int]
) -> dict[str, Any]:
    """A condition beside what it compresses, on the questions that both were asked.

    Args:
        every: the rows of that.
        place: number of the article of each question.
    """
    by_id = {row["id"]: row for row in every}
    whole, of = [by_id[row["id"]] for row in rows], [place[row["id"]] for row in rows]
    right, before = [row["right"] for row in rows], [row["right"] for row in whole]
    same = [Text()(a["answer"], b["answer"]).value for a, b in zip(rows, whole, strict=True)]
    found: dict[str, Any] = {
        "n": len(rows),
        "tokens": mean(row["tokens"] for row in rows),
        "ratio": sum(row["tokens"] for row in whole) / sum(row["tokens"] for row in rows),
        "exact_match": list(wilson(round(sum(right)), len(right))),
        "f1": mean(row["f1"] for row in rows),
        "answer_still_there": mean(row["holds"] for row in rows),
        "agreement": list(wilson(round(sum(same)), len(same))),
        "change": paired_difference(right, before)._asdict(),
        "change_of_f1": paired_difference([r["f1"] for r in rows], [r["f1"] for r in whole])._asdict(),
    }
    groups = sorted(set(of))
    if len(groups) > 1:
        shares = [
            [mean(v for v, number in zip(values, of, strict=True) if number == group) for group in groups]
            for values in (right, before)
        ]
        counts = [of.count(group) for group in groups]
        found["change_by_article"] = paired_difference(*shares, weights=counts)._asdict()
    uses = [row["use"] for row in rows if "use" in row]
    if uses:
        total: dict[str, list[int]] = {}
        for use in uses:
            for kind, (held, there) in use["protected"].items():
                before_it = total.get(kind, [0, 0])
                total[kind] = [before_it[0] + held, before_it[1] + there]
        found |= {
            "protected_kept": total,
            "flop_per_question": mean(use["flop"] for use in uses),
            "seconds_per_question": mean(use["seconds"] for use in uses),
            "left_as_they_were": sum(use["method"] is None for use in uses),
        }
    return found | {"name": name}


def costs(model: reader.Reader, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """FLOP of reading before and after, and from what length, and for how many questions, compression pays."""
    flop_of = reading(model.config)
    found: dict[str, Any] = {"questions_at_which_a_cache_is_cheaper": questions_to_cache(RATIO)}
    whole = rows["whole article"]["tokens"]
    for name, row in rows.items():
        if "flop_per_question" not in row or name.startswith("right"):
            continue
        per_token = row["flop_per_question"] / whole
        found[name] = {
            "reading_saved": flop_of(whole) - flop_of(row["tokens"]),
            "compressing": row["flop_per_question"],
            "break_even_tokens": break_even(lambda n, c=per_token: c * n, flop_of, row["ratio"]),
        }
    return found


def run(quick: bool) -> dict[str, Any]:
    """One reader; when quick the model as it comes and a dozen questions, which shows that it runs and no more."""
    if reason := absent():
        waits = {"passed": False, "waits": f"for: {reason}"}
        return {"ours": None, "reference": -LOSS, "unit": "change of exact match", **waits}
    torch.set_num_threads(1)
    every = articles()
    border = round(TRAINED_SHARE * len(every))
    folder, teaching = (None, {}) if quick else reader.taught(NAME, every[:border], seed=0)
    model = reader.Reader(folder)
    place = {question.id: n for n, article in enumerate(every) for question in article.questions}
    held_out = [question for article in every[border:] for question in article.questions]
    chosen = drawn(held_out, QUICK_QUESTIONS if quick else QUESTIONS)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, make in Conditions(model).all(quick).items():
        most = min(QUICK_ASKING if quick else ASKING, len(chosen)) if name == "perplexity 4" else len(chosen)
        found[name] = []
        for start in range(0, most, PART):
            part = sorted(chosen[start : min(start + PART, most)], key=lambda question: place[question.id])
            asked = [(every[place[question.id]], question) for question in part]
            file = f"{name.replace(' ', '-').replace(',', '')}-{start}{'-quick' if quick else ''}"
            found[name] += kept(NAME, file, ask, model, make, asked)
    rows = {name: told(name, group, found[_base(name)], place) for name, group in found.items()}
    ours = rows["extract 4"]
    reads = rows["right paragraph"]["exact_match"][0] >= READS
    return {
        "ours": ours["change"]["difference"],
        "reference": -LOSS,
        "unit": f"change of exact match at {ours['ratio']:.2f} times fewer tokens",
        "difference": ours["change"]["difference"] + LOSS,
        "interval": [ours["change"]["lo"], ours["change"]["hi"]],
        "n": ours["n"],
        "seeds": [0],
        "details": {
            "reader": teaching,
            "conditions": list(rows.values()),
            "costs": costs(model, rows),
            "goal_reached": bool("extract 5" in rows and _holds(rows["extract 5"], GOAL)),
            "reads": reads,
        },
        "passed": reads and ours["n"] >= LEAST and _holds(ours, RATIO),
    }


def _base(name: str) -> str:
    """What a condition is compared with: what it compresses."""
    return name.partition(", extract")[0] if name.startswith("right paragraph,") else "whole article"


def _holds(row: dict[str, Any], ratio: float) -> bool:
    return row["ratio"] >= ratio and row["change"]["lo"] > -LOSS


if __name__ == "__main__":
    evidence(
        NAME,
        claim="with a model that reads, four times fewer tokens by extraction: the lower bound of the change of "
        "accuracy is above -3 points on 400 questions or more; goal five times",
        run=run,
    )
