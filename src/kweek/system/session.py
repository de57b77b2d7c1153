"""A conversation with a model: turns in, pieces of thought, tool calls and answer out as they appear."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from kweek.errors import KweekError
from kweek.protocols import LanguageModel, Request, TokenInterceptor
from kweek.tokenize.chat import encode_prompt, parse_completion
from kweek.tokenize.tokenizer import Tokenizer

PieceKind = Literal["thinking", "tool", "result", "answer"]
OnPiece = Callable[[PieceKind, str], None]

#: What the writing that follows a control token is.
_AFTER: dict[str, PieceKind] = {
    "<think>": "thinking",
    "<tool>": "tool",
    "<result>": "result",
    "</result>": "thinking",
    "</think>": "answer",
}


@dataclass(frozen=True)
class Reply:
    """One answer with what it cost. `forgotten` counts earlier messages dropped to make room."""

    content: str
    reasoning: str
    stop_reason: str
    num_prompt_tokens: int
    num_new_tokens: int
    flop: float
    seconds: float
    forgotten: int


class _Pieces:
    """Turns token ids into text pieces; a character split over tokens waits for its last byte."""

    def __init__(self, tokenizer: Tokenizer, on_piece: OnPiece) -> None:
        self._tokenizer, self._on_piece = tokenizer, on_piece
        self._kinds = {
            tokenizer.special[name]: kind for name, kind in _AFTER.items() if name in tokenizer.special
        }
        self._kind: PieceKind = "answer"
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, _: int, token_id: int) -> None:
        if token_id in self._tokenizer.stop_ids:
            return
        if token_id in self._kinds:
            self._kind = self._kinds[token_id]
            return
        if text := self._bytes.decode(self._tokenizer.decode_bytes([token_id])):
            self._on_piece(self._kind, text)


@dataclass
class Session:
    """The state of one conversation.

    Args:
        max_positions: tokens that prompt and answer may take together.
        temperature: 0 gives the most likely answer, the same every time.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    max_positions: int
    interceptor: TokenInterceptor | None = None
    temperature: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0
    messages: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, text: str, on_piece: OnPiece | None = None) -> Reply:
        """Add a user's turn and answer it.

        Earlier turns that no longer fit are forgotten, oldest first; the reply says how many.

        Raises:
            KweekError: the turn alone does not fit, or its answer failed.
        """
        self.messages.append({"role": "user", "content": text})
        forgotten = 0
        prompt = encode_prompt(self.tokenizer, self.messages)
        room = self.max_positions - min(self.max_new_tokens, self.max_positions // 2)
        while len(prompt) > room:
            if len(self.messages) == 1:
                self.messages.pop()
                raise KweekError(
                    f"the question takes {len(prompt)} tokens; the model has room for {room}",
                    fix="shorten it",
                )
            del self.messages[:2]
            forgotten += 2
            prompt = encode_prompt(self.tokenizer, self.messages)
        request = Request(
            prompt,
            min(self.max_new_tokens, self.max_positions - len(prompt)),
            self.temperature,
            self.seed + len(self.messages),
            self.tokenizer.stop_ids,
            self.interceptor,
        )
        started = time.perf_counter()
        on_token = _Pieces(self.tokenizer, on_piece) if on_piece else None
        done = self.model.generate([request], on_token)[0]
        if done.error is not None:
            self.messages.pop()
            raise KweekError(done.error)
        parsed = parse_completion(self.tokenizer, done.token_ids)
        self.messages.append({"role": "assistant", "content": parsed["content"]})
        return Reply(
            parsed["content"],
            parsed["reasoning_content"],
            done.stop_reason,
            len(prompt),
            len(done.token_ids),
            done.flop,
            time.perf_counter() - started,
            forgotten,
        )
