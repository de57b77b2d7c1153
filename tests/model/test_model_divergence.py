"""Every member of the family has the loss and the gradient that autograd finds, whole or from the likeliest tokens."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import ConfigError
from kweek.model.divergence import Measure, fused_divergence, likeliest_divergence

VOCABULARY, ROWS = 50, 300  # more rows than a chunk


def tensors(dtype=torch.float64, seed=0, rows=ROWS, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(shape, generator=generator, dtype=dtype)  # noqa: E731
    return {
        "hidden": rand(rows, 12) * scale,
        "weight": rand(VOCABULARY, 12),
        "wanted": rand(rows, 20) * scale,  # a teacher of another width
        "wanted_weight": rand(VOCABULARY, 20),
        "targets": torch.randint(VOCABULARY, (rows,), generator=generator),
        "weights": rand(rows).abs(),
    }


def divergence_of(found, wanted, beta):
    """The definition, term by term; arguments are logs of shares."""
    p, q = wanted.exp(), found.exp()
    if beta == 0:
        return (p * (wanted - found)).sum(-1)
    if beta == 1:
        return (q * (found - wanted)).sum(-1)
    mixture = (beta * p + (1 - beta) * q).log()
    return beta * (p * (wanted - mixture)).sum(-1) + (1 - beta) * (q * (found - mixture)).sum(-1)


def plain(t, measure):
    """The loss by autograd."""
    logits = t["hidden"] @ t["weight"].T
    found = F.log_softmax(logits / measure.temperature, -1)
    wanted = F.log_softmax(t["wanted"] @ t["wanted_weight"].T / measure.temperature, -1)
    kl = divergence_of(found, wanted, measure.beta)
    nll = F.cross_entropy(logits, t["targets"], reduction="none")
    share = measure.text_share
    return ((1 - share) * kl * measure.temperature**2 + share * nll) @ t["weights"], kl, nll


def ours(t, measure):
    return fused_divergence(*(t[name] for name in t), measure)


def results(function, t, measure):
    leaves = {name: t[name].clone().requires_grad_() for name in ("hidden", "weight")}
    loss, kl, nll = function(t | leaves, measure)
    (2 * loss).backward()
    return loss.detach(), kl.detach(), nll.detach(), leaves["hidden"].grad, leaves["weight"].grad


BETAS, TEMPERATURES, SHARES = (0.0, 0.1, 0.5, 0.9, 1.0), (1.0, 2.5, 0.7), (0.0, 0.3, 1.0)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("beta", BETAS)
def test_loss_and_gradient_are_those_of_autograd(beta, temperature, share):
    measure, t = Measure(beta, temperature, share), tensors()
    found, expected = results(ours, t, measure), results(plain, t, measure)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)
    assert found[3].abs().max() > 0.01


@pytest.mark.parametrize("beta", BETAS)
def test_single_precision_agrees_also_where_shares_underflow(beta):
    t = tensors(torch.float32, scale=8.0)  # logits of some 30: most shares are far below the smallest float
    exact = {name: v.double() if v.is_floating_point() else v for name, v in t.items()}
    found, expected = results(ours, t, Measure(beta)), results(plain, exact, Measure(beta))
    for a, b in zip(found, expected, strict=True):
        assert torch.isfinite(a).all() and torch.allclose(a.double(), b, rtol=2e-4, atol=2e-3)


@given(seed=st.integers(0, 10_000), beta=st.floats(0.01, 0.99))
def test_a_divergence_is_never_negative_and_zero_only_for_equals(seed, beta):
    t = tensors(seed=seed, rows=3)
    _, kl, _ = ours(t, Measure(beta))
    entropy = -(beta * math.log(beta) + (1 - beta) * math.log1p(-beta))
    assert (kl > 0).all() and (kl <= entropy + 1e-12).all()  # Jensen-Shannon is bounded
    same = t | {"wanted": t["hidden"], "wanted_weight": t["weight"]}
    loss, none, _ = ours(same, Measure(beta))
    assert abs(loss) < 1e-12 and none.abs().max() < 1e-12


def test_the_ends_of_the_family_are_its_limits():
    t = tensors(scale=0.3)
    for end, near in ((0.0, 1e-7), (1.0, 1 - 1e-7)):
        _, kl, _ = ours(t, Measure(end))
        _, limit, _ = ours(t, Measure(near))
        assert torch.allclose(limit / 1e-7, kl, rtol=1e-4)


def likeliest(t, count):
    """What is stored of a teacher: ids, and logs of shares with the rest's."""
    wanted = F.log_softmax(t["wanted"] @ t["wanted_weight"].T, -1)
    top, ids = wanted.topk(count, -1)
    rest = wanted.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return ids, torch.cat([top, rest], -1)


def lumped(t, measure, count):
    """By autograd: all tokens but the teacher's likeliest are one."""
    ids, wanted = likeliest(t, count)
    logits = t["hidden"] @ t["weight"].T
    found = F.log_softmax(logits, -1)
    rest = found.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    kl = divergence_of(torch.cat([found.gather(-1, ids), rest], -1), wanted, measure.beta)
    nll = F.cross_entropy(logits, t["targets"], reduction="none")
    return torch.lerp(kl, nll, measure.text_share) @ t["weights"], kl, nll


@pytest.mark.parametrize("count", [1, 5, VOCABULARY - 1])
@pytest.mark.parametrize(("beta", "share"), [(0.0, 0.0), (0.0, 0.4), (0.5, 0.0), (1.0, 0.2)])
def test_from_the_likeliest_tokens_all_others_are_one(beta, share, count):
    measure, t = Measure(beta, text_share=share), tensors()

    def stored(t, measure):
        given = t["hidden"], t["weight"], *likeliest(t, count), t["targets"], t["weights"]
        return likeliest_divergence(*given, measure)

    found = results(stored, t, measure)
    expected = results(lambda t, measure: lumped(t, measure, count), t, measure)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    _, whole, *_ = results(ours, t, measure)
    assert (found[1] <= whole + 1e-9).all(), "merging tokens hides differences, it makes none"


def test_a_pupil_without_a_tail_and_a_head_without_a_gradient_stay_finite():
    t = tensors(torch.float32, scale=60.0)
    ids, logprobs = likeliest(t, 3)
    hidden = t["hidden"].clone().requires_grad_()
    loss, kl, _ = likeliest_divergence(hidden, t["weight"], ids, logprobs, t["targets"], t["weights"])
    loss.backward()
    assert torch.isfinite(kl).all() and torch.isfinite(hidden.grad).all() and t["weight"].grad is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": 1.5}, "beta: 1.5 is not a share"),
        ({"text_share": -0.1}, "text_share: -0.1 is not a share"),
        ({"temperature": 0.0}, "temperature: 0 is no temperature"),
        ({"beta": math.nan}, "is not a share"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Measure(**wrong)


def test_the_likeliest_tokens_say_nothing_of_another_temperature():
    t = tensors()
    ids, logprobs = likeliest(t, 3)
    with pytest.raises(ConfigError, match="another temperature"):
        likeliest_divergence(
            t["hidden"], t["weight"], ids, logprobs, t["targets"], t["weights"], Measure(temperature=2.0)
        )
