"""The objective against loops in float64 that follow the papers' formulas, value and gradient."""

import math

import numpy as np
import pytest
import torch
from policy_world import a_rollout, small_policy
from torch.utils.flop_counter import FlopCounterMode, addmm_flop

from kweek.align.advantages import group_mean
from kweek.align.algorithms import dapo, dr_grpo, grpo, gspo, ppo, reinforce, rloo
from kweek.align.lessons import Lesson, chosen, policy_segments
from kweek.align.measures import ratios
from kweek.align.policy import Policy
from kweek.align.surrogate import Surrogate, objective_for
from kweek.data.batches import collate, pack, segment
from kweek.train.objective import Likelihood

LIMIT = 16


def lessons(seed=0, spread=0.5, kept=False):
    """Six answers with forced tokens among the sampled ones, off policy by about `spread` nats a token."""
    generator = np.random.default_rng(seed)
    network = small_policy().double()
    found = []
    for number in range(6):
        prompt, new = int(generator.integers(2, 6)), int(generator.integers(2, 9))
        ids = generator.integers(0, 400, prompt + new).tolist()
        own = [False] * prompt + [bool(x) for x in generator.random(new) < 0.8]
        own[prompt] = True
        now = logprobs(network, ids, 1.0).detach().numpy()
        old = [float(x + generator.normal() * spread) if o else 0.0 for x, o in zip(now, own, strict=True)]
        mass = [float(x) for x in generator.uniform(0.5, 1.0, len(ids))] if kept else []
        drawn = [o - math.log(m) for o, m in zip(old, mass, strict=True)] if kept else old
        rollout = a_rollout(ids, prompt, float(number % 2), drawn, own, kept_mass=mass)
        per_token = chosen(rollout) * np.float32(generator.normal())
        reference = np.where(own, now + generator.normal(size=len(ids)) * 0.3, 0).astype(np.float32)
        found.append(Lesson(rollout, per_token, reference))
    return found


def logprobs(network, ids, temperature):
    """Log-probability of every token at a temperature; the first has 0."""
    ids_BT = torch.as_tensor(ids)[None]
    logits = network.logits(network(ids_BT))[0, :-1] / temperature
    said = logits.log_softmax(-1).gather(-1, ids_BT[0, 1:, None])[:, 0]
    return torch.cat([said.new_zeros(1), said])


def by_the_formula(policy, network, parts, temperature=1.0):
    """The loss, token by token."""
    tokens = sum(sum(p.rollout.sampled) for p in parts)
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        rollout = part.rollout
        own = [t for t, sampled in enumerate(rollout.sampled) if sampled]
        now = logprobs(network, rollout.token_ids, temperature)
        mass = rollout.kept_mass or [1.0] * len(rollout.token_ids)
        old = [rollout.logprobs[t] + math.log(mass[t]) for t in range(len(mass))]
        size = {"tokens": tokens, "sequence": len(parts) * len(own), "constant": len(parts) * LIMIT}[
            policy.normaliser
        ]
        mean = sum((now[t] - old[t] for t in own), torch.zeros((), dtype=torch.float64)) / len(own)
        for t in own:
            a = float(part.advantages[t])
            if policy.ratio == "none":
                term = a * now[t]
            else:
                r = torch.exp(mean if policy.ratio == "sequence" else now[t] - old[t])
                low, high = policy.clip
                term = torch.minimum(r * a, torch.clamp(r, 1 - low, 1 + high) * a)
                if policy.dual_clip is not None and a < 0:
                    term = torch.maximum(term, torch.tensor(policy.dual_clip * a, dtype=torch.float64))
            if policy.kl == "loss":
                d = float(part.reference[t]) - now[t]
                term = term - policy.kl_weight * (torch.exp(d) - d - 1)
            total = total - mass[t] * term / size
    return total


