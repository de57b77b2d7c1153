"""Group-relative policy gradient on verifiable problems.

For every prompt a group of answers is sampled; an answer's advantage is its reward minus the group's mean
(Shao et al. 2024, arXiv 2402.03300, without the division by the standard deviation, which over-weights
prompts that are nearly always or nearly never solved: Liu et al. 2025, arXiv 2503.20783). One update is made
on the samples of the very weights that drew them, so the importance ratio is one and needs neither clipping
nor an old policy. Sampling is from the full softmax at temperature 1: the distribution that is differentiated.

Tokens forced by a tool carry no weight: they were not the model's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kweek.align.sft import ROW_LENGTH
from kweek.data.batches import Segment, collate, pack, segment
from kweek.data.stories import Problem
from kweek.errors import GuardError
from kweek.evaluate.problems import Asker, Outcome
from kweek.model.network import Network
from kweek.protocols import Completion
from kweek.train.trainer import StepResult, Trainer

ROWS_PER_MICROBATCH = 32  # 8k tokens at a time keep activations of a small network in some 100 MB
MAX_LOGPROB_GAP = 1e-2  # nats; engine and trainer both compute in fp32 and agree to about 1e-5


@dataclass(frozen=True)
class Update:
    """What one policy update saw."""

    reward: float  # mean over all samples
    length: float  # mean number of new tokens
    entropy: float  # mean surprisal of the sampled tokens, nats: an unbiased estimate of the entropy
    tool_share: float
    groups_skipped: int  # groups of equal reward carry no signal
    logprob_gap: float  # largest difference between what the engine and the trainer say of a sampled token
    step: StepResult | None


def advantages(rewards: Sequence[float]) -> list[float]:
    """Reward minus the group's mean; all zero when every reward is equal.

    >>> advantages([1.0, 0.0, 0.0, 1.0])
    [0.5, -0.5, -0.5, 0.5]
    """
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def policy_segments(outcomes: Sequence[Outcome], weights: Sequence[float]) -> list[Segment]:
    """One segment per answer, weighing each sampled token by its advantage and everything else by zero.

    Minimising weight times negative log-likelihood raises the probability of answers of positive weight.
    """
    segments = []
    for outcome, weight in zip(outcomes, weights, strict=True):
        sampled = np.asarray(outcome.completion.sampled, np.float32)
        per_token = np.concatenate(
            [np.zeros(len(outcome.prompt_ids), np.float32), sampled * np.float32(weight)]
        )
        segments.append(segment([*outcome.prompt_ids, *outcome.completion.token_ids], per_token))
    return segments


def normalised(segments: Sequence[Segment]) -> list[Segment]:
    """Divide all weights by the number of weighted tokens in the whole batch."""
    count = sum(int(np.count_nonzero(part.weights)) for part in segments)
    return [replace(p, weights=p.weights / np.float32(max(count, 1))) for p in segments]


def update(
    trainer: Trainer, groups: Sequence[Sequence[Outcome]], factor: float, replay: Sequence[Segment] = ()
) -> Update:
    """One policy update on groups of sampled answers, with supervised `replay` segments beside them.

    Raises:
        GuardError: engine and trainer disagree about the probability of what was sampled.
    """
    samples = [outcome for group in groups for outcome in group]
    chosen: list[Outcome] = []
    weights: list[float] = []
    skipped = 0
    for group in groups:
        values = advantages([float(outcome.correct) for outcome in group])
        if not any(values):
            skipped += 1
            continue
        chosen += group
        weights += values
    result, gap = None, 0.0
    if chosen:
        segments = normalised(policy_segments(chosen, weights))
        rows = pack([*segments, *replay], ROW_LENGTH)
        parts = [rows[i : i + ROWS_PER_MICROBATCH] for i in range(0, len(rows), ROWS_PER_MICROBATCH)]
        batches = [collate(part) for part in parts]
        result = trainer.step(batches, factor)
        nll_by_row = [
            row
            for batch, nll in zip(batches, result.nll, strict=True)
            for row in nll.view(batch.ids_BT.shape)
        ]
        gap = logprob_gap(rows, nll_by_row, {id(s): o for s, o in zip(segments, chosen, strict=True)})
        if gap > MAX_LOGPROB_GAP:
            raise GuardError(
                f"engine and trainer disagree by {gap:.3g} nats on a sampled token, over {MAX_LOGPROB_GAP}",
                fix="sample and train in the same precision and from the same distribution",
            )
    sampled = [
        lp
        for o in samples
        for lp, own in zip(o.completion.logprobs, o.completion.sampled, strict=True)
        if own
    ]
    return Update(
        float(np.mean([o.correct for o in samples])),
        float(np.mean([o.num_new_tokens for o in samples])),
        -float(np.mean(sampled)),
        float(np.mean([o.used_tool for o in samples])),
        skipped,
        gap,
        result,
    )


def logprob_gap(
    rows: Sequence[Sequence[Segment]], nll_by_row: Sequence[torch.Tensor], outcomes: dict[int, Outcome]
) -> float:
    """Largest absolute difference, in nats, between the engine's log-probabilities and those of the update.

    `outcomes` maps the identity of a segment to the answer it came from; replayed segments are not in it.
    """
    worst = 0.0
    for row, nll_T in zip(rows, nll_by_row, strict=True):
        start = 0
        for part in row:
            if (outcome := outcomes.get(id(part))) is not None:
                first = start + len(outcome.prompt_ids) - 1  # position that predicts the first new token
                own = np.asarray(outcome.completion.sampled)
                ours = -nll_T[first : first + len(own)].numpy()[own]
                theirs = np.asarray(outcome.completion.logprobs)[own]
                worst = max(worst, float(np.abs(ours - theirs).max(initial=0.0)))
            start += len(part)
    return worst


def check_sign(trainer: Trainer, asker: Asker, problems: Sequence[Problem]) -> SignCheck:
    """Make sure that the whole path from reward to gradient prefers right answers, before the first update.

    Every problem gets its own right answer and a wrong one, both as tokens. They pass the very verifier,
    advantages, weights and loss that training uses; then a tiny step against the gradient must raise the
    log-probability of right answers relative to wrong ones. The weights are put back afterwards.

    Raises:
        GuardError: a wrong answer is rewarded at least as much as a right one, or the step prefers wrong answers.
    """
    groups = []
    for item in problems:
        wrong = str(int(item.answer) + 1)
        groups.append([_as_outcome(asker, item, item.answer), _as_outcome(asker, item, wrong)])
    rewards = [[float(outcome.correct) for outcome in group] for group in groups]
    ranked = sum(right > wrong for right, wrong in rewards)
    if ranked < len(groups):
        raise GuardError(
            f"the reward ranks only {ranked} of {len(groups)} right answers above wrong ones",
            fix="look at the reward's sign and shaping: training would teach wrong answers",
        )
    flat = [outcome for group in groups for outcome in group]
    weights = [value for group in rewards for value in advantages(group)]
    batch = collate(pack(normalised(policy_segments(flat, weights)), ROW_LENGTH))
    before = _margin(trainer.network, flat)
    parameters = [p for p in trainer.network.parameters() if p.requires_grad]
    saved = [p.detach().clone() for p in parameters]
    loss = trainer.loss(batch).value
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = float(torch.sqrt(sum(((g**2).sum() for g in gradients if g is not None), torch.zeros(()))))
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            if g is not None:
                p.sub_(g, alpha=PROBE_STEP / max(norm, 1e-12))
        after = _margin(trainer.network, flat)
        for p, old in zip(parameters, saved, strict=True):
            p.copy_(old)
    if not after > before:
        raise GuardError(
            f"an update would make right answers less likely than wrong ones (margin {before:.4f} to {after:.4f} nats)",
            fix="look at the sign of reward, weights and loss together",
        )
    return SignCheck(len(groups), before, after)


PROBE_STEP = 1e-2  # length of the probing step: far below one training update, far above rounding


@dataclass(frozen=True)
class SignCheck:
    """Mean log-probability margin of right over wrong answers, in nats, before and after the probing step."""

    num_pairs: int
    margin_before: float
    margin_after: float


def _as_outcome(asker: Asker, item: Problem, answer: str) -> Outcome:
    """What `asker` makes of a given answer, as if the model had sampled it."""
    request = asker.request(item, 1.0, 0)
    ids = [*asker.tokenizer.encode(answer), asker.tokenizer.special["<|im_end|>"]]
    completion = Completion(ids, [True] * len(ids), [0.0] * len(ids), "stop", len(request.prompt_ids), 0.0)
    return asker.read(item, request, completion)


@torch.no_grad()
def _margin(network: Network, outcomes: Sequence[Outcome]) -> float:
    """Mean log-probability of right answers minus that of wrong ones, over their sampled tokens."""
    totals = {True: 0.0, False: 0.0}
    for outcome in outcomes:
        part = policy_segments([outcome], [1.0])[0]
        ids_BT = torch.from_numpy(part.ids)[None]
        logits_TV = network.logits(network(ids_BT))[0].log_softmax(-1)
        logprobs_T = logits_TV.gather(-1, torch.from_numpy(part.targets)[:, None])[:, 0]
        totals[outcome.correct] += float((logprobs_T * torch.from_numpy(part.weights)).sum())
    return (totals[True] - totals[False]) / (len(outcomes) / 2)
