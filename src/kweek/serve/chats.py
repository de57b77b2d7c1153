"""POST /v1/chat/completions: a chat answered, thought and answer apart."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from kweek.protocols import Constraint
from kweek.serve.answering import Answering, Job
from kweek.serve.bodies import ChatBody
from kweek.serve.choice import Choice, Update, usage
from kweek.serve.logprobs import TokenScore, chat_logprobs, prompt_logprobs
from kweek.serve.messages import read_messages
from kweek.serve.model import Prompt
from kweek.serve.refusal import Refusal
from kweek.serve.tool_calls import ToolCalls, chosen
from kweek.serve.writing import Writing, is_thinking


@dataclass
class _Job(Job[ChatBody]):
    """One with tools; `calls` by choice, empty where there are none."""

    calls: dict[int, ToolCalls]

    def finish_reason(self, choice: Choice) -> str | None:
        """Why a choice has ended, None while it has not."""
        calls = self.calls.get(choice.index)
        called = choice.finish_reason == "stop" and calls is not None and calls.found
        return "tool_calls" if called else choice.finish_reason


class Chats(Answering[ChatBody, _Job]):
    """The route."""

    body_type = ChatBody

    def _prepare(self, body: ChatBody) -> _Job:
        model = self._model
        if body.top_logprobs and not body.logprobs:
            raise Refusal("Alternatives need logprobs to be true.", param="top_logprobs")
        constraint = self._constraint(body)
        think = body.chat_template_kwargs.enable_thinking
        if constraint is not None:
            if think:
                raise Refusal("A prescribed answer has no thought before it.", param="chat_template_kwargs")
            think = False
        tools = [tool.model_dump() for tool in body.tools] if body.tool_choice != "none" else []
        prompt = Prompt(model.encode_messages(read_messages(body.messages), think, tools))
        field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        num_new = model.num_new_tokens(len(prompt.ids), asked, "messages" if asked is None else field)
        thinking = is_thinking(model.tokenizer, prompt.ids)
        if constraint is not None and thinking:
            raise Refusal("The template of this model always thinks first.", param="messages")
        more: dict[str, Any] = {"constraint": constraint} if constraint else {"interceptor": model.tool}
        requests = model.requests(prompt.ids, num_new, body, num_top=body.top_logprobs, **more)
        stops = [stop.encode() for stop in body.stops]
        choices = [
            Choice(index, prompt, Writing(model.tokenizer, stops, chat=True, thinking=thinking))
            for index in range(body.n)
        ]
        head = self._head("chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion")
        calls = {choice.index: ToolCalls() for choice in choices} if tools else {}
        return _Job(body, [prompt], requests, choices, head, body.prompt_logprobs, calls)

    def _constraint(self, body: ChatBody) -> Callable[[], Constraint] | None:
        """What the answer has to be, by `response_format` or by `tool_choice`."""
        schema = None if body.response_format is None else body.response_format.schema_of_answer
        called = chosen([tool.model_dump() for tool in body.tools], body.tool_choice)
        if schema is not None and called is not None:
            raise Refusal("An answer is either a call or under a schema.", param="tool_choice")
        if called is not None and not called:
            raise Refusal("There are no tools.", param="tool_choice", code="invalid_value")
        if schema is not None:
            return self._model.schema_constraint(schema)
        return None if called is None else self._model.call_constraint(called)

    async def _whole(self, job: _Job) -> dict[str, Any]:
        async for _ in self._updates(job):
            pass
        shown = []
        for choice in job.choices:
            message: dict[str, Any] = {
                "role": "assistant",
                "content": choice.text["content"],
                "refusal": None,
            }
            calls = job.calls.get(choice.index)
            if calls is not None:
                message["content"] = calls.take(message["content"])[0] + calls.finish()
                if calls.found:
                    message |= {"content": message["content"] or None, "tool_calls": calls.found}
            if reasoning := choice.text["reasoning_content"]:
                message["reasoning_content"] = reasoning
            shown.append(
                {
                    "index": choice.index,
                    "message": message,
                    "logprobs": self._logprobs(job, choice.scores),
                    "finish_reason": job.finish_reason(choice),
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
                    opening = _chunk(choice, {"role": "assistant", "content": ""})
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
        chunks = [_chunk(choice, delta) for delta in self._deltas(job, update)]
        if update.ended:
            chunks.append(_chunk(choice, {}) | {"finish_reason": job.finish_reason(choice)})
        if chunks and (update.ended or not job.body.top_logprobs):  # alternatives are known only at the end
            chunks[0]["logprobs"] = self._logprobs(job, choice.tell())
        return chunks

    def _deltas(self, job: _Job, update: Update) -> Iterator[dict[str, Any]]:
        """What is new in a message: text of a part, or whole calls."""
        calls = job.calls.get(update.choice.index)
        for piece in update.pieces:
            text, found = piece.text, list[dict[str, Any]]()
            if calls is not None and piece.part == "content":
                text, found = calls.take(text)
            if text:
                yield {piece.part: text}
            if found and calls is not None:
                first = len(calls.found) - len(found)
                yield {"tool_calls": [{"index": first + i} | call for i, call in enumerate(found)]}
        if update.ended and calls is not None and (text := calls.finish()):
            yield {"content": text}

    def _logprobs(self, job: _Job, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        """Those of all new tokens but the one that ends the turn, which is no text."""
        if not job.body.logprobs:
            return None
        tokenizer = self._model.tokenizer
        shown = [score for score in scores if score.token_id not in tokenizer.stop_ids]
        return chat_logprobs(tokenizer, shown, job.body.top_logprobs)

    def _prompt_logprobs(self, job: _Job) -> list[dict[str, Any] | None]:
        choice, num_top = job.choices[0], job.body.prompt_logprobs
        assert choice.scored_prompt is not None and num_top is not None
        ranks = choice.scored_prompt.prompt_ranks
        return prompt_logprobs(self._model.tokenizer, choice.prompt_tokens(), ranks, num_top)


def _chunk(choice: Choice, delta: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
