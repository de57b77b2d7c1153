"""A `Request` in vLLM's words, and its outputs in ours: pure functions, which need no vLLM.

Written after vLLM's `sampling_params.py` and `outputs.py` (main branch, autumn 2026). Where vLLM would change what is
asked for in silence (a temperature below 0.01 becomes 0.01) or has no such thing, the field is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kweek.engine.backend import Sizes
from kweek.engine.choosing import GREEDY
from kweek.engine.generation import affordable, decode_flop
from kweek.engine.prompt_scores import PromptScores, Top
from kweek.errors import KweekError
from kweek.protocols import Completion, Request, StopReason

COLDEST, HOTTEST = 0.01, 2.0  # temperatures above zero that vLLM takes as they are
_REASONS: dict[str, StopReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}


class Logprob(Protocol):
    """`vllm.logprobs.Logprob`: a natural log, and the rank from 1."""

    logprob: float
    rank: int | None


class CompletionOutput(Protocol):
    """`vllm.outputs.CompletionOutput` of one step: only what is new."""

    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None


class RequestOutput(Protocol):
    """`vllm.outputs.RequestOutput`."""

    request_id: str
    prompt_logprobs: Sequence[Mapping[int, Logprob] | None] | None
    outputs: Sequence[CompletionOutput]


def refuse(request: Request) -> None:
    """Raises:
    KweekError: the request has a field that vLLM cannot honour; names it.
    """
    temperature = request.temperature
    wrong = {
        "constraint": request.constraint is not None and "it has no place for masks from outside",
        "interceptor": request.interceptor is not None and "it cannot be told to go on with other tokens",
        "temperature": (GREEDY <= temperature < COLDEST or temperature > HOTTEST)
        and f"it takes 0 and {COLDEST:g} to {HOTTEST:g}, not {temperature:g}",
        "stop_texts": not all(map(_is_text, request.stop_texts)) and "they must be texts in UTF-8",
    }
    for name, why in wrong.items():
        if why:
            raise KweekError(
                f"{name}: vLLM cannot honour it; {why}", fix="leave it out or use --backend native"
            )


def _is_text(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def sampling_arguments(request: Request, sizes: Sizes) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams`, but for `output_kind`.

    Nothing ends a generation but what the request names: vLLM would else add the ids of generation_config.json. With
    top-k and top-p together vLLM takes top-p of what top-k left, Kweek of the whole.

    Raises:
        KweekError: see `refuse`.
    """
    refuse(request)
    arguments: dict[str, Any] = {
        "n": 1,
        "temperature": 0.0 if request.temperature < GREEDY else request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "min_p": request.min_p,
        "max_tokens": max(
            1, limit_of(request, sizes)
        ),  # one is made anyway, and dropped where none is wanted
        "ignore_eos": True,
        "stop_token_ids": sorted(request.stop_ids),
        "stop": [text.decode() for text in request.stop_texts],
        "include_stop_str_in_output": True,
        "detokenize": bool(request.stop_texts),  # for nothing else: text is made here
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": request.num_top,  # 0 gives the chosen token's alone
    }
    if request.temperature >= GREEDY:
        arguments["seed"] = request.seed % (1 << 63)
    if request.logit_bias:
        arguments["logit_bias"] = dict(request.logit_bias)
    if request.prompt_logprobs:
        arguments["prompt_logprobs"] = request.num_prompt_top
    return arguments


def limit_of(request: Request, sizes: Sizes) -> int:
    """New tokens that length and budget allow; -1 where the prompt alone costs more."""
    if request.max_flop == math.inf:
        return request.max_new_tokens
    return affordable(request, sizes)


