"""One of the answers of a request as it grows: its text, its log-probabilities, how it ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from kweek.protocols import Completion
from kweek.serve.logprobs import Offsets, TokenScore
from kweek.serve.model import Prompt
from kweek.serve.refusal import Refusal
from kweek.serve.worker import Batch, NewToken
from kweek.serve.writing import Part, Piece, Writing

FinishReason = Literal["stop", "length"]


@dataclass
class Choice:
    """An answer on its way.

    Attributes:
        text: what may be shown so far, by part.
        scores: the new tokens so far.
        offsets: places the tokens in the text, where log-probabilities are asked for.
        scored_prompt: holds the prompt's log-probabilities, ranks and alternatives, where they are asked for.
    """

    index: int
    prompt: Prompt
    writing: Writing
    scored_prompt: Completion | None = None
    text: dict[Part, str] = field(default_factory=lambda: {"content": "", "reasoning_content": ""})
    scores: list[TokenScore] = field(default_factory=list)
    offsets: Offsets | None = None
    finish_reason: FinishReason | None = None
    _num_told: int = 0

    def take(self, event: NewToken | Completion) -> list[Piece]:
        """Grow by what the engine said; returns what may now be shown.

        Raises:
            Refusal: the server itself has ended the generation.
        """
        if isinstance(event, NewToken):
            self.scores.append(TokenScore(event.token_id, event.logprob))
            pieces = self.writing.feed(event.token_id)
        else:
            pieces = self._end(event)
        for piece in pieces:
            self.text[piece.part] += piece.text
        return pieces

    def _end(self, completion: Completion) -> list[Piece]:
        if completion.stop_reason == "error":
            raise Refusal(f"The generation failed: {completion.error}", status=500, code="generation_failed")
        if completion.stop_reason not in ("stop", "length"):
            raise Refusal("The server is stopping; the generation was ended.", status=503, code="stopping")
        self.finish_reason = "stop" if completion.stop_reason == "stop" else "length"
        if completion.top:
            tops = zip(self.scores, completion.top, strict=True)
            self.scores = [TokenScore(score.token_id, score.logprob, top) for score, top in tops]
        return self.writing.finish()

    def tell(self) -> list[TokenScore]:
        """The new tokens that a stream has not been told of yet."""
        told, self._num_told = self._num_told, len(self.scores)
        return self.scores[told:]

    def prompt_tokens(self) -> list[TokenScore]:
        """The prompt's tokens with their scores, which must have been asked for."""
        found = self.scored_prompt
        assert found is not None and found.prompt_logprobs is not None
        rows = zip(self.prompt.ids, found.prompt_logprobs, found.prompt_top, strict=True)
        return [TokenScore(i, logprob if t else None, top) for t, (i, logprob, top) in enumerate(rows)]


@dataclass(frozen=True)
class Update:
    """What the last events have made of a choice."""

    choice: Choice
    pieces: Sequence[Piece]

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.choice.finish_reason is not None


async def follow(batch: Batch, choices: Sequence[Choice]) -> AsyncGenerator[Update, None]:
    """The growth of all choices of a batch until they have ended; whoever stops listening ends them.

    Raises:
        Refusal: the engine refused a request or failed.
    """
    try:
        async for events in batch.events():
            pieces: dict[int, list[Piece]] = {}
            for index, event in events:
                pieces.setdefault(index, []).extend(choices[index].take(event))
            for index, found in pieces.items():
                yield Update(choices[index], _join(found))
    finally:
        batch.cancel()


def _join(pieces: Sequence[Piece]) -> list[Piece]:
    """The same text with one piece for each stretch of one part: a client has less to read."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].part == piece.part:
            joined[-1] = Piece(piece.part, joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return joined


def usage(choices: Sequence[Choice], num_prompts: int, *, thoughts: bool = False) -> dict[str, Any]:
    """The `usage` object: every prompt counts once however many answers it has, every new token counts.

    Args:
        choices: all answers, those of one prompt together.
        num_prompts: how many prompts there were.
        thoughts: tell the tokens of thinking apart.
    """
    prompts = choices[:: len(choices) // num_prompts]
    num_prompt = sum(len(choice.prompt.ids) for choice in prompts)
    num_new = sum(len(choice.scores) for choice in choices)
    found: dict[str, Any] = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_new,
        "total_tokens": num_prompt + num_new,
    }
    if thoughts:
        num_thought = sum(choice.writing.num_thought_tokens for choice in choices)
        found["completion_tokens_details"] = {"reasoning_tokens": num_thought}
    return found
