"""Log-probabilities of a prompt's own tokens, their ranks, and the likeliest tokens at each place.

Shapes: T tokens of the prompt, D width, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kweek.model.network import Network

MAX_LOGITS = 1 << 24  # logits held at once: 64 MiB of fp32


@dataclass(frozen=True)
class PromptScores:
    """One entry per token of the prompt; the first has no context, so 0.0, rank 0 and no alternatives.

    Attributes:
        logprobs: natural logs.
        ranks: 1 for the likeliest token.
        top: the likeliest (id, natural log) at that place, best first; the same floats as `logprobs` where the
            prompt's own token is among them.
    """

    logprobs: list[float]
    ranks: list[int]
    top: list[list[tuple[int, float]]]


@torch.inference_mode()
def score_prompt(network: Network, token_ids: Sequence[int], num_top: int) -> PromptScores:
    """Score a prompt of at most `max_positions` tokens, `num_top` alternatives at each place."""
    ids_T = torch.as_tensor(list(token_ids), device=network.head_weight.device)
    step = max(1, MAX_LOGITS // network.config.vocab_size)

    def pieces() -> Iterator[Tensor]:
        hidden_TD = network(ids_T[None, :-1])[0]
        for start in range(0, len(hidden_TD), step):
            yield network.logits(hidden_TD[start : start + step])

    return score_logits(pieces() if len(token_ids) > 1 else (), token_ids, num_top)


@torch.inference_mode()
def score_logits(pieces: Iterable[Tensor], token_ids: Sequence[int], num_top: int) -> PromptScores:
    """The same from logits (T, V) after each token, in pieces; what follows the last token is not looked at."""
    scores = PromptScores([0.0], [0], [[]])
    start = 1
    for logits_TV in pieces:
        own_ids = token_ids[start : start + len(logits_TV)]
        start += len(own_ids)
        logprobs_TV = F.log_softmax(logits_TV[: len(own_ids)].float(), -1)
        own_T1 = logprobs_TV.gather(-1, torch.as_tensor(list(own_ids), device=logits_TV.device)[:, None])
        scores.logprobs.extend(own_T1[:, 0].tolist())
        scores.ranks.extend(((logprobs_TV > own_T1).sum(-1) + 1).tolist())
        values_TK, indices_TK = logprobs_TV.topk(min(num_top, logprobs_TV.shape[-1]), dim=-1)
        for indices, values in zip(indices_TK.tolist(), values_TK.tolist(), strict=True):
            scores.top.append(list(zip(indices, values, strict=True)))
    return scores
