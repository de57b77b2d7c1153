"""POST /v1/completions: prompts continued, or only scored."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kweek.protocols import Request as Generation
from kweek.serve.bodies import MAX_CHOICES, CompletionBody, parse
from kweek.serve.choice import Choice, Update, follow, usage
from kweek.serve.exchange import EventStream, gone, read_body, while_connected
from kweek.serve.logprobs import Offsets, TokenScore, completion_logprobs, prompt_logprobs
from kweek.serve.model import Prompt, ServedModel
from kweek.serve.refusal import Refusal
from kweek.serve.worker import Worker
from kweek.serve.writing import Writing


@dataclass
class _Job:
    """A request that has been read and found possible."""

    body: CompletionBody
    prompts: Sequence[Prompt]
    requests: list[Generation]
    choices: list[Choice]
    head: dict[str, Any]


class Completions:
    """The route.

    Args:
        model: what is served.
        worker: runs its engine.
    """

    def __init__(self, model: ServedModel, worker: Worker) -> None:
        self._model, self._worker = model, worker

    async def __call__(self, request: Request) -> Response:
        """Answer, in one object or in a stream."""
        body = parse(CompletionBody, await read_body(request))
        self._model.check_name(body.model)
        job = await asyncio.to_thread(self._prepare, body)
        if body.stream:
            return EventStream(self._stream(job))
        answer = await while_connected(request.receive, self._whole(job))
        return gone() if answer is None else JSONResponse(answer)

    def _prepare(self, body: CompletionBody) -> _Job:
        if body.best_of not in (None, body.n):
            raise Refusal("Only as many candidates as are returned are made.", param="best_of")
        prompts = self._model.encode_prompts(body.prompt)
        if len(prompts) * body.n > MAX_CHOICES:
            raise Refusal(
                f"{len(prompts)} prompts times n = {body.n} are more than {MAX_CHOICES} answers.", param="n"
            )
        requests: list[Generation] = []
        choices: list[Choice] = []
        for prompt in prompts:
            num_new = self._model.num_new_tokens(len(prompt.ids), body.max_tokens, "prompt")
            requests += self._model.requests(prompt.ids, num_new, body, num_top=body.logprobs or 0)
            for _ in range(body.n):
                writing = Writing(self._model.tokenizer, [stop.encode() for stop in body.stops])
                choices.append(Choice(len(choices), prompt, writing))
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._model.name,
        }
        return _Job(body, prompts, requests, choices, head)

    async def _updates(self, job: _Job) -> AsyncGenerator[Update, None]:
        """Score the prompts where asked for, then generate."""
        await self._score(job)
        if not job.body.max_tokens:
            for choice in job.choices:
                choice.finish_reason = "length"
                yield Update(choice, [])
            return
        async with aclosing(follow(self._worker.submit(job.requests), job.choices)) as updates:
            async for update in updates:
                yield update

    async def _score(self, job: _Job) -> None:
        echoed = job.body.logprobs if job.body.echo else None
        if echoed is None and job.body.prompt_logprobs is None:
            return
        num_top = max(echoed or 0, job.body.prompt_logprobs or 0)
        for number, prompt in enumerate(job.prompts):
            scores = await self._worker.compute(
                lambda ids=prompt.ids: self._model.score_prompt(ids, num_top)  # type: ignore[misc]
            )
            for choice in job.choices[number * job.body.n : (number + 1) * job.body.n]:
                choice.prompt_scores = scores

    async def _whole(self, job: _Job) -> dict[str, Any]:
        async for _ in self._updates(job):
            pass
        shown = []
        for choice in job.choices:
            text = self._echo(job, choice) + choice.text["content"]
            shown.append(self._shown(job, choice, text, choice.scores, first=True))
        return {**job.head, "choices": shown, "usage": usage(job.choices, len(job.prompts))}

    async def _stream(self, job: _Job) -> AsyncGenerator[dict[str, Any], None]:
        options = job.body.stream_options
        told = {"usage": None} if options and options.include_usage else {}
        begun: set[int] = set()
        async with aclosing(self._updates(job)) as updates:
            async for update in updates:
                choice, text = update.choice, "".join(piece.text for piece in update.pieces)
                first = choice.index not in begun
                if not (text or update.ended or (first and job.body.echo)):
                    continue
                begun.add(choice.index)
                scores: Sequence[TokenScore] = ()
                if update.ended or not job.body.logprobs:  # alternatives are known only at the end
                    scores = choice.tell()
                text = (self._echo(job, choice) if first else "") + text
                yield {**job.head, "choices": [self._shown(job, choice, text, scores, first=first)], **told}
        if told:
            yield {**job.head, "choices": [], "usage": usage(job.choices, len(job.prompts))}

    def _echo(self, job: _Job, choice: Choice) -> str:
        return self._text(choice.prompt) if job.body.echo else ""

    def _text(self, prompt: Prompt) -> str:
        return self._model.tokenizer.decode(prompt.ids[prompt.num_hidden :])

    def _shown(
        self, job: _Job, choice: Choice, text: str, scores: Sequence[TokenScore], *, first: bool
    ) -> dict[str, Any]:
        """An entry of `choices`; the first of a choice also holds what there is to say of its prompt."""
        tokenizer, body = self._model.tokenizer, job.body
        shown: dict[str, Any] = {"index": choice.index, "text": text, "finish_reason": choice.finish_reason}
        shown["logprobs"] = None
        if body.logprobs is not None:
            num_hidden = 0
            if first:
                text_before = "" if body.echo else self._text(choice.prompt)
                choice.offsets = Offsets(tokenizer, len(text_before))
            if first and body.echo:
                scores, num_hidden = [*choice.prompt_tokens(), *scores], choice.prompt.num_hidden
            assert choice.offsets is not None
            shown["logprobs"] = completion_logprobs(
                tokenizer, scores, choice.offsets, body.logprobs, num_hidden
            )
        if body.prompt_logprobs is not None and first:
            assert choice.prompt_scores is not None
            shown["prompt_logprobs"] = prompt_logprobs(
                tokenizer, choice.prompt_tokens(), choice.prompt_scores.ranks, body.prompt_logprobs
            )
        return shown
