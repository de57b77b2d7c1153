"""A language model that says what it is told, and counts: for tests of scaffolds and for dry runs that cost nothing."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kweek.protocols import Completion, Request, StopReason
from kweek.tokenize.chat import encode_trusted
from kweek.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Line:
    """What to say, and how likely each of its tokens is to be (natural log)."""

    text: str
    logprob: float = -1.0


#: Says what comes next, given the prompt as text and the request.
Say = Callable[[str, Request], "Line | str"]


class UniformCounts:
    """`Counts` of a model whose tokens all cost the same, read or written."""

    def __init__(self, flop_per_token: float = 1.0) -> None:
        self.flop_per_token = flop_per_token

    def num_flops_per_token(self, context_length: int) -> float:
        """See `Counts`."""
        return self.flop_per_token

    def num_flops_decode(self, position: int) -> float:
        """See `Counts`."""
        return self.flop_per_token


class Scripted:
    """A `LanguageModel` without a network; safe to use from several threads.

    It keeps to the limits of a request (new tokens, FLOP, texts that stop) as an engine does. Control tokens that are
    spelled in a line become control tokens; a line without one that ends the turn is ended all the same.

    Args:
        tokenizer: spells what is said.
        say: what to say, or lines to be said one after the other.
        flop_per_token: of every token, read or written; nan where nobody is to know.

    Attributes:
        prompts: all that it was asked, as text, in the order of asking.
    """

    def __init__(
        self, tokenizer: Tokenizer, say: Say | Sequence[Line | str], *, flop_per_token: float = 1.0
    ) -> None:
        self.tokenizer, self.counts = tokenizer, UniformCounts(flop_per_token)
        self.prompts: list[str] = []
        self._say, self._lock, self._next = say, threading.Lock(), 0

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """See `LanguageModel`. Raises IndexError where a list of lines is at its end."""
        completions = []
        for index, request in enumerate(requests):
            done = self._complete(request)
            completions.append(done)
            for token in done.token_ids if on_token is not None else ():
                assert on_token is not None
                on_token(index, token)
        return completions

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Every token is as likely as a line's."""
        return [[0.0] + [Line("").logprob] * (len(one) - 1) if one else [] for one in sequences]

    def _complete(self, request: Request) -> Completion:
        each, num_prompt = self.counts.flop_per_token, len(request.prompt_ids)
        if num_prompt * each > request.max_flop:
            return Completion([], [], [], "budget", num_prompt, 0.0)
        line = self._line(request)
        ids = encode_trusted(self.tokenizer, line.text)
        stop = next((at for at, index in enumerate(ids) if index in request.stop_ids), None)
        if stop is None:
            ids.append(min(request.stop_ids, default=self.tokenizer.eos_id))
        else:
            ids = ids[: stop + 1]
        reason, stopped_by = "stop", ids[-1]
        cut = self._cut(ids, request.stop_texts)
        if cut is not None:
            ids = ids[: cut[0]]
        known = each > 0  # neither nothing nor nan
        affordable = (request.max_flop - num_prompt * each) / each + 1 if known else math.inf
        room = min(request.max_new_tokens, affordable)
        ended: StopReason = "stop"
        if len(ids) > room:
            ended = "length" if request.max_new_tokens <= affordable else "budget"
            ids = ids[: int(room)]
        flop = each * (num_prompt + max(0, len(ids) - 1))
        by: bytes | int | None = None
        if ended == reason:
            by = stopped_by if cut is None else cut[1]
        values = [line.logprob] * len(ids)
        return Completion(
            ids,
            [True] * len(ids),
            values,
            ended,
            num_prompt,
            flop,
            list(values),
            [1.0] * len(ids),
            stopped_by=by,
        )

    def _line(self, request: Request) -> Line:
        text = self.tokenizer.decode(list(request.prompt_ids))
        with self._lock:
            self.prompts.append(text)
            if callable(self._say):
                said = self._say(text, request)
            else:
                said = self._say[self._next]
                self._next += 1
        return Line(said) if isinstance(said, str) else said

    def _cut(self, ids: Sequence[int], stop_texts: Sequence[bytes]) -> tuple[int, bytes] | None:
        """Tokens up to where the first of some texts is complete, and which; None where none appears."""
        said = b""
        for count, token in enumerate(ids, start=1):
            said += self.tokenizer.token_bytes(token)
            for text in stop_texts:
                if text in said:
                    return count, text
        return None
