"""Sequence distillation: a pupil is trained, like on any chats, on answers that a teacher has sampled.

(Kim & Rush 2016, "Sequence-Level Knowledge Distillation", arXiv 1606.07947.) It is the one distillation that crosses
tokenizers, since text passes from one to the other, and the one that a teacher behind a plain chat endpoint allows.
With one tokenizer the teacher's very tokens are taken. Answers that were cut off, empty or said before teach nothing
good; they are left out and counted, as are those that the caller's own judge does not keep.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kweek.align.rollout import Rollout
from kweek.align.turns import answer_of
from kweek.data.batches import Segment, segment
from kweek.engine.endpoint.model import Answer
from kweek.errors import KweekError
from kweek.protocols import LanguageModel, Message, Request, TokenInterceptor
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

Chat = list[dict[str, Any]]


@dataclass(frozen=True)
class Lesson:
    """What a teacher's answers are good for.

    Attributes:
        chats, segments: to learn from; one of the two.
        left_out: answers that were not taken, by reason.
    """

    chats: list[Chat] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def ask(
    teacher: LanguageModel,
    tokenizer: Tokenizer,
    chats: Sequence[Sequence[Message]],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,  # the teacher's own distribution
    key: str = "teacher",
    interceptor: TokenInterceptor | None = None,
) -> list[Answer]:
    """Let a model in token ids answer chats, as `EndpointModel.answer` does with a remote one.

    Args:
        teacher, tokenizer: belong together; the pupil's tokenizer may be another.
        key: seeds depend on it and on the chat.

    Raises:
        KweekError: an answer could not be generated.
    """
    requests = [
        Request(
            encode_prompt(tokenizer, chat), max_new_tokens, temperature, seed_of(key, chat), tokenizer.stop_ids,
            interceptor,
        )
        for chat in chats
    ]  # fmt: skip
    answers = []
    for request, done in zip(requests, teacher.generate(requests), strict=True):
        if done.error is not None:
            raise KweekError(done.error)
        message = answer_of(tokenizer, done.token_ids, request.prompt_ids)
        answers.append(Answer(message, done.stop_reason, done.num_prompt_tokens, len(done.token_ids)))
    return answers


def seed_of(key: str, chat: Sequence[Message]) -> int:
    """A seed for the answer to a chat: adding chats changes nobody else's."""
    asked = json.dumps([key, *[dict(message) for message in chat]], sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big")


def learn_text(
    chats: Sequence[Sequence[Message]],
    answers: Sequence[Answer],
    keep: Callable[[Sequence[Message], Message], bool] | None = None,
) -> Lesson:
    """Chats that end with the teacher's answers, for `kweek.align.sft.chat_segments`.

    Args:
        chats: what was asked.
        answers: one for each.
        keep: judges a chat and its answer; by default all are kept.
    """
    lesson, seen = Lesson(), set[str]()
    for chat, answer in zip(chats, answers, strict=True):
        whole: Chat = [*map(dict, chat), dict(answer.message)]
        spelled = json.dumps(whole, sort_keys=True)
        reasons: Mapping[str, bool] = {
            "budget": answer.stop_reason == "budget",
            "cut off": answer.stop_reason != "stop",
            "empty": not (
                str(answer.message.get("content") or "").strip() or answer.message.get("tool_calls")
            ),
            "repeated": spelled in seen,
        }
        if why := next((name for name, holds in reasons.items() if holds), ""):
            lesson.left_out[why] += 1
        elif keep is not None and not keep(chat, answer.message):
            lesson.left_out["judged wrong"] += 1
        else:
            seen.add(spelled)
            lesson.chats.append(whole)
    return lesson


def learn_tokens(rollouts: Sequence[Rollout], keep: Callable[[Rollout], bool] | None = None) -> Lesson:
    """Segments of a teacher's own tokens, with weight 1 on those that it chose, for `kweek.align.sft.ChatBatches`.

    Args:
        rollouts: of a teacher with the pupil's tokenizer (`kweek.tokenize.agreement`).
        keep: judges a rollout; by default all are kept.
    """
    lesson, seen = Lesson(), set[tuple[int, ...]]()
    for one in rollouts:
        tokens = tuple(one.token_ids)
        reasons = {
            "cut off": one.stop_reason != "stop",
            "empty": one.num_sampled <= 1,  # nothing but the end
            "repeated": tokens in seen,
        }
        if why := next((name for name, holds in reasons.items() if holds), ""):
            lesson.left_out[why] += 1
        elif keep is not None and not keep(one):
            lesson.left_out["judged wrong"] += 1
        else:
            seen.add(tokens)
            lesson.segments.append(segment(one.token_ids, np.asarray(one.sampled, np.float32)))
    return lesson
