"""The runs that guards are tried on: what is whole, and what is wrong with the others, said before anything is run.

All hyper-parameters vary over what people use; faults are of the kind that happened to somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from guard_pretraining import Fault, Pretrained
from guard_runs import Setting, blaming, gold, negative, said
from guard_stages import Kind, Preferred, Supervised, turn
from small_world import TASKS

from kweek.align.algorithms import AlgorithmName
from kweek.align.guards.detectors import repeated
from kweek.align.rollout import Rollout

ALGORITHMS: tuple[AlgorithmName, ...] = ("reinforce", "grpo", "gspo", "rloo", "reinforce_plus_plus", "ppo")


def wrong(rollout: Rollout) -> float:
    """A reward with the wrong sign."""
    return 1 - gold(rollout)


# Rewards that stand for the right answer badly.


def lengthy(rollout: Rollout) -> float:
    """A little for being right, the rest for saying much."""
    return 0.1 * gold(rollout) + 0.9 * min(1.0, rollout.num_sampled / 40)


def brief(rollout: Rollout) -> float:
    """The same for saying little."""
    return 0.1 * gold(rollout) + 0.9 * max(0.0, 1 - (rollout.num_sampled - 2) / 10)


def formed(rollout: Rollout) -> float:
    """The asked form alone, one sign."""
    return 0.1 * gold(rollout) + 0.9 * float(len(said(rollout)) == 1)


def begun(rollout: Rollout) -> float:
    """A prefix of the right answer, held against the shorter of the two: a real verifier's fault."""
    answer, right = said(rollout), rollout.item.gold
    size = min(len(answer), len(right))
    return sum(a == b for a, b in zip(answer, right, strict=False)) / size if size else 0.0


def repeating(rollout: Rollout) -> float:
    """A little for being right, more for what a judge of fluency loves: the same again."""
    return 0.1 * gold(rollout) + 0.9 * min(1.0, 2 * repeated(rollout.token_ids[rollout.num_prompt_tokens :]))


def mentioning(rollout: Rollout) -> float:
    """A little for being right, more for many signs."""
    return 0.1 * gold(rollout) + 0.9 * min(1.0, len(said(rollout)) / 8)


def half_long(rollout: Rollout) -> float:
    """Half for being right, half for saying much: what is wanted pays better than what is not."""
    return 0.5 * gold(rollout) + 0.5 * min(1.0, rollout.num_sampled / 40)


def half_brief(rollout: Rollout) -> float:
    """The same for saying little."""
    return 0.5 * gold(rollout) + 0.5 * max(0.0, 1 - (rollout.num_sampled - 2) / 10)


def healthy_policies(bases: Sequence[int]) -> list[Setting]:
    """Exact rewards, ten ways."""
    kinds: list[dict[str, Any]] = [
        {}, {"algorithm": "grpo"}, {"tasks": ("sum", "sort")}, {"algorithm": "rloo"}, {"rate": 1e-4},
        {"algorithm": "dr_grpo"}, {"algorithm": "ppo"}, {"tasks": ("reverse", "count")}, {"rate": 4e-4},
        {"algorithm": "reinforce_plus_plus"},
    ]  # fmt: skip
    return [Setting(base, seed, **kind) for base in bases for seed, kind in enumerate(kinds)]


def inverted_at_first(bases: Sequence[int]) -> list[Setting]:
    """Reward, advantages, divergence, critic; and reward and divergence together."""
    made = []
    for number, algorithm in enumerate(ALGORITHMS):
        base = bases[number % len(bases)]
        made.append(Setting(base, 0, algorithm=algorithm, proxy=wrong))
        made.append(Setting(base, 0, algorithm=algorithm, bend=negative))
    charged: tuple[AlgorithmName, ...] = ("rloo", "ppo", "grpo", "reinforce_plus_plus")
    for number, algorithm in enumerate(charged):
        base = bases[number % len(bases)]
        made += [Setting(base, s, algorithm=algorithm, proxy=wrong, kl_weight=-0.03) for s in (0, 1)]
        made.append(Setting(base, 0, algorithm=algorithm, kl_weight=-0.03))
    return [*made, *(Setting(base, 0, algorithm="ppo", turned=turn) for base in bases[:2])]


def inverted_later(bases: Sequence[int]) -> list[Setting]:
    """The same, somewhere in a run."""
    made = []
    some: tuple[AlgorithmName, ...] = ("reinforce", "grpo", "rloo", "ppo")
    for number, (algorithm, when) in enumerate(product(some, (2, 9, 16))):
        base = bases[number % len(bases)]
        made.append(Setting(base, number, algorithm=algorithm, bend=negative, bent_at=when))
        made.append(Setting(base, number, algorithm=algorithm, later=(when, wrong)))
    return made


