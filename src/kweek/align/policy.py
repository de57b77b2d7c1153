"""What a policy-gradient algorithm is: some switches, declared once, checked before anything is sampled.

Every algorithm of the family maximises, over the tokens t that the model chose in answers i,

    sum_i sum_t  surrogate(ratio, A_it) / divisor_i   -   kl_weight * sum_i sum_t  k3_it / divisor_i

and differs in the advantage A (`kweek.align.advantages`), the ratio, its clipping, where a divergence from a reference
is charged, and the divisor. `kweek.align.algorithms` names the usual combinations, `kweek.align.surrogate` computes the
sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kweek.errors import ConfigError

Advantage = Literal["group_mean", "group_scaled", "leave_one_out", "whitened", "generalised"]
Ratio = Literal["none", "token", "sequence"]
Divergence = Literal["none", "loss", "reward"]
Normaliser = Literal["tokens", "sequence", "constant"]
Overlong = Literal["keep", "mask", "penalise"]
Truncation = Literal["refuse", "correct"]

GROUPED = ("group_mean", "group_scaled", "leave_one_out")  # need several answers to an item


@dataclass(frozen=True)
class Policy:
    """The switches of one algorithm.

    Attributes:
        advantage: see `kweek.align.advantages`; `generalised` needs a critic.
        ratio: of the present policy to the one that sampled. "none" is the plain policy gradient A log p, right only
            while they are the same; "token" is PPO's, by token; "sequence" is GSPO's, the geometric mean over the
            tokens of an answer (Zheng et al. 2025, arXiv 2507.18071).
        clip: how far below and above 1 a ratio still moves the policy; two numbers may differ (DAPO's clip-higher, Yu
            et al. 2025, arXiv 2503.14476). None without a ratio.
        dual_clip: the most a ratio may weigh a negative advantage (Ye et al. 2020, arXiv 1912.09729); None is no limit.
        kl: where the divergence from the reference is charged. "reward" subtracts log p - log reference of the sampled
            tokens from the reward (Ziegler et al. 2019, arXiv 1909.08593), whose gradient is that of KL(p ||
            reference). "loss" adds the estimator k3 = exp(d) - d - 1 with d = log reference - log p, which is never
            negative; but since the sampling is not differentiated its expected gradient is that of the other
            divergence, KL(reference || p), equal to first order in d (Tang and Munos 2025, arXiv 2506.09477).
        kl_weight: its coefficient, from which an adaptive controller starts.
        normaliser: the divisor. "tokens": chosen tokens of the whole update, without those of groups that carry no
            signal, so every token weighs the same. "sequence": number of answers, all of them, times the answer's own
            length, GRPO's original; biased, as tokens of long answers weigh less: wrong ones are pushed away the less
            the longer they are. "constant": number of all answers times the limit on their length; every token weighs
            the same, and an update with short answers or few signals is smaller.
        overlong: answers that ran into the limit. "keep" judges what is there; "mask" takes them out of gradient and
            baseline alike, their true reward being unknown (DAPO leaves them in the baseline); "penalise" lowers the
            reward linearly, down to 1 less, over the last `overlong_tokens` before the limit (DAPO, equation 13).
        overlong_tokens: length of that ramp.
        gamma, decay: of the generalised advantage. Both 1: an answer is short and its reward comes at its end, so
            nothing has to be bought with bias.
        truncation: what to do with answers drawn by top-k, top-p or min-p, whose distribution is not the one that is
            differentiated. "correct" weighs each token by p / q, the mass that truncation kept; what it can never draw
            is then never learnt about, a bias of the mass that was cut off.
    """

    advantage: Advantage = "group_mean"
    ratio: Ratio = "none"
    clip: tuple[float, float] | None = None
    dual_clip: float | None = None
    kl: Divergence = "none"
    kl_weight: float = 0.0
    normaliser: Normaliser = "tokens"
    overlong: Overlong = "keep"
    overlong_tokens: int = 0
    gamma: float = 1.0
    decay: float = 1.0
    truncation: Truncation = "refuse"

    def __post_init__(self) -> None:
        """Raises ConfigError for switches that contradict each other."""
        if (self.ratio == "none") != (self.clip is None):
            raise _error("clip", "a clipped ratio needs bounds, and without a ratio there is nothing to clip")
        if self.clip is not None and not (0 < self.clip[0] < 1 and self.clip[1] > 0):
            raise _error("clip", f"{self.clip} is not a distance below 1 and one above, both positive")
        if self.dual_clip is not None and (self.ratio != "token" or self.dual_clip <= 1):
            raise _error("dual_clip", "it bounds a token's ratio from above, by more than 1")
        if self.kl_weight < 0:
            raise _error(
                "kl_weight", "a penalty is declared as a number of at least 0; the loop has its sign"
            )
        if (self.kl == "none") != (self.kl_weight == 0):
            raise _error("kl_weight", "a divergence that is charged has a weight above 0, else it is none")
        if (self.overlong == "penalise") != (self.overlong_tokens > 0):
            raise _error("overlong_tokens", "the ramp of the penalty has a length, and only there")
        if self.advantage == "generalised" and self.ratio == "sequence":
            raise _error("ratio", "the ratio of a whole answer cannot carry advantages of single tokens")
        if not (0 < self.gamma <= 1 and 0 <= self.decay <= 1):
            raise _error("gamma", "discounts lie between 0 and 1")
        if self.advantage != "generalised" and (self.gamma, self.decay) != (1, 1):
            raise _error("gamma", "only generalised advantages are discounted")

    def require_updates(self, count: int) -> None:
        """Raises ConfigError where so many updates on the same rollouts cannot be meant."""
        if self.ratio == "none" and count > 1:
            raise _error(
                "ratio",
                "a second update on the same rollouts needs a ratio: they are no longer the policy's own",
            )

    @property
    def grouped(self) -> bool:
        """Whether a group of equal rewards carries no signal."""
        return self.advantage in GROUPED

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model is asked."""
        return self.kl != "none"


def _error(key: str, what: str) -> ConfigError:
    return ConfigError(what, where=key)