def prompt_of(request: Request) -> dict[str, Any]:
    """A `vllm.TokensPrompt`; tenants are kept apart by the salt of its prefix cache."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_ids)}
    if request.tenant:
        prompt["cache_salt"] = request.tenant
    return prompt


@dataclass
class Growing:
    """A request that vLLM works on, and what has come of it so far; `limit` is that of `limit_of`."""

    request: Request
    limit: int
    on_token: Callable[[int, float], None] | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)
    prompt_scores: PromptScores | None = None
    reason: StopReason | None = None
    stopped_by: bytes | int | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.limit < 0 or (self.limit == 0 and not self.request.prompt_logprobs):
            self.reason = self.reason_at_limit  # nothing for vLLM to do

    @property
    def reason_at_limit(self) -> StopReason:
        """Why it ends when it has all its tokens."""
        return "budget" if self.limit < self.request.max_new_tokens else "length"

    def take(self, output: RequestOutput) -> None:
        """Add what one step brought."""
        request = self.request
        if output.prompt_logprobs is not None and self.prompt_scores is None:
            self.prompt_scores = scores_of(request.prompt_ids, output.prompt_logprobs, request.num_prompt_top)
        for part in output.outputs:
            for token, entry in zip(part.token_ids, part.logprobs or (), strict=True):
                if self.limit > 0:
                    self._append(token, entry)
            if part.finish_reason is not None:
                self._end(part)

    def _append(self, token: int, entry: Mapping[int, Logprob]) -> None:
        self.token_ids.append(token)
        self.logprobs.append(entry[token].logprob)
        if self.request.num_top:
            self.top.append(likeliest(entry, self.request.num_top))
        if self.on_token is not None:
            self.on_token(token, entry[token].logprob)

    def _end(self, part: CompletionOutput) -> None:
        assert part.finish_reason is not None
        self.reason = _REASONS.get(part.finish_reason, "error")
        if self.reason == "error":
            self.error = f"vLLM ended it as {part.finish_reason!r}"
        if self.reason == "stop":
            found = part.stop_reason
            self.stopped_by = found.encode() if isinstance(found, str) else found
        if self.reason == "length" or self.limit == 0:
            self.reason, self.stopped_by = self.reason_at_limit, None

    def completion(self, sizes: Sizes) -> Completion:
        """What came of it; call it once `reason` is set.

        What the processed log-probabilities and the kept mass were is known where nothing was cut off or bent; else
        their lists are empty, because vLLM gives raw or processed ones and never both.
        """
        assert self.reason is not None
        num_prompt, num_new = len(self.request.prompt_ids), len(self.token_ids)
        begun = self.limit >= 0 and bool(num_new or self.prompt_scores)
        flop = num_prompt * sizes.num_flops_per_token(num_prompt) if begun else 0.0
        flop += decode_flop(sizes, num_prompt, num_new)
        scores = self.prompt_scores
        return Completion(
            self.token_ids,
            [True] * num_new,
            self.logprobs,
            self.reason,
            num_prompt,
            flop,
            *self._processed(),
            prompt_logprobs=None if scores is None else scores.logprobs,
            prompt_ranks=[] if scores is None else scores.ranks,
            prompt_top=[] if scores is None else scores.top,
            top=self.top,
            stopped_by=self.stopped_by,
            error=self.error,
        )

    def _processed(self) -> tuple[list[float], list[float]]:
        request = self.request
        whole = [1.0] * len(self.token_ids)
        if request.temperature < GREEDY:
            return [0.0] * len(self.token_ids), whole
        cut = request.top_k or request.top_p < 1 or request.min_p > 0 or request.logit_bias
        return ([], []) if cut or request.temperature != 1 else (list(self.logprobs), whole)


def likeliest(entry: Mapping[int, Logprob], count: int) -> Top:
    """The best tokens of one place, best first; vLLM adds the chosen one where it is not among them."""
    ranked = sorted(entry.items(), key=lambda item: (item[1].rank or 0, item[0]))
    return [(token, found.logprob) for token, found in ranked[:count]]


def scores_of(
    prompt_ids: Sequence[int], found: Sequence[Mapping[int, Logprob] | None], num_top: int
) -> PromptScores:
    """What vLLM says of a prompt; it has nothing at the first place."""
    scores = PromptScores()
    for token, entry in zip(prompt_ids[1:], found[1:], strict=True):
        assert entry is not None
        scores.logprobs.append(entry[token].logprob)
        scores.ranks.append(entry[token].rank or 0)
        scores.top.append(likeliest(entry, num_top))
    return scores
