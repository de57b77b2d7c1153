"""What the two routes that generate have in common: a body is read, prompts are scored, answers grow or stream."""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kweek.protocols import Completion
from kweek.protocols import Request as Generation
from kweek.serve.bodies import SamplingBody, parse
from kweek.serve.choice import Choice, Update, follow
from kweek.serve.exchange import EventStream, gone, read_body, while_connected
from kweek.serve.model import Prompt, ServedModel
from kweek.serve.refusal import Refusal
from kweek.serve.worker import Worker

Body = TypeVar("Body", bound=SamplingBody)


@dataclass
class Job(Generic[Body]):
    """A request that has been read and found possible.

    Attributes:
        requests: `n` for each prompt, those of one prompt together; empty where prompts are only scored.
        choices: one for each answer, in the same order.
        head: what every object of the answer begins with.
        num_prompt_top: alternatives at each place of the prompts, None where they are not scored.
    """

    body: Body
    prompts: Sequence[Prompt]
    requests: list[Generation]
    choices: list[Choice]
    head: dict[str, Any]
    num_prompt_top: int | None


AnyJob = TypeVar("AnyJob", bound=Job[Any])


class Answering(ABC, Generic[Body, AnyJob]):
    """A route.

    Args:
        model: what is served.
        worker: runs its engine.
    """

    body_type: type[Body]

    def __init__(self, model: ServedModel, worker: Worker) -> None:
        self._model, self._worker = model, worker

    async def __call__(self, request: Request) -> Response:
        """Answer, in one object or in a stream."""
        body = parse(self.body_type, await read_body(request))
        self._model.check_name(body.model)
        job = await asyncio.to_thread(self._prepare, body)
        if body.stream:
            return EventStream(self._stream(job))
        answer = await while_connected(request.receive, self._whole(job))
        return gone() if answer is None else JSONResponse(answer)

    @abstractmethod
    def _prepare(self, body: Body) -> AnyJob:
        """Raises Refusal: the body asks for what cannot be."""

    @abstractmethod
    async def _whole(self, job: AnyJob) -> Mapping[str, Any]:
        """The answer in one object."""

    @abstractmethod
    def _stream(self, job: AnyJob) -> AsyncGenerator[dict[str, Any], None]:
        """The answer in pieces."""

    def _head(self, prefix: str, kind: str) -> dict[str, Any]:
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self._model.name,
        }

    async def _updates(self, job: AnyJob) -> AsyncGenerator[Update, None]:
        """Score the prompts where asked for, then generate."""
        if job.num_prompt_top is not None:
            scores = await self._score(job.prompts, job.num_prompt_top)
            for choice in job.choices:
                choice.scored_prompt = scores[choice.index // (len(job.choices) // len(job.prompts))]
        if not job.requests:
            for choice in job.choices:
                choice.finish_reason = "length"
                yield Update(choice, [])
            return
        async with aclosing(follow(self._worker.submit(job.requests), job.choices)) as updates:
            async for update in updates:
                yield update

    async def _score(self, prompts: Sequence[Prompt], num_top: int) -> list[Completion]:
        """The scores of prompts, before their answers begin, because streams begin with them.

        Raises:
            Refusal: the engine did not compute them.
        """
        requests = [
            Generation(prompt.ids, 0, prompt_logprobs=True, num_prompt_top=num_top) for prompt in prompts
        ]
        batch = self._worker.submit(requests)
        found: dict[int, Completion] = {}
        try:
            async for events in batch.events():
                for index, event in events:
                    assert isinstance(event, Completion)  # a request for no tokens says none
                    found[index] = event
        finally:
            batch.cancel()
        for completion in found.values():
            if completion.stop_reason != "length":
                why = completion.error or completion.stop_reason
                raise Refusal(f"The prompt was not scored: {why}", status=500, code="generation_failed")
        return [found[index] for index in range(len(prompts))]
