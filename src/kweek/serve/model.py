"""The model that is served: how a request becomes token ids and limits, and under which name."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kweek.engine.constraints import Vocabulary, compile_json_schema
from kweek.errors import KweekError
from kweek.protocols import Constraint, Message, Request, TokenInterceptor
from kweek.serve.bodies import SamplingBody
from kweek.serve.refusal import Refusal
from kweek.system.tools.calling import call_grammar
from kweek.system.tools.calls import OPENING
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

COLDEST = 1e-4  # below this only ties closer than rounding are not greedy, and fp32 would overflow


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids; the first `num_hidden` were put before it here and are not part of its text."""

    ids: list[int]
    num_hidden: int = 0


@dataclass(frozen=True)
class ServedModel:
    """A model with what is needed to speak to it.

    Args:
        name: what clients call it.
        tokenizer: that of the model.
        max_positions: tokens that prompt and answer may take together.
        vocabulary: compiles the schemas of answers.
        tool: forces results into chats, None where the model knows no tool.
    """

    name: str
    tokenizer: Tokenizer
    max_positions: int
    vocabulary: Vocabulary
    tool: TokenInterceptor | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def check_name(self, name: str) -> None:
        """Raises:
        Refusal: another model is asked for (404).
        """
        if name != self.name:
            raise Refusal(
                f"The model {name!r} is not served here; {self.name!r} is.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def encode_prompts(self, prompt: Any) -> list[Prompt]:
        """The prompts of a text completion as ids: a text, ids, or a list of either.

        Raises:
            Refusal: none of these, no prompt at all, or an id outside the vocabulary.
        """
        several = isinstance(prompt, list) and not _is_ids(prompt)
        entries = prompt if several else [prompt]
        if not entries:
            raise Refusal("There is no prompt.", param="prompt", code="invalid_value")
        return [
            self._encode_prompt(entry, f"prompt.{number}" if several else "prompt")
            for number, entry in enumerate(entries)
        ]

    def _encode_prompt(self, entry: Any, param: str) -> Prompt:
        if isinstance(entry, str):
            self._check_length(len(entry), param)
            opening = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            ids = self.tokenizer.encode(entry)
            if not (opening or ids):
                opening = [self.tokenizer.eos_id]  # a document begins after the end of the one before
            return Prompt([*opening, *ids], len(opening))
        if not _is_ids(entry):
            raise Refusal("Neither a text nor a list of token ids.", param=param, code="invalid_value")
        self.check_ids(entry, param)
        return Prompt(entry)

    def _check_length(self, num_characters: int, param: str) -> None:
        """Refuse a text that cannot fit, before time is spent on counting its tokens exactly.

        Raises:
            Refusal: even in the longest tokens of the vocabulary it would be longer than the context.
        """
        least = -(-num_characters // max(1, int(self.tokenizer.token_num_bytes.max())))
        if least > self.max_positions:
            raise _too_long(self.max_positions, f"at least {least}", None, param)

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Raises:
        Refusal: an id outside the vocabulary.
        """
        size = self.tokenizer.vocab_size
        wrong = next((index for index in ids if not 0 <= index < size), None)
        if wrong is not None:
            raise Refusal(
                f"There is no token {wrong}; ids are 0 to {size - 1}.", param=param, code="invalid_value"
            )

    def encode_messages(
        self, messages: Sequence[Message], think: bool | None, tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Ids of a chat up to where the model begins to write.

        Raises:
            Refusal: messages that the template does not take, no template, or tools that it does not show.
        """
        template = self.tokenizer.chat_template or ""
        if tools and not ("tools" in template and OPENING in template):
            raise Refusal(
                "The template of this model knows no tools.", param="tools", code="unsupported_value"
            )
        try:
            return encode_prompt(self.tokenizer, messages, think=think, tools=tools)
        except RecursionError:
            raise Refusal("The messages nest too deep.", param="messages", code="invalid_value") from None
        except KweekError as error:
            raise Refusal.of(error, param="messages") from error

    def schema_constraint(self, schema: Mapping[str, Any]) -> Callable[[], Constraint]:
        """Makes the constraint of an answer that is JSON under a schema; compiles it, which may take seconds.

        Raises:
            Refusal: the schema is wrong, not supported, or too large.
        """
        try:
            return compile_json_schema(schema, self.vocabulary).start
        except KweekError as error:
            where = f"response_format.json_schema.schema{'.' if error.where else ''}{error.where or ''}"
            raise Refusal.of(error, param=where) from error

    def call_constraint(self, tools: Sequence[Mapping[str, Any]]) -> Callable[[], Constraint]:
        """The same for an answer that is a call of one of some tools."""
        try:
            return call_grammar(tools, self.vocabulary).start
        except KweekError as error:
            raise Refusal.of(error, param=error.where or "tools") from error

    def num_new_tokens(self, num_prompt: int, asked: int | None, param: str) -> int:
        """How many tokens may be generated: as many as asked for, or all that there is room for.

        Raises:
            Refusal: they do not fit; names both numbers and the context.
        """
        limit = self.max_positions
        if num_prompt + (1 if asked is None else asked) > limit:
            raise _too_long(limit, str(num_prompt), asked, param)
        return limit - num_prompt if asked is None else asked

    def requests(
        self, prompt_ids: Sequence[int], num_new: int, body: SamplingBody, **more: Any
    ) -> list[Request]:
        """The `n` requests for one prompt; `more` are further fields of `Request`.

        Raises:
            Refusal: a bias for a token that there is not.
        """
        base = secrets.randbits(63) if body.seed is None else body.seed
        bias = self._bias(body.logit_bias)
        return [
            Request(
                prompt_ids,
                num_new,
                body.temperature if body.temperature >= COLDEST else 0.0,
                seed_of(base, sample),
                self.tokenizer.stop_ids,
                top_k=max(0, min(body.top_k, self.tokenizer.vocab_size)),  # -1 is vLLM's "all"
                top_p=body.top_p,
                min_p=body.min_p,
                logit_bias=bias,
                stop_texts=tuple(stop.encode() for stop in body.stops),
                **more,
            )
            for sample in range(body.n)
        ]

    def _bias(self, bias: Mapping[str, float]) -> dict[int, float]:
        try:
            found = {int(key): value for key, value in bias.items()}
        except ValueError:
            raise Refusal("Keys are token ids.", param="logit_bias", code="invalid_value") from None
        self.check_ids(list(found), "logit_bias")
        return found


def _too_long(limit: int, num_prompt: str, asked: int | None, param: str) -> Refusal:
    wanted = "" if asked is None else f" and {asked} are asked for"
    return Refusal(
        f"The context of this model is {limit} tokens; the prompt has {num_prompt}{wanted}. "
        "Nothing is ever cut off silently: shorten the prompt or ask for fewer tokens.",
        param=param,
        code="context_length_exceeded",
    )


def seed_of(seed: int, sample: int) -> int:
    """The seed of one of several samples: the given one for the first, unrelated ones for the others."""
    if sample == 0:
        return seed % (1 << 64)
    digest = hashlib.blake2b(f"{seed}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(entry) is int for entry in value)
