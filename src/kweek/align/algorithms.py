"""The algorithms by name: each a declaration over the switches of `kweek.align.policy`.

Notation: r_t = p(t) / p_old(t), A the advantage, R the reward of an answer, N answers in the update, |o| tokens of one,
L the limit on them. Keyword arguments change single switches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from kweek.align.policy import Policy
from kweek.errors import ConfigError


def reinforce(**changes: Any) -> Policy:
    """Sum of (R - group mean) log p / tokens of the update.

    Williams 1992 with the group's mean as baseline: on policy, one update on each batch, so no ratio. Dr. GRPO at a
    ratio of 1, but with all tokens of the update as divisor. Unbiased in direction but for the divisor, which is random
    and lightly correlated with the rewards.
    """
    return replace(Policy(), **changes)


def grpo(**changes: Any) -> Policy:
    """Mean over answers of (1/|o|) sum of min(r A, clip(r, 0.8, 1.2) A) - 0.04 k3, with A = (R - mean) / std.

    Shao et al. 2024, arXiv 2402.03300, equation 3, with its divergence weight. Biased twice: std favours items that are
    nearly always or never solved, 1/|o| favours long wrong answers over short wrong ones.
    """
    policy = Policy(
        advantage="group_scaled", ratio="token", clip=(0.2, 0.2), kl="loss", kl_weight=0.04, normaliser="sequence"
    )  # fmt: skip
    return replace(policy, **changes)


def dr_grpo(**changes: Any) -> Policy:
    """Sum of min(r A, clip(r, 0.8, 1.2) A) / (N L), with A = R - mean.

    Liu et al. 2025, arXiv 2503.20783: GRPO without its two biases, and without a divergence. What is left is the bias
    of clipping.
    """
    policy = Policy(advantage="group_mean", ratio="token", clip=(0.2, 0.2), normaliser="constant")
    return replace(policy, **changes)


def dapo(**changes: Any) -> Policy:
    """Sum of min(r A, clip(r, 0.8, 1.28) A) / tokens of the update, with A = (R - mean) / std.

    Yu et al. 2025, arXiv 2503.14476: clip-higher against the collapse of entropy, every token weighing the same, a soft
    penalty before the limit on length. Its dynamic sampling is the loop's `replace_rounds`. Keeps the bias of std.
    """
    policy = Policy(
        advantage="group_scaled", ratio="token", clip=(0.2, 0.28), overlong="penalise", overlong_tokens=16
    )
    return replace(policy, **changes)


def gspo(**changes: Any) -> Policy:
    """Mean over answers of min(s A, clip(s, 1 - 3e-4, 1 + 4e-4) A), s = (p(o) / p_old(o))^(1/|o|), A as in GRPO.

    Zheng et al. 2025, arXiv 2507.18071, equation 5. The geometric mean is no importance weight: biased off policy,
    with far less variance. The bounds are those of its section 5, since s moves far less than r does.
    """
    policy = Policy(advantage="group_scaled", ratio="sequence", clip=(3e-4, 4e-4), normaliser="sequence")
    return replace(policy, **changes)


def rloo(**changes: Any) -> Policy:
    """Sum of (R - mean of the other answers) log p / (N L), with R = reward - 0.03 sum of log p / p_ref.

    Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740. Unbiased on policy: one update on each batch. L only
    scales the step.
    """
    policy = Policy(advantage="leave_one_out", kl="reward", kl_weight=0.03, normaliser="constant")
    return replace(policy, **changes)


def reinforce_plus_plus(**changes: Any) -> Policy:
    """Sum of min(r A, clip(r, 0.8, 1.2) A) / tokens, A = reward - 0.01 log p / p_ref of what is to come, whitened.

    Hu 2025, arXiv 2501.03262. The divergence is that of the token and those after it, and the whitening over all tokens
    of the batch; needs no groups. Biased by the batch's std; the baseline knows no item, so easy items push all their
    answers up.
    """
    policy = Policy(advantage="whitened", ratio="token", clip=(0.2, 0.2), kl="reward", kl_weight=0.01)
    return replace(policy, **changes)


def ppo(**changes: Any) -> Policy:
    """Sum of min(r A, clip(r, 0.8, 1.2) A) / tokens, A generalised from a critic and whitened over the batch.

    Schulman et al. 2017, arXiv 1707.06347, equation 7; for language with token rewards -0.03 log p / p_ref and the
    score at the end (Ziegler et al. 2019, arXiv 1909.08593). Biased by the critic only as far as lambda < 1, by the
    clipping always.
    """
    policy = Policy(advantage="generalised", ratio="token", clip=(0.2, 0.2), kl="reward", kl_weight=0.03)
    return replace(policy, **changes)


AlgorithmName = Literal["reinforce", "grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_plus_plus", "ppo"]

#: Every algorithm by its name in recipes.
ALGORITHMS: Mapping[AlgorithmName, Callable[..., Policy]] = {
    "reinforce": reinforce,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "rloo": rloo,
    "reinforce_plus_plus": reinforce_plus_plus,
    "ppo": ppo,
}


def named(name: AlgorithmName, changes: Mapping[str, Any] | None = None) -> Policy:
    """An algorithm with some switches changed, as plain data says.

    Raises:
        ConfigError: a switch that no policy has, a value that it does not take, or switches that contradict each other.
    """
    known = [field.name for field in fields(Policy)]
    for switch in changes or {}:
        if switch not in known:
            near = get_close_matches(switch, known, 1)
            fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
            raise ConfigError(f"a policy has no switch {switch!r}", where="policy", fix=fix)
    try:
        return TypeAdapter(Policy).validate_python({**asdict(ALGORITHMS[name]()), **(changes or {})})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["policy", *map(str, first["loc"])])
        raise ConfigError(f"{first['msg']}, not {first['input']!r}", where=where) from error
