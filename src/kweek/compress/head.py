"""The head in 4 bits: what the softmax does not see is taken out, what it sees little of weighs little.

In a small model most of what rounding loses is lost in the head, and GPTQ's measure, the squared error of all
logits on all tokens, is the wrong one for it. Two facts about the softmax mend that:

Adding one vector to all rows of the head moves all logits of a token alike and changes no prediction. Trained
heads have a large common vector (rows of rare words are pushed away together); without it the weights, and so
the steps between codes, are half as large.

An error d of the logits costs KL(p || p + d) = 1/2 (sum_v p_v d_v^2 - (sum_v p_v d_v)^2) to second order. With
roundings of different rows independent, row v's share is 1/2 p_v (1 - p_v) d_v^2: a row needs to be right on tokens
where its word is in question. So each row has second moments of its own, sum over tokens of p_v (1 - p_v) x x'.
Where the vocabulary is too large for a matrix per word, all rows share the sum of them.
Shapes: N tokens, D width, V vocabulary, G groups per row, K likely words of a token, P pairs of token and word, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kweek.compress.gptq import compensated_codes
from kweek.model.quantized import NUM_BITS

#: Words of a token that are in question: they hold nearly all of the probability, and more measured no better.
LIKELY = 16
#: Share of the moments of all tokens mixed into each row's own, for words seldom in question; flat from 0.1 to 1.
COMMON_SHARE = 0.3
#: Multiplications for the factors of all rows' own moments, above which the rows share theirs: some minutes of a core.
MAX_OWN_WORK = 1e12
_ROWS = 64  # whose matrices fit into a core's cache together at width 128
_TOKENS = 512  # whose logits do at vocabularies of some thousand entries


def centred(head_VD: Tensor, hidden_ND: Tensor) -> Tensor:
    """The head less its mean row, rows weighing by how probable their words are over the tokens; (V, D) fp32."""
    shares_V = torch.zeros(len(head_VD), dtype=torch.float64)
    for _, shares_NV in _predictions(head_VD, hidden_ND):
        shares_V += shares_NV.sum(0)
    shares_V /= shares_V.sum()
    return head_VD - shares_V.to(head_VD.dtype) @ head_VD


def head_codes(head_VD: Tensor, hidden_ND: Tensor, scale_VG: Tensor, num_bits: int = NUM_BITS) -> Tensor:
    """GPTQ with each row's own second moments, up to `MAX_OWN_WORK`.

    Args:
        head_VD: fp32, centred or not: predictions are the same.
        hidden_ND: final hidden states of calibration tokens, fp32.
        scale_VG: fp32 scales, not zero.
        num_bits: of a code.

    Returns:
        int8 (V, D), within `code_range`.
    """
    if len(head_VD) * head_VD.shape[1] ** 3 > MAX_OWN_WORK:
        return compensated_codes(head_VD, _shared_moments(head_VD, hidden_ND), scale_VG, num_bits)
    words_P, tokens_P, weights_P = _pairs(head_VD, hidden_ND)
    starts = torch.searchsorted(words_P, torch.arange(len(head_VD) + 1)).tolist()
    common_DD = _unit(hidden_ND.t() @ hidden_ND)
    codes = []
    for first in range(0, len(head_VD), _ROWS):
        last = min(first + _ROWS, len(head_VD))
        moments_RDD = (COMMON_SHARE * common_DD).repeat(last - first, 1, 1)
        for word in range(first, last):
            chosen = slice(starts[word], starts[word + 1])
            x_PD = hidden_ND[tokens_P[chosen]] * weights_P[chosen, None].sqrt()
            moments_RDD[word - first] += _unit(x_PD.t() @ x_PD)
        codes.append(compensated_codes(head_VD[first:last], moments_RDD, scale_VG[first:last], num_bits))
    return torch.cat(codes)


def logit_error(head_VD: Tensor, hidden_ND: Tensor, change_VD: Tensor) -> float:
    """What a change of the head does to the logits, relative to their size; both as variances under the predictions.

    Common shifts of all logits of a token, which predictions do not see, count nowhere.
    """
    changed = total = 0.0
    for x_ND, shares_NV in _predictions(head_VD, hidden_ND):
        changed += float(_variance(shares_NV, x_ND @ change_VD.t()))
        total += float(_variance(shares_NV, x_ND @ head_VD.t()))
    return changed / max(total, 1e-30)


def _predictions(head_VD: Tensor, hidden_ND: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens in portions, with the probability of every word."""
    for x_ND in torch.split(hidden_ND, _TOKENS):
        yield x_ND, torch.softmax(x_ND @ head_VD.t(), -1)


def _shared_moments(head_VD: Tensor, hidden_ND: Tensor) -> Tensor:
    """Sum over words of their own moments, (D, D): a token weighs 1 - sum_v p_v^2, little where it is certain."""
    moments_DD = hidden_ND.new_zeros(hidden_ND.shape[1], hidden_ND.shape[1])
    for x_ND, shares_NV in _predictions(head_VD, hidden_ND):
        doubt_N1 = 1 - shares_NV.square().sum(-1, keepdim=True)
        moments_DD.addmm_((x_ND * doubt_N1).t(), x_ND)
    return _unit(moments_DD) + COMMON_SHARE * _unit(hidden_ND.t() @ hidden_ND)


def _pairs(head_VD: Tensor, hidden_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's likely words: word, token and p (1 - p) of every pair, sorted by word."""
    count = min(LIKELY, len(head_VD))
    shares, words = zip(
        *(shares_NV.topk(count, -1) for _, shares_NV in _predictions(head_VD, hidden_ND)), strict=True
    )
    share_P, word_P = torch.cat(shares).flatten(), torch.cat(words).flatten()
    token_P = torch.arange(len(hidden_ND)).repeat_interleave(count)
    order = torch.argsort(word_P, stable=True)
    return word_P[order], token_P[order], (share_P * (1 - share_P))[order]


def _unit(moments_DD: Tensor) -> Tensor:
    """Scaled to a mean diagonal of one; zeros stay."""
    mean = moments_DD.diagonal().mean()
    return moments_DD / mean if mean > 0 else moments_DD


def _variance(shares_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """Sum over tokens of the variance of logits under the predictions."""
    mean_N1 = (shares_NV * logits_NV).sum(-1, keepdim=True)
    return (shares_NV * (logits_NV - mean_N1).square()).sum()