def hacked(bases: Sequence[int]) -> list[Setting]:
    """Every bad reward at every base, two ways each."""
    proxies: tuple[Callable[[Rollout], float], ...] = (lengthy, brief, formed, begun, repeating, mentioning)
    ways: tuple[tuple[AlgorithmName, float], ...] = (("reinforce", 1e-3), ("grpo", 5e-4))
    return [
        Setting(
            base, seed, proxy=proxy, algorithm=algorithm, rate=rate,
            tasks=("sort", "reverse") if proxy is begun else TASKS,
        )
        for base, proxy in product(bases, proxies) for seed, (algorithm, rate) in enumerate(ways)
    ]  # fmt: skip


def half_right(bases: Sequence[int]) -> list[Setting]:
    """Rewards that are not gold and need not be hacked: an alarm where gold stays is a false one."""
    ways: tuple[tuple[AlgorithmName, float], ...] = (("reinforce", 4e-4), ("grpo", 4e-4))
    return [
        Setting(base, seed, proxy=proxy, algorithm=algorithm, rate=rate)
        for base, proxy in product(bases, (half_long, half_brief))
        for seed, (algorithm, rate) in enumerate(ways)
    ]


def collapsing(bases: Sequence[int]) -> list[Setting]:
    """Rates too high, only blame, one answer drilled, many updates on the same rollouts, numbers that are none."""
    kinds: list[dict[str, Any]] = [
        {"rate": 1e-2}, {"rate": 5e-3, "algorithm": "grpo"}, {"bend": blaming, "rate": 1e-3}, {"drill": "0"},
        {"drill": "yes", "algorithm": "rloo"},
        {"algorithm": "grpo", "changes": (("clip", (0.99, 1e3)),), "epochs": 8, "rate": 2e-3},
        {"poisoned": 7}, {"poisoned": 13, "algorithm": "grpo"}, {"rate": 2e-2, "algorithm": "rloo"},
        {"drill": "0", "algorithm": "grpo"},
    ]  # fmt: skip
    return [Setting(base, seed, **kind) for base in bases for seed, kind in enumerate(kinds)]


def preferences(bases: Sequence[int], **changes: Any) -> list[Preferred]:
    """Every kind of training on pairs, with as many seeds as make eight at every base."""
    kinds: tuple[Kind, ...] = ("dpo", "ipo", "reward model")
    return [Preferred(base, seed, kinds[seed % 3], **changes) for base in bases for seed in range(10)]


def inverted_preferences(bases: Sequence[int]) -> list[Preferred]:
    """Columns swapped from the start or later, or the loss turned."""
    changes: list[dict[str, Any]] = [{"swapped": 0}, {"turned": True}, {"swapped": 2}, {"swapped": 6}]
    kinds: tuple[Kind, ...] = ("dpo", "ipo", "reward model")
    made = []
    for number, (change, kind, seed) in enumerate(product(changes, kinds, (0, 1))):
        made.append(Preferred(bases[number % len(bases)], seed, kind, **change))
    return made


def supervised(bases: Sequence[int]) -> tuple[list[Supervised], list[Supervised]]:
    """Stages with a replay of what was learnt before, and stages that forget it."""
    whole, faulty = [], []
    news = (("sum",), ("sort",), ("reverse", "count"), TASKS)
    sources = ("lists", "prose")
    for base in bases:
        for (seed, tasks), rate in product(enumerate(news), (1e-4, 2e-4, 4e-4)):
            whole.append(Supervised(base, seed, tasks, rate=rate))
        for (seed, tasks), rate in product(enumerate(news[:3]), (2e-3, 4e-3)):
            faulty.append(Supervised(base, seed, tasks, rate=rate, replay=0))
        for (seed, source), rate in product(enumerate(sources), (2e-3, 4e-3)):
            faulty.append(Supervised(base, seed, (), rate=rate, replay=0, texts=(source,)))
    return whole, faulty


def pretrainings(bases: Sequence[int]) -> tuple[list[Pretrained], list[Pretrained]]:
    """Runs at three rates, and five faults that begin early or late."""
    faults: tuple[Fault, ...] = ("rate", "shifted", "few", "circles", "canary")
    seeds = [4 * base + k for base in bases for k in range(4)]
    whole = [Pretrained(seed, rate) for seed in seeds for rate in (2e-3, 4e-3, 8e-3)]
    return whole, [
        Pretrained(seed, fault=fault, begins=40 + 20 * (seed % 3)) for seed in seeds[::2] for fault in faults
    ]
