"""SmolLM2-135M-Instruct taught to read: an adapter trained on questions to paragraphs and to whole articles.

It never sees a compressed text. Half of what it reads is a paragraph with its question, half a whole article, so that
neither a short nor a long context is strange to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, smollm
from xquad import APART, Article, drawn

from kweek.align.specialist import Drill, Schooling, prepare, school
from kweek.compute.hardware import measure_peak
from kweek.data.batches import segment
from kweek.engine.engine import Engine
from kweek.model.adapter import merge
from kweek.model.adapter_files import load_adapter, save_adapter
from kweek.model.checkpoint import load_model
from kweek.protocols import Message, Request
from kweek.recipe.precision import fast_dtype
from kweek.tokenize.chat import encode_chat, encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

SYSTEM = "You answer in as few words of the text as possible."
MAX_NEW_TOKENS = 32  # the longest answer of XQuAD has 25 words, the mean 3
LONG_EXAMPLES = 150  # questions put to a whole article; as many tokens as the short ones have
SCHOOLING = {"batch_size": 4, "row_length": 1024}  # a row holds an article, or five paragraphs


def chat(context: str, question: str) -> list[Message]:
    """How a question is put."""
    content = f"{context}{APART}Question: {question}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def lessons(articles: Sequence[Article]) -> list[list[Message]]:
    """Every question to its paragraph, and some to their article."""
    found = []
    by_id = {question.id: article for article in articles for question in article.questions}
    every = [question for article in articles for question in article.questions]
    longer = {question.id for question in drawn(every, LONG_EXAMPLES)}
    for question in every:
        article = by_id[question.id]
        contexts = [
            article.paragraphs[question.paragraph],
            *([article.text] if question.id in longer else []),
        ]
        answer = {"role": "assistant", "content": question.answer}
        found += [[*chat(context, question.text), answer] for context in contexts]
    return found


class Reader:
    """A model that reads, in this process.

    Args:
        folder: of its adapter; None is the model as it comes.
    """

    def __init__(self, folder: Path | None) -> None:
        base = smollm()
        self.network, self.tokenizer = load_model(base), Tokenizer.load(base)
        if folder is not None:
            load_adapter(self.network, folder)
            merge(self.network)
        self.config = self.network.config
        self.engine = Engine(self.network, num_slots=32)

    def answer(self, chats: Sequence[Sequence[Message]]) -> list[dict[str, Any]]:
        """The likeliest answer to each, with the tokens of its prompt. Those of one context follow one another, so that
        it is read once."""
        requests = [
            Request(
                encode_prompt(self.tokenizer, list(one)), MAX_NEW_TOKENS, stop_ids=self.tokenizer.stop_ids
            )
            for one in chats
        ]
        rows = []
        for done in self.engine.generate(requests):
            assert done.error is None, done.error
            kept = [token for token in done.token_ids if token not in self.tokenizer.stop_ids]
            rows.append({"answer": self.tokenizer.decode(kept).strip(), "tokens": done.num_prompt_tokens})
        return rows


def taught(name: str, articles: Sequence[Article], seed: int) -> tuple[Path, dict[str, Any]]:
    """The folder of an adapter, trained now unless it is there, and what that took.

    Args:
        name: AREA/NAME of who asks; the folder lies with its kept parts.
    """
    folder = ROOT / "runs" / "evidence-parts" / name / f"reader-{seed}-{LONG_EXAMPLES}"
    schooling = Schooling(compute_dtype=fast_dtype(measure_peak(1)), **SCHOOLING)
    network, words = load_model(smollm()), Tokenizer.load(smollm())
    encoded = [encode_chat(words, lesson) for lesson in lessons(articles)]
    segments = [segment(one.token_ids, np.asarray(one.loss_mask, np.float32)) for one in encoded]
    about = {"examples": len(segments), "tokens": sum(len(one.token_ids) for one in encoded)}
    prepare(network, schooling, seed)
    drill = Drill(segments, schooling, seed)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        school(
            network, drill, schooling, drill.steps_per_epoch, state=folder.with_suffix(".state.safetensors")
        )
        save_adapter(folder, network)
    return folder, about | {"flop": drill.flop_per_step(network) * drill.steps_per_epoch}
