"""A divergence kept near a target: the coefficient of its penalty follows what is measured."""

from __future__ import annotations

from dataclasses import dataclass

from kweek.errors import ConfigError

GAIN = 0.1  # change of the coefficient per update at full error (Ziegler et al. 2019)
MOST = 0.2  # an error of one update counts at most this much: single batches are noisy


@dataclass
class DivergenceControl:
    """The proportional controller of Ziegler et al. 2019 (arXiv 1909.08593, section 2.2), with a budget.

        error = clip(kl / target - 1, -0.2, 0.2);   weight <- weight (1 + 0.1 error)

    Args:
        weight: coefficient of the penalty; where it begins.
        target: nats per answer between the policy and its reference; None leaves the weight as it is.
        budget: nats per answer above which training ends; None is no limit.

    Raises:
        ConfigError: a target or budget that is not above 0, a budget below the target, or a target without a weight to
            move.
    """

    weight: float
    target: float | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        for name in ("target", "budget"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(
                    f"{value:g} nats cannot be kept to", where=f"kl_{name}", fix="give it above 0"
                )
        if self.target is not None and self.weight == 0:
            raise ConfigError(
                "a target is steered to by the weight of the penalty, which is 0",
                where="kl_target",
                fix='set kl to "loss" or "reward" and kl_weight above 0',
            )
        if self.target is not None and self.budget is not None and self.budget < self.target:
            raise ConfigError(
                f"a budget of {self.budget:g} nats ends training below the target of {self.target:g}",
                where="kl_budget",
                fix="give a budget above the target",
            )

    def measured(self, kl: float) -> None:
        """Move the weight after an update that saw `kl` nats per answer."""
        if self.target is not None:
            self.weight *= 1 + GAIN * min(MOST, max(-MOST, kl / self.target - 1))

    def spent(self, kl: float) -> bool:
        """Whether the budget is used up."""
        return self.budget is not None and kl > self.budget