CASES = {
    "reinforce": (reinforce(), 1.0, False),
    "grpo": (grpo(), 1.0, False),
    "dr_grpo": (dr_grpo(), 1.0, False),
    "dapo": (dapo(), 1.0, False),
    "gspo": (gspo(clip=(0.1, 0.1)), 1.0, False),
    "gspo, as published": (gspo(), 1.0, False),
    "rloo": (rloo(), 1.0, False),
    "ppo": (ppo(), 1.0, False),
    "dual clip": (ppo(dual_clip=1.1), 1.0, False),
    "tempered": (grpo(kl="none", kl_weight=0.0), 0.6, False),
    "tempered reinforce": (reinforce(), 1.7, False),
    "truncated": (dr_grpo(truncation="correct"), 1.0, True),
    "truncated reinforce": (reinforce(truncation="correct"), 1.0, True),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_formula(name):
    policy, temperature, kept = CASES[name]
    parts = lessons(kept=kept)
    objective = objective_for(policy, temperature)
    as_weights = isinstance(objective, Likelihood)
    assert as_weights == (policy.ratio == "none" and policy.kl != "loss" and temperature == 1)
    network = small_policy().double()
    rows = pack(policy_segments(parts, policy, LIMIT, as_weights=as_weights), 14)
    assert len(rows) > 2
    ours = 0.0
    for batch in (collate(rows[:2]), collate(rows[2:])):  # micro-batches add up
        hidden = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        loss = objective(network, hidden, batch).value
        loss.backward()
        ours += loss.item()
    twin = small_policy().double()
    theirs = by_the_formula(policy, twin, parts, temperature)
    theirs.backward()
    assert ours == pytest.approx(theirs.item(), abs=1e-6)
    largest = 0.0
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        largest = max(largest, float(b.grad.abs().max()))
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
    assert largest > 1e-3, "a comparison of zeros would pass"


def test_a_batch_that_clips_everything_moves_nothing():
    policy = Policy(ratio="token", clip=(0.2, 0.2))
    network = small_policy()
    ids = [1, 2, 3, 4, 5]
    now = logprobs(network, ids, 1.0).detach().tolist()
    good = a_rollout(ids, 2, 1.0, [0.0, 0.0, *(x - 1.0 for x in now[2:])])  # e times as likely as when drawn
    bad = a_rollout(ids, 2, 0.0, [0.0, 0.0, *(x + 1.0 for x in now[2:])])
    advantages = group_mean([1.0, 0.0])
    parts = [Lesson(r, chosen(r) * np.float32(a)) for r, a in zip((good, bad), advantages, strict=True)]
    batch = collate([policy_segments(parts, policy, LIMIT, as_weights=False)])
    loss = Surrogate(policy)(
        network, network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT), batch
    )
    loss.value.backward()
    assert all(not p.grad.any() for p in network.parameters() if p.grad is not None)
    assert loss.flop == -2 * 2 * network.head_weight.numel() * batch.targets_BT.numel(), (
        "logits, and no gradient"
    )
    seen = ratios([batch], [loss.nll_N], policy)
    assert (seen.clipped, seen.count) == (6, 6)
    assert (seen.lowest, seen.highest) == pytest.approx((math.exp(-1), math.e), rel=1e-4)
    assert seen.largest == pytest.approx(1.0, rel=1e-4)


def test_supervised_text_beside_the_policy_keeps_its_own_loss():
    policy, network = dr_grpo(), small_policy()
    parts = policy_segments(lessons(), policy, LIMIT, as_weights=False)
    text = segment([5, 6, 7, 8], [0.0, 0.1, 0.1, 0.1])
    objective = Surrogate(policy, temperature=1.5)

    def of(row):
        batch = collate([row])
        return objective(
            network, network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT), batch
        )

    alone, together, policies = of([text]).value, of([*parts, text]), of(parts).value
    assert together.value.item() == pytest.approx(policies.item() + alone.item(), rel=1e-5)
    assert together.parts["likelihood"] == pytest.approx(alone.item(), rel=1e-5)


def test_parts_name_entropy_and_divergence():
    policy, network = grpo(), small_policy()
    batch = collate([policy_segments(lessons(), policy, LIMIT, as_weights=False)])
    loss = Surrogate(policy)(
        network, network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT), batch
    )
    assert loss.parts["entropy"] > 1 and loss.parts["kl"] > 0
    assert loss.value.item() == pytest.approx(
        loss.parts["surrogate"] + loss.parts["likelihood"] + 0.04 * loss.parts["kl"], rel=1e-5
    )


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("policy", [grpo(), dapo(), gspo(clip=(0.1, 0.1))])
def test_the_cost_of_the_head_is_that_of_its_operators(policy, frozen):
    """Beside the products that the trainer counts for every token: three, or two of a head that is frozen."""
    network, text = small_policy(), segment([5, 6, 7, 8], [0.0, 0.1, 0.1, 0.1])
    network.lm_head.weight.requires_grad_(not frozen)
    batch = collate([[*policy_segments(lessons(), policy, LIMIT, as_weights=False), text]])
    hidden = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
    hidden = hidden.detach().requires_grad_()
    in_place = {torch.ops.aten.addmm_: lambda total, a, b, *_, **__: addmm_flop(total, a, b)}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        loss = Surrogate(policy)(network, hidden, batch)
        loss.value.backward()
    counted = 2 * network.head_weight.numel() * batch.targets_BT.numel() * (2 if frozen else 3)
    assert counter.get_total_flops() == counted + loss.flop
    learnt = hidden.grad.flatten(0, 1).any(-1).sum()
    own = sum(sum(part.rollout.sampled) for part in lessons())
    assert learnt > 3 and (learnt < own + 3) == (policy.kl != "loss"), "some tokens are clipped"
