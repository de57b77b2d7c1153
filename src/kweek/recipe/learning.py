"""The algorithm of a stage of reinforcement: its keys, and its learner with what that needs."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import model_validator

from kweek.align.algorithms import AlgorithmName, named
from kweek.align.collecting import Course
from kweek.align.control import DivergenceControl
from kweek.align.critic import Critic
from kweek.align.environment import Environment
from kweek.align.learner import Learner
from kweek.align.policy import Policy
from kweek.align.reference import Reference
from kweek.errors import ConfigError
from kweek.model.network import Network
from kweek.model.scorer import scorer_from
from kweek.recipe.context import setting
from kweek.recipe.tasks import TaskConfig
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.trainer import Trainer


class LearningConfig(TaskConfig):
    """Keys of a stage that learns from rewards."""

    algorithm: AlgorithmName = setting(
        "reinforce",
        doc="reinforce, grpo, dr_grpo, dapo, gspo, rloo, reinforce_plus_plus or ppo, see docs/reinforcement.md",
        reason="one update on fresh samples needs no ratio, no critic and no reference, and learns as fast",
    )
    policy: dict[str, Any] = setting(
        {},
        doc="switches of the algorithm to change, by name: {kl: reward, kl_weight: 0.01}",
        reason="each algorithm as published",
    )
    steps: int = setting(60, doc="policy updates", reason="gains are large up to 50 and small after", ge=1)
    prompts: int = setting(24, doc="tasks per update", reason="as in the measured trial", ge=1)
    samples: int = setting(8, doc="answers sampled per task", reason="as in the measured trial", ge=2)
    epochs: int = setting(
        1, doc="passes over the answers of one batch", reason="the default algorithm is on policy", ge=1
    )
    minibatches: int = setting(1, doc="updates per pass", reason="the default algorithm is on policy", ge=1)
    rounds: int = setting(
        0,
        doc="how often groups of equal reward may be replaced by attempts at other tasks",
        reason="skipping them costs less time than sampling more",
        ge=0,
    )
    pool: int = setting(
        1,
        doc="tasks looked at for each one attempted; above 1 the success of each level so far decides",
        reason="the levels are few and all within reach",
        ge=1,
    )
    staleness: int = setting(
        0,
        doc="batches by which the weights that sample are behind those that learn; above 0 both run side by side",
        reason="the other core works on the other line of alignment",
        ge=0,
    )
    kl_target: float | None = setting(
        None,
        doc="nats per answer that the weight of the divergence is steered to",
        reason="exact rewards are not hacked, so the model may go as far as they lead",
        gt=0,
    )
    kl_budget: float | None = setting(
        None, doc="nats per answer from the start at which training ends", reason="as kl_target", gt=0
    )
    critic_learning_rate: float = setting(
        1e-3,
        doc="of all parameters of the critic, for ppo",
        reason="it starts from nothing and must run ahead",
        gt=0,
    )
    learning_rate: float = setting(
        2.5e-4, doc="of all parameters", reason="measured: 5e-4 and above unlearn the hardest stories", gt=0
    )
    warmup: int = setting(
        5, doc="updates of linear warm-up", reason="the moments of the optimiser start empty", ge=0
    )

    @model_validator(mode="after")
    def _can_be_meant(self) -> LearningConfig:
        try:
            policy = self.algorithm_policy()
            self.course().require_sense(policy)
            policy.require_updates(self.epochs * self.minibatches)
            DivergenceControl(policy.kl_weight, self.kl_target, self.kl_budget)
        except ConfigError as error:
            raise ValueError(f"{error.where}: {error.what}") from error
        return self

    def algorithm_policy(self) -> Policy:
        """The algorithm with its switches."""
        return named(self.algorithm, self.policy)

    def course(self) -> Course:
        """How many attempts at what."""
        return Course(
            self.steps, self.prompts, self.samples, self.warmup, self.rounds, self.pool, self.staleness
        )


def learner_of(config: LearningConfig, network: Network, environment: Environment, seed: int) -> Learner:
    """The algorithm with its optimiser, and with reference and critic where it has them."""
    policy = config.algorithm_policy()
    rate, wanted = config.learning_rate, config.kl_target or config.kl_budget
    reference = Reference(copy.deepcopy(network)) if policy.needs_reference or wanted else None
    critic = None
    if policy.advantage == "generalised":
        scorer, own = scorer_from(network, per_token=True), config.critic_learning_rate
        critic = Critic(
            Trainer(scorer, SplitOptimiser(scorer, LearningRates(own, own, own, own), weight_decay=0.0))
        )
    return Learner(
        Trainer(network, SplitOptimiser(network, LearningRates(rate, rate, rate, rate), weight_decay=0.0)),
        policy,
        limit=environment.max_new_tokens * environment.max_turns,
        critic=critic,
        reference=reference,
        control=DivergenceControl(policy.kl_weight, config.kl_target, config.kl_budget),
        epochs=config.epochs,
        minibatches=config.minibatches,
        seed=seed,
    )
