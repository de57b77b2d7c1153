"""Answers of a model to many prompts at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kweek.data.chats import Messages
from kweek.errors import DataError, KweekError
from kweek.protocols import LanguageModel, Request, TokenInterceptor
from kweek.tokenize.chat import encode_prompt, parse_completion
from kweek.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answerer:
    """A model with everything that its answers depend on.

    Attributes:
        model, tokenizer, interceptor: what answers.
        max_positions: tokens that prompt and answer may take together.
        max_new_tokens: of one answer.
        temperature: 0 gives the most likely answer, the same every time.
        seed: of sampling; each prompt has a seed of its own made of this and its content.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    max_positions: int
    interceptor: TokenInterceptor | None = None
    temperature: float = 0.0
    max_new_tokens: int = 256
    seed: int = 0

    def answer(self, prompts: Sequence[Messages]) -> list[Messages]:
        """One answer to each prompt, which does not depend on the others.

        Raises:
            DataError: a prompt leaves no room for an answer.
            KweekError: an answer failed.
        """
        completions = self.model.generate([self._request(prompt) for prompt in prompts])
        answers: list[Messages] = []
        for completion in completions:
            if completion.error is not None:
                raise KweekError(completion.error)
            parsed = parse_completion(self.tokenizer, completion.token_ids)
            answers.append(
                (
                    {
                        "role": "assistant",
                        **{key: text for key, text in parsed.items() if text or key == "content"},
                    },
                )
            )
        return answers

    def _request(self, prompt: Messages) -> Request:
        ids = encode_prompt(self.tokenizer, prompt)
        room = self.max_positions - len(ids)
        if room < 1:
            raise DataError(
                f"a prompt takes {len(ids):,} tokens and the model has {self.max_positions:,} positions",
                where=str(prompt[-1].get("content"))[:60],
                fix="shorten it or leave it out",
            )
        key = hashlib.sha256("\x1f".join([str(self.seed), *map(str, ids)]).encode()).digest()
        seed = int.from_bytes(key[:6], "little")
        return Request(
            ids,
            min(self.max_new_tokens, room),
            self.temperature,
            seed,
            self.tokenizer.stop_ids,
            self.interceptor,
        )
