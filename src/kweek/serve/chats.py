"""POST /v1/chat/completions: a chat answered, thought and answer apart."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kweek.protocols import Request as Generation
from kweek.serve.bodies import ChatBody, parse
from kweek.serve.choice import Choice, Update, follow, usage
from kweek.serve.exchange import EventStream, gone, read_body, while_connected
from kweek.serve.logprobs import TokenScore, chat_logprobs, prompt_logprobs
from kweek.serve.model import Prompt, ServedModel
from kweek.serve.refusal import Refusal
from kweek.serve.worker import Worker
from kweek.serve.writing import Writing, is_thinking

#: What a message may hold; whatever else is null is left out, as clients send back what they were sent.
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "reasoning_content", "tool_calls", "tool_call_id"})


@dataclass
class _Job:
    """A request that has been read and found possible."""

    body: ChatBody
    prompt: Prompt
    requests: list[Generation]
    choices: list[Choice]
    head: dict[str, Any]


class Chats:
    """The route.

    Args:
        model: what is served.
        worker: runs its engine.
    """

    def __init__(self, model: ServedModel, worker: Worker) -> None:
        self._model, self._worker = model, worker

    async def __call__(self, request: Request) -> Response:
        """Answer, in one object or in a stream."""
        body = parse(ChatBody, await read_body(request))
        self._model.check_name(body.model)
        job = await asyncio.to_thread(self._prepare, body)
        if body.stream:
            return EventStream(self._stream(job))
        answer = await while_connected(request.receive, self._whole(job))
        return gone() if answer is None else JSONResponse(answer)

    def _prepare(self, body: ChatBody) -> _Job:
        model = self._model
        if body.top_logprobs and not body.logprobs:
            raise Refusal("Alternatives need logprobs to be true.", param="top_logprobs")
        schema = None if body.response_format is None else body.response_format.schema_of_answer
        think = body.chat_template_kwargs.enable_thinking
        if schema is not None:
            if think:
                raise Refusal("An answer under a schema has no thought before it.", param="response_format")
            think = False
        prompt = Prompt(model.encode_messages(read_messages(body.messages), think))
        field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        num_new = model.num_new_tokens(len(prompt.ids), asked, "messages" if asked is None else field)
        thinking = is_thinking(model.tokenizer, prompt.ids)
        more: dict[str, Any] = {"interceptor": model.tool}
        if schema is not None:
            if thinking:
                raise Refusal("The template of this model always thinks first.", param="response_format")
            more = {"constraint": model.constraint(schema)}
        requests = model.requests(prompt.ids, num_new, body, num_top=body.top_logprobs, **more)
        stops = [stop.encode() for stop in body.stops]
        choices = [
            Choice(index, prompt, Writing(model.tokenizer, stops, chat=True, thinking=thinking))
            for index in range(body.n)
        ]
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": model.name,
        }
        return _Job(body, prompt, requests, choices, head)

    async def _updates(self, job: _Job) -> AsyncGenerator[Update, None]:
        """Score the prompt where asked for, then generate."""
        if (num_top := job.body.prompt_logprobs) is not None:
            scores = await self._worker.compute(lambda: self._model.score_prompt(job.prompt.ids, num_top))
            for choice in job.choices:
                choice.prompt_scores = scores
        async with aclosing(follow(self._worker.submit(job.requests), job.choices)) as updates:
            async for update in updates:
                yield update

    async def _whole(self, job: _Job) -> dict[str, Any]:
        async for _ in self._updates(job):
            pass
        shown = []
        for choice in job.choices:
            message = {"role": "assistant", "content": choice.text["content"], "refusal": None}
            if reasoning := choice.text["reasoning_content"]:
                message["reasoning_content"] = reasoning
            shown.append(
                {
                    "index": choice.index,
                    "message": message,
                    "logprobs": self._logprobs(job, choice.scores),
                    "finish_reason": choice.finish_reason,
                }
            )
        answer = {**job.head, "choices": shown, "usage": usage(job.choices, 1, thoughts=True)}
        if job.body.prompt_logprobs is not None:
            answer["prompt_logprobs"] = self._prompt_logprobs(job)
        return answer

    async def _stream(self, job: _Job) -> AsyncGenerator[dict[str, Any], None]:
        options = job.body.stream_options
        head = job.head | ({"usage": None} if options and options.include_usage else {})
        begun: set[int] = set()
        async with aclosing(self._updates(job)) as updates:
            async for update in updates:
                choice = update.choice
                if choice.index not in begun:
                    begun.add(choice.index)
                    opening = self._chunk(choice, {"role": "assistant", "content": ""}, None)
                    if len(begun) == 1 and job.body.prompt_logprobs is not None:
                        yield {**head, "choices": [opening], "prompt_logprobs": self._prompt_logprobs(job)}
                    else:
                        yield {**head, "choices": [opening]}
                if update.pieces or update.ended:
                    for chunk in self._chunks(job, update):
                        yield {**head, "choices": [chunk]}
        if "usage" in head:
            yield {**head, "choices": [], "usage": usage(job.choices, 1, thoughts=True)}

    def _chunks(self, job: _Job, update: Update) -> list[dict[str, Any]]:
        """What a stream says of an update: a chunk for each part, the log-probabilities with the first."""
        choice = update.choice
        scores: Sequence[TokenScore] = ()
        if update.ended or not job.body.top_logprobs:  # alternatives are known only at the end
            scores = choice.tell()
        deltas: list[dict[str, str]] = [{piece.part: piece.text} for piece in update.pieces] or [{}]
        if update.ended and deltas != [{}]:
            deltas.append({})
        told = [self._logprobs(job, scores), *[None] * (len(deltas) - 1)]
        chunks = [self._chunk(choice, delta, shown) for delta, shown in zip(deltas, told, strict=True)]
        for chunk in chunks[:-1]:
            chunk["finish_reason"] = None
        return chunks

    def _chunk(
        self, choice: Choice, delta: Mapping[str, str], logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(self, job: _Job, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        """Those of all new tokens but the one that ends the turn, which is no text."""
        if not job.body.logprobs:
            return None
        tokenizer = self._model.tokenizer
        shown = [score for score in scores if score.token_id not in tokenizer.stop_ids]
        return chat_logprobs(tokenizer, shown, job.body.top_logprobs)

    def _prompt_logprobs(self, job: _Job) -> list[dict[str, Any] | None]:
        choice, num_top = job.choices[0], job.body.prompt_logprobs
        assert choice.prompt_scores is not None and num_top is not None
        ranks = choice.prompt_scores.ranks
        return prompt_logprobs(self._model.tokenizer, choice.prompt_tokens(), ranks, num_top)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates know them: content as text, arguments of tool calls as objects.

    Raises:
        Refusal: a field that no message has, or content that is not text, with its place.
    """
    found = []
    for number, message in enumerate(messages):
        fields = {key: value for key, value in message.items() if value is not None}
        if unknown := sorted(set(fields) - _MESSAGE_FIELDS):
            raise Refusal(
                f"The field {unknown[0]!r} is not supported in a message.",
                param=f"messages.{number}.{unknown[0]}",
                code="unknown_parameter",
            )
        where = f"messages.{number}.content"
        fields["content"] = _read_content(fields["content"], where) if "content" in fields else None
        if "tool_calls" in fields:
            fields["tool_calls"] = _read_calls(fields["tool_calls"], f"messages.{number}.tool_calls")
        found.append(fields)
    return found


def _read_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refusal("Content is a text or a list of texts.", param=where, code="invalid_value")
    for part in content:
        if not (
            isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        ):
            raise Refusal("This model reads text only.", param=where, code="invalid_value")
    return "\n".join(part["text"] for part in content)


def _read_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    try:
        return [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in calls
        ]
    except (TypeError, KeyError, ValueError):
        raise Refusal(
            "A tool call has a function with a name and its arguments as JSON.",
            param=where,
            code="invalid_value",
        ) from None
