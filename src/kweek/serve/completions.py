"""POST /v1/completions: prompts continued, or only scored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from kweek.protocols import Request as Generation
from kweek.serve.answering import Answering, Job
from kweek.serve.bodies import MAX_CHOICES, CompletionBody
from kweek.serve.choice import Choice, usage
from kweek.serve.logprobs import Offsets, TokenScore, completion_logprobs, prompt_logprobs
from kweek.serve.model import Prompt
from kweek.serve.refusal import Refusal
from kweek.serve.writing import Writing


class Completions(Answering[CompletionBody, Job[CompletionBody]]):
    """The route."""

    body_type = CompletionBody

    def _prepare(self, body: CompletionBody) -> Job[CompletionBody]:
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
        asked = [body.prompt_logprobs, body.logprobs if body.echo else None]
        num_prompt_top = max((count for count in asked if count is not None), default=None)
        head = self._head("cmpl", "text_completion")
        return Job(body, prompts, requests if body.max_tokens else [], choices, head, num_prompt_top)

    async def _whole(self, job: Job[CompletionBody]) -> dict[str, Any]:
        async for _ in self._updates(job):
            pass
        shown = []
        for choice in job.choices:
            text = self._echo(job, choice) + choice.text["content"]
            shown.append(self._shown(job, choice, text, choice.scores, first=True))
        return {**job.head, "choices": shown, "usage": usage(job.choices, len(job.prompts))}

    async def _stream(self, job: Job[CompletionBody]) -> AsyncGenerator[dict[str, Any], None]:
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

    def _echo(self, job: Job[CompletionBody], choice: Choice) -> str:
        return self._text(choice.prompt) if job.body.echo else ""

    def _text(self, prompt: Prompt) -> str:
        return self._model.tokenizer.decode(prompt.ids[prompt.num_hidden :])

    def _shown(
        self,
        job: Job[CompletionBody],
        choice: Choice,
        text: str,
        scores: Sequence[TokenScore],
        *,
        first: bool,
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
            assert choice.scored_prompt is not None
            shown["prompt_logprobs"] = prompt_logprobs(
                tokenizer, choice.prompt_tokens(), choice.scored_prompt.prompt_ranks, body.prompt_logprobs
            )
        return shown
