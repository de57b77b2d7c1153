"""The figures of one step of reinforcement, for records, guards and people."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np

from kweek.align.collecting import Collected
from kweek.align.learner import Learned
from kweek.align.rollout import Group

QUANTILES = (0.1, 0.5, 0.9)  # of lengths: the middle, and what most answers lie between


@dataclass(frozen=True)
class Metrics:
    """What one batch of rollouts and the updates on it showed. Means are over all attempts that were judged.

    Attributes:
        step: batches learnt from, this one included.
        reward: mean score of the judge.
        shaped: mean of what the advantages were made from: less penalties and divergence, without replaced groups.
        kl: from the reference, nats per answer; None without one.
        kl_weight: coefficient of the divergence.
        entropy: mean surprisal of the sampled tokens, nats: an unbiased estimate of the entropy.
        length: mean number of new tokens.
        lengths: their 10th, 50th and 90th percentile.
        overlong: share of answers that ran into the limit.
        clip_share: share of chosen tokens whose gradient the clipping took away.
        ratio_low, ratio_high: extremes of the importance ratio.
        ratio: its largest absolute logarithm, nats.
        duplicates: share of attempts equal to another one at the same item.
        tool_share: share of attempts into which a tool or the environment put tokens.
        groups: attempted.
        groups_skipped: of equal reward, or without enough attempts: no signal.
        groups_replaced: of these, those that others took the place of.
        masked: answers left out for their length.
        faults: attempts left out because their judge failed.
        staleness: batches by which the weights that sampled were behind.
        logprob_gap: largest difference of engine and trainer on a sampled token, nats; None where not measured.
        updates: of the weights.
        loss, gradient_norm: of the updates, the mean and the largest.
        value_loss: mean squared error of the critic, None without one.
        seconds_sampling, seconds_judging, seconds_learning: of wall time.
        flop_rollout, flop_reward, flop_update: of sampling; of a reward model; of updates, critic and reference.
        success: mean score by level.
        group_rewards: mean score of every group, in the order in which they were attempted.
    """

    step: int
    reward: float
    shaped: float
    kl: float | None
    kl_weight: float
    entropy: float
    length: float
    lengths: tuple[float, ...]
    overlong: float
    clip_share: float
    ratio_low: float
    ratio_high: float
    ratio: float
    duplicates: float
    tool_share: float
    groups: int
    groups_skipped: int
    groups_replaced: int
    masked: int
    faults: int
    staleness: int
    logprob_gap: float | None
    updates: int
    loss: float
    gradient_norm: float
    value_loss: float | None
    seconds_sampling: float
    seconds_judging: float
    seconds_learning: float
    flop_rollout: float
    flop_reward: float
    flop_update: float
    success: dict[str, float]
    group_rewards: tuple[float, ...]

    @property
    def flop(self) -> float:
        """All of the step."""
        return self.flop_rollout + self.flop_reward + self.flop_update

    def numbers(self) -> dict[str, float]:
        """Every single figure that was measured, by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int | float)}


def measure(collected: Collected, learned: Learned, kl_weight: float, seconds_learning: float) -> Metrics:
    """The figures of a batch that has been learnt from."""
    groups = collected.all_groups
    rollouts = [rollout for group in groups for rollout in group]
    sizes = [len(rollout.token_ids) - rollout.num_prompt_tokens for rollout in rollouts]
    surprisals = [-lp for r in rollouts for lp, own in zip(r.logprobs, r.sampled, strict=True) if own]
    shaped = [reward for group in learned.prepared.rewards for reward in group]
    levels: dict[str, list[float]] = {}
    for rollout in rollouts:
        levels.setdefault(rollout.item.level, []).append(rollout.score.value)
    ratios, steps = learned.ratios, learned.steps
    replaced = len(collected.equal)
    return Metrics(
        step=collected.step + 1,
        reward=_mean([rollout.score.value for rollout in rollouts]),
        shaped=_mean(shaped),
        kl=learned.prepared.kl,
        kl_weight=kl_weight,
        entropy=_mean(surprisals),
        length=_mean(sizes),
        lengths=tuple(np.quantile(sizes, QUANTILES).tolist()) if sizes else (),
        overlong=_mean([rollout.stop_reason == "length" for rollout in rollouts]),
        clip_share=ratios.clip_share,
        ratio_low=ratios.lowest,
        ratio_high=ratios.highest,
        ratio=ratios.largest,
        duplicates=1 - sum(_distinct(group) for group in groups) / max(1, len(rollouts)),
        tool_share=_mean([not all(r.sampled[r.num_prompt_tokens :]) for r in rollouts]),
        groups=len(groups),
        groups_skipped=replaced + learned.prepared.skipped,
        groups_replaced=replaced,
        masked=learned.prepared.masked,
        faults=len(collected.faults),
        staleness=collected.step - collected.version,
        logprob_gap=collected.gap if learned.gap is None else learned.gap,
        updates=len(steps),
        loss=_mean([step.loss for step in steps]),
        gradient_norm=max([step.gradient_norm for step in steps], default=0.0),
        value_loss=_mean(learned.value_errors) if learned.value_errors else None,
        seconds_sampling=collected.seconds_sampling,
        seconds_judging=collected.seconds_judging,
        seconds_learning=seconds_learning,
        flop_rollout=collected.flop_rollout,
        flop_reward=collected.flop_reward,
        flop_update=learned.flop,
        success={level: fmean(values) for level, values in sorted(levels.items())},
        group_rewards=tuple(round(_mean([r.score.value for r in group]), 6) for group in groups if group),
    )


def _mean(values: list[float] | list[int] | list[bool]) -> float:
    """The mean; 0 of nothing."""
    return float(fmean(values)) if values else 0.0


def _distinct(group: Group) -> int:
    """Different attempts among those of a group."""
    return len({tuple(rollout.token_ids) for rollout in group})
