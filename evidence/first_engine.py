"""The first engine of this project, by torch alone: what `rollouts` compares with.

Generation and scoring with a network in this process: batched, cached, one prefill per distinct prompt.

Legend: B rows, T positions, V vocabulary.

A row is one request. Rows of a call share nothing but the matrix products: each has its own length, seed and
tool, and leaves the batch when it is done. Tokens that a tool forces pass through the network like any
other, but nobody sampled them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from kweek.errors import KweekError
from kweek.model.cache import KVCache
from kweek.model.network import Network
from kweek.protocols import Completion, Request, ShouldStop, StopReason, never

SCORE_TOKENS = 8192  # sequences are scored in padded groups of about this many tokens, to bound memory
COMPACT_BELOW = 0.75  # finished rows leave the batch once a quarter of them are idle


@dataclass
class _Row:
    """A request on its way."""

    index: int
    request: Request
    ids: list[int]
    uniforms: list[float]  # empty for a greedy row
    forced: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: StopReason | None = None


class Engine:
    """A `LanguageModel` over a network in this process.

    Args:
        network: computes in the precision of its parameters.
        should_stop: asked at every step; when true, all rows end with what they have, as "cancelled".
    """

    def __init__(self, network: Network, *, should_stop: ShouldStop = never) -> None:
        self.network, self.should_stop = network, should_stop

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Complete every request; see `LanguageModel.generate`.

        Raises:
            KweekError: a prompt is empty, or prompt and new tokens together exceed the network's positions.
        """
        if not requests:
            return []
        rows = [self._admit(index, request) for index, request in enumerate(requests)]
        hidden_BD, cache = self._prefill(rows)
        active = list(rows)
        while active:
            self._choose(active, self.network.logits(hidden_BD), on_token)
            if self.should_stop():
                for row in active:
                    row.reason = row.reason or "cancelled"
            keep = [i for i, row in enumerate(active) if row.reason is None]
            if len(keep) < COMPACT_BELOW * len(active) or not keep:
                active = [active[i] for i in keep]
                if not active:
                    break
                cache = cache.select(keep)
            # Idle rows not yet compacted run along; their tokens go nowhere.
            ids_B1 = torch.tensor([[row.ids[-1]] for row in active])
            hidden_BD = self.network(ids_B1, cache=cache)[:, -1]
        shares: dict[tuple[int, ...], int] = {}
        for row in rows:
            prompt = tuple(row.request.prompt_ids)
            shares[prompt] = shares.get(prompt, 0) + 1
        return [self._complete(row, shares[tuple(row.request.prompt_ids)]) for row in rows]

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of every token given those before it; the first has 0.0."""
        result: list[list[float]] = [[] for _ in sequences]
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for group in _groups(order, [len(s) for s in sequences]):
            width = len(sequences[group[-1]])
            ids_BT = torch.zeros((len(group), width), dtype=torch.long)
            for b, index in enumerate(group):
                ids_BT[b, : len(sequences[index])] = torch.as_tensor(sequences[index])
            logprobs_BTV = F.log_softmax(self.network.logits(self.network(ids_BT[:, :-1])).float(), -1)
            chosen_BT = logprobs_BTV.gather(-1, ids_BT[:, 1:, None])[..., 0]
            for b, index in enumerate(group):
                if sequences[index]:
                    result[index] = [0.0, *chosen_BT[b, : len(sequences[index]) - 1].tolist()]
        return result

    def _admit(self, index: int, request: Request) -> _Row:
        length = len(request.prompt_ids) + request.max_new_tokens
        limit = self.network.config.max_positions
        if not request.prompt_ids:
            raise KweekError("a request has an empty prompt", fix="give it at least one token")
        if length > limit:
            raise KweekError(
                f"a prompt of {len(request.prompt_ids)} tokens and {request.max_new_tokens} new ones exceed "
                f"the model's {limit} positions",
                fix="shorten the prompt or ask for fewer tokens",
            )
        uniforms: list[float] = []
        if request.temperature > 0:
            # A counter-based stream per request: its samples do not depend on who else is in the batch.
            uniforms = (
                np.random.Generator(np.random.Philox(key=request.seed))
                .random(request.max_new_tokens)
                .tolist()
            )
        return _Row(index, request, list(request.prompt_ids), uniforms)

    def _prefill(self, rows: Sequence[_Row]) -> tuple[torch.Tensor, KVCache]:
        """Run each distinct prompt once; the last hidden state (B, D) and the cache of every row."""
        prompts: dict[tuple[int, ...], int] = {}
        owner = [prompts.setdefault(tuple(row.ids), len(prompts)) for row in rows]
        distinct = list(prompts)
        # Idle rows run along until the batch is compacted, so any prompt may be followed by the most new tokens.
        capacity = max(map(len, distinct)) + max(row.request.max_new_tokens for row in rows)
        cache = KVCache(self.network.config, len(distinct), capacity)
        lengths_B = torch.tensor([len(prompt) for prompt in distinct])
        ids_BT = torch.zeros((len(distinct), int(lengths_B.max())), dtype=torch.long)
        for b, prompt in enumerate(distinct):
            ids_BT[b, : len(prompt)] = torch.as_tensor(prompt)
        hidden_BTD = self.network(ids_BT, cache=cache, num_tokens_B=lengths_B)
        last_BD = hidden_BTD[torch.arange(len(distinct)), lengths_B - 1]
        if owner == list(range(len(distinct))):
            return last_BD, cache
        return last_BD[torch.tensor(owner)], cache.select(owner)

    @staticmethod
    def _choose(
        active: Sequence[_Row], logits_BV: torch.Tensor, on_token: Callable[[int, int], None] | None
    ) -> None:
        """Append one token to every unfinished row: forced, greedy or sampled."""
        logprobs_BV = F.log_softmax(logits_BV.float(), -1)
        tokens = logprobs_BV.argmax(-1).tolist()
        drawing = [b for b, row in enumerate(active) if row.uniforms and not row.forced]
        if drawing:
            temperatures = torch.tensor([active[b].request.temperature for b in drawing])[:, None]
            cumulative = F.softmax(logits_BV[drawing].double() / temperatures, -1).cumsum(-1)
            points = torch.tensor(
                [[active[b].uniforms[len(active[b].token_ids)]] for b in drawing], dtype=torch.float64
            )
            drawn = torch.searchsorted(cumulative, points * cumulative[:, -1:])[:, 0]
            for b, token in zip(drawing, drawn.clamp_max(logits_BV.shape[-1] - 1).tolist(), strict=True):
                tokens[b] = token
        chosen = logprobs_BV.gather(-1, torch.tensor(tokens)[:, None])[:, 0].tolist()
        for b, row in enumerate(active):
            if row.reason is None:
                _append(row, tokens[b], chosen[b])
                if on_token is not None:
                    on_token(row.index, row.token_ids[-1])

    def _complete(self, row: _Row, num_sharing: int) -> Completion:
        config = self.network.config
        num_prompt, num_new = len(row.request.prompt_ids), len(row.token_ids)
        first, slope = config.num_flops_decode(0), config.num_flops_decode(1) - config.num_flops_decode(0)
        positions = sum(range(num_prompt, num_prompt + max(0, num_new - 1)))
        decode = first * max(0, num_new - 1) + slope * positions
        prefill = num_prompt * config.num_flops_per_token(num_prompt) / num_sharing
        assert row.reason is not None
        return Completion(row.token_ids, row.sampled, row.logprobs, row.reason, num_prompt, prefill + decode)


def _append(row: _Row, token: int, logprob: float) -> None:
    """Take a token (or the next forced one) and decide whether the row ends here."""
    forced = bool(row.forced)
    if forced:
        token = row.forced.pop(0)
    row.ids.append(token)
    row.token_ids.append(token)
    row.sampled.append(not forced)
    row.logprobs.append(0.0 if forced else logprob)
    if not forced and token in row.request.stop_ids:
        row.reason = "stop"
    elif len(row.token_ids) >= row.request.max_new_tokens:
        row.reason = "length"
    elif not row.forced and row.request.interceptor is not None:
        row.forced = list(row.request.interceptor(row.ids))


def _groups(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Cut an order by length into groups of about `SCORE_TOKENS` padded tokens."""
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * lengths[index] <= SCORE_TOKENS:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
