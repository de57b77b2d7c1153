"""The head: what predictions do not see is free, what they see is kept."""

import pytest
import torch

from kweek.compress.head import centred, head_codes, logit_error
from kweek.compress.scales import dequantize, nearest_codes, nearest_scales, searched_scales


@pytest.fixture(scope="module")
def case():
    """Hidden states, and a head as training makes them: a common vector, and rare words pushed along it."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3000, 64, generator=generator) @ torch.randn(64, 64, generator=generator) / 8
    hidden += 2 * torch.randn(64, generator=generator)
    head = 0.4 * torch.randn(300, 64, generator=generator)
    common = torch.randn(64, generator=generator)
    pushed = torch.linspace(0, 0.3, 300)[:, None] * -hidden.mean(0) / hidden.mean(0).norm()
    return head + common + pushed, hidden


def predictions(head, hidden):
    return torch.log_softmax((hidden @ head.T).double(), -1)


def divergence(head, hidden, other):
    p, q = predictions(head, hidden), predictions(other, hidden)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_centring_changes_no_prediction_and_shrinks_the_weights(case):
    head, hidden = case
    found = centred(head, hidden)
    torch.testing.assert_close(predictions(found, hidden), predictions(head, hidden), rtol=0, atol=1e-4)
    assert found.norm() < 0.7 * head.norm()
    shares = predictions(head, hidden).exp().mean(0).float()
    assert (shares @ found).norm() < 1e-4
    assert torch.allclose(centred(found, hidden), found, atol=1e-5)


def test_loses_a_fraction_of_what_rounding_loses(case):
    head, hidden = case
    seen, unseen = hidden[:2000], hidden[2000:]
    scales = nearest_scales(head)
    rounded = divergence(head, unseen, dequantize(nearest_codes(head, scales), scales))
    target = centred(head, seen)
    scales = searched_scales(target)
    nearest = divergence(head, unseen, dequantize(nearest_codes(target, scales), scales))
    ours = divergence(head, unseen, dequantize(head_codes(target, seen, scales), scales))
    assert ours < 0.8 * nearest < 0.4 * rounded


def test_a_large_vocabulary_shares_its_moments_and_still_beats_rounding(case, monkeypatch):
    head, hidden = case
    seen, unseen = hidden[:2000], hidden[2000:]
    scales = searched_scales(head)
    nearest = divergence(head, unseen, dequantize(nearest_codes(head, scales), scales))
    own = head_codes(head, seen, scales)
    monkeypatch.setattr("kweek.compress.head.MAX_OWN_WORK", 0)
    shared = head_codes(head, seen, scales)
    assert not torch.equal(own, shared)
    assert divergence(head, unseen, dequantize(shared, scales)) < 0.95 * nearest


def test_the_error_of_logits_is_twice_the_divergence_it_causes(case):
    head, hidden = case
    change = 0.003 * torch.randn(head.shape, generator=torch.Generator().manual_seed(1))
    logits, shares = (hidden @ head.T).double(), predictions(head, hidden).exp()
    variance = float((shares * (logits - (shares * logits).sum(-1, keepdim=True)) ** 2).sum(-1).mean())
    expected = 2 * divergence(head, hidden, head + change) / variance
    assert logit_error(head, hidden, change) == pytest.approx(expected, rel=0.05)


def test_a_common_shift_is_no_error(case):
    head, hidden = case
    assert logit_error(head, hidden, torch.ones(1, 64).expand(300, -1)) < 1e-8


def test_words_that_are_never_in_question_and_small_vocabularies_do_no_harm(case):
    head, hidden = case
    far = head.clone()
    far[:3] = -10 * hidden.mean(0)
    scales = searched_scales(far)
    codes = head_codes(far, hidden, scales)
    assert codes.dtype == torch.int8
    assert (dequantize(codes, scales)[:3] - far[:3]).norm() < 0.2 * far[:3].norm()
    assert head_codes(head[:5], hidden, scales[:5]).shape == (5, 64)
