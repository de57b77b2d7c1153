"""The examination of one model: everything about it that the stage `evaluate` compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kweek.align.verifier import whole_number
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.evaluate.problems import Asker, Outcome, attempt, majority_of, pass_at_k
from kweek.protocols import Completion, Request
from kweek.recipe.materials import load, validation_texts
from kweek.recipe.pretraining import evaluate_bits
from kweek.store.artifact import Artifact
from kweek.system.calculator import Calculator

VOTES = (1, 4, 16)
SAMPLES = 16
NUM_TRANSCRIPTS = 10


@dataclass(frozen=True)
class Exam:
    """What to ask one model. `base` has seen no chat and is asked to continue plain text."""

    model: Path
    corpus: Path
    num_problems: int
    num_votes: int
    base: bool
    votes: bool
    elsewhere: bool
    bits_bytes: int
    key: str


def examine(exam: Exam) -> dict[str, Any]:
    """Ask everything; plain data, item by item, so that models can be compared on the same items."""
    network, tokenizer = load(exam.model)
    engine = _Counted(network)
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer), kind="document" if exam.base else "chat")
    items = stories.problems("evaluate", exam.num_problems, "test")
    held_out = [group[0] for group in attempt(engine, asker, items)]
    texts = validation_texts(Artifact.open(exam.corpus), exam.bits_bytes, "test")
    report: dict[str, Any] = {
        "held_out": _answers(held_out),
        "cost": {
            "flop": sum(o.flop for o in held_out) / len(held_out),
            "tokens": sum(o.num_new_tokens for o in held_out) / len(held_out),
        },
        "transcripts": [
            {
                "question": o.problem.question,
                "gold": o.problem.answer,
                "transcript": o.transcript,
                "answer": o.answer,
                "correct": o.correct,
            }
            for o in held_out[:NUM_TRANSCRIPTS]
        ],
        "bits": {
            source: {
                "value": r.value,
                "lo": r.interval.lo,
                "hi": r.interval.hi,
                "bytes": r.num_bytes,
                "document_bits": r.document_bits.tolist(),
                "document_bytes": r.document_bytes.tolist(),
            }
            for source, r in evaluate_bits(network, tokenizer, texts).items()
        },
    }
    if not exam.base:
        opening = (tokenizer.special["<think>"], tokenizer.special["<tool>"])
        forced = Asker(tokenizer, whole_number, Calculator(tokenizer), beginning=opening)
        report["forced_tool"] = _answers([group[0] for group in attempt(engine, forced, items)])
    if exam.elsewhere:
        report["elsewhere"] = {
            name: _answers([group[0] for group in attempt(engine, asker, probe)])
            for name, probe in {
                "unseen_wording": stories.problems("unseen", exam.num_votes, "test", wording="unseen"),
                "five_steps": stories.problems("five", exam.num_votes, "test", levels=(5,)),
                "bare_sums": stories.problems("sums", exam.num_votes, "test", share_sums=1.0),
            }.items()
        }
    if exam.votes:
        groups = attempt(
            engine, asker, items[: exam.num_votes], samples=SAMPLES, temperature=1.0, key=exam.key
        )
        report["votes"] = {
            str(k): {
                "majority": [majority_of(group, k) for group in groups],
                "pass": [pass_at_k(group, k) for group in groups],
            }
            for k in VOTES
        }
    report["flop"] = engine.flop
    return report


class _Counted(Engine):
    """An engine that adds up the FLOP of all its answers."""

    flop = 0.0

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """See `Engine.generate`."""
        done = super().generate(requests, on_token)
        self.flop += sum(completion.flop for completion in done)
        return done


def _answers(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "correct": [o.correct for o in outcomes],
        "level": [o.problem.level for o in outcomes],
        "tool_share": sum(o.used_tool for o in outcomes) / len(outcomes),
        "parsed_share": sum(o.parsed for o in outcomes) / len(outcomes),
    }
