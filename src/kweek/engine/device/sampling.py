"""How a token is drawn from logits on the device: the rule of `Request`, for all rows at once and without the host.

`kweek.engine.choosing` is the same rule row by row; the same uniform number gives the same token.
Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kweek.engine.choosing import GREEDY


@dataclass(frozen=True)
class Controls:
    """What each row asks for, all (B,): temperature, top-p and min-p in the precision of `sums`, top-k in int64.

    Attributes:
        uniform_B: in [0, 1), in the precision of `sums`.
        sums: precision of probabilities and their sums.
    """

    temperature_B: Tensor
    top_k_B: Tensor
    top_p_B: Tensor
    min_p_B: Tensor
    uniform_B: Tensor
    sums: torch.dtype


@dataclass(frozen=True)
class Drawn:
    """All (B,): the token, its natural log-probability, the processed one, the mass that truncation kept, and the
    logarithm of the sum of the exponentials of the logits."""

    token_B: Tensor
    logprob_B: Tensor
    processed_B: Tensor
    kept_B: Tensor
    lse_B: Tensor


def draw(
    logits_BV: Tensor, shift_BV: Tensor | None, controls: Controls, *, sampled: bool, truncated: bool
) -> Drawn:
    """One token for each row.

    Args:
        logits_BV: fp32.
        shift_BV: bias, and minus infinity where a constraint forbids; None where no row has either.
        controls: see there.
        sampled: whether any row has a temperature; otherwise the work for it is left out.
        truncated: whether any row has top-k, top-p or min-p, which costs a sort.
    """
    lse_B = logits_BV.logsumexp(-1)
    shaped_BV = logits_BV if shift_BV is None else logits_BV + shift_BV
    token_B = shaped_BV.argmax(-1)
    processed_B, kept_B = torch.zeros_like(lse_B), torch.ones_like(lse_B)
    if sampled:
        warm_B = controls.temperature_B >= GREEDY
        drawn_B, drawn_processed_B, drawn_kept_B = _sample(shaped_BV, token_B, controls, truncated)
        token_B = torch.where(warm_B, drawn_B, token_B)
        processed_B = torch.where(warm_B, drawn_processed_B.to(processed_B.dtype), processed_B)
        kept_B = torch.where(warm_B, drawn_kept_B.to(kept_B.dtype), kept_B)
    logprob_B = logits_BV.gather(-1, token_B[:, None])[:, 0] - lse_B
    return Drawn(token_B, logprob_B, processed_B, kept_B, lse_B)


def _sample(
    shaped_BV: Tensor, best_B: Tensor, controls: Controls, truncated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Token, processed log-probability and kept mass of every row, as if all had a temperature."""
    warmth_B1 = controls.temperature_B.clamp_min(GREEDY)[:, None]
    peak_B1 = shaped_BV.gather(-1, best_B[:, None])
    weight_BV = ((shaped_BV - peak_B1).to(controls.sums) / warmth_B1).exp()
    total_B1 = weight_BV.sum(-1, keepdim=True)
    order_BV, counted_BV = None, weight_BV
    if truncated:
        order_BV, counted_BV = _truncate(weight_BV, total_B1, controls)
    cumulative_BV = counted_BV.cumsum(-1)
    kept_B1 = cumulative_BV[:, -1:]
    # Above zero, so that the place found always has some weight of its own.
    wanted_B1 = (controls.uniform_B[:, None] * kept_B1).clamp_min(torch.finfo(controls.sums).tiny)
    place_B1 = torch.searchsorted(cumulative_BV, wanted_B1).clamp_max(shaped_BV.shape[1] - 1)
    token_B1 = place_B1 if order_BV is None else order_BV.gather(-1, place_B1)
    # A parallel sum need not grow with every term: at worst a place without weight is hit, and must not be taken.
    counted_B1 = counted_BV.gather(-1, place_B1)
    token_B1 = torch.where(counted_B1 > 0, token_B1, best_B[:, None])
    own_B1 = weight_BV.gather(-1, token_B1)
    return token_B1[:, 0], (own_B1 / kept_B1).log()[:, 0], (kept_B1 / total_B1)[:, 0]


def _truncate(weight_BV: Tensor, total_B1: Tensor, controls: Controls) -> tuple[Tensor, Tensor]:
    """The order in which tokens are counted, and their weights in it, 0 for those left out.

    Rows that truncate nothing keep the order of the vocabulary, so that company does not change their tokens.
    """
    vocabulary = weight_BV.shape[1]
    sorted_BV, order_BV = weight_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(vocabulary, device=weight_BV.device)
    limit_B1 = torch.where(controls.top_k_B == 0, vocabulary, controls.top_k_B)[:, None]
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    keep_BV = (rank_V < limit_B1) & (before_BV < controls.top_p_B[:, None] * total_B1)
    keep_BV &= sorted_BV >= controls.min_p_B[:, None] * sorted_BV[:, :1]
    cuts_B1 = ((controls.top_k_B > 0) | (controls.top_p_B < 1) | (controls.min_p_B > 0))[:, None]
    counted_BV = torch.where(cuts_B1, sorted_BV * keep_BV, weight_BV)
    return torch.where(cuts_B1, order_BV, rank_V), counted_BV
