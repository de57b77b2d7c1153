"""Practice: the specialist answers questions of its domain, and learns the answers that were right.

Expert iteration (`kweek.align.expert`) over an adapter, for domains with a judge and few worked answers, or none.
What was sampled is kept on disk until its round has been learnt, so a killed run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kweek.align.domain import Domain
from kweek.align.expert import demonstrations, select
from kweek.align.sampling import Drawing, sample
from kweek.align.specialist import Drill, OnStep, Schooling, school
from kweek.data.batches import Segment
from kweek.data.packing import keyed_generator
from kweek.errors import GuardError
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Progress, ShouldStop, never, silent
from kweek.store.files import read_json, write_json
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.trainer import Trained


@dataclass(frozen=True)
class Practice:
    """How much.

    Attributes:
        rounds: of sampling and learning.
        questions: of a round.
        samples: answers to each, at temperature 1.
    """

    rounds: int
    questions: int
    samples: int


@dataclass(frozen=True)
class Round:
    """What came of a round.

    Attributes:
        number: from 1.
        asked, right, kept: answers sampled, share of them that were right, different right ones learnt.
        sampling_flop: of the answers.
        trained: of what was learnt.
    """

    number: int
    asked: int
    right: float
    kept: int
    sampling_flop: float
    trained: Trained


def practise(
    network: Network,
    engine: LanguageModel,
    tokenizer: Tokenizer,
    domain: Domain,
    worked: Sequence[Segment],
    practice: Practice,
    schooling: Schooling,
    *,
    seed: int,
    state: Path,
    on_step: OnStep | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Iterator[Round]:
    """Rounds of practice, in place.

    Args:
        engine: answers with the network as it is now.
        worked: examples to learn beside one's own answers, as many of each.
        state: a folder for what goes on after a kill.

    Raises:
        GuardError: no answer was right, so there is nothing to learn.
    """
    learnt: list[Segment] = []
    for number in range(1, practice.rounds + 1):
        asked, right, flop, kept = _sampled(engine, tokenizer, domain, practice, seed, number, state)
        learnt += kept
        if not learnt:
            raise GuardError(
                f"none of {asked} answers was right, so there is nothing to learn",
                where=domain.name,
                fix="give some worked answers or a teacher first, or ask easier questions",
            )
        beside = [
            worked[int(at)]
            for at in keyed_generator("beside", seed, number).permutation(len(worked))[: len(learnt)]
        ]
        drill = Drill([*learnt, *beside], schooling, seed + number)
        trained = school(
            network, drill, schooling, drill.steps_per_epoch, state=state / f"phase-{number}.safetensors",
            on_step=on_step, progress=progress, should_stop=should_stop,
        )  # fmt: skip
        yield Round(number, asked, right, len(kept), flop, trained)


def _sampled(
    engine: LanguageModel,
    tokenizer: Tokenizer,
    domain: Domain,
    practice: Practice,
    seed: int,
    number: int,
    state: Path,
) -> tuple[int, float, float, list[Segment]]:
    """Answers asked for, share of right ones, FLOP, and what is to be learnt of them."""
    path = state / f"practice-{number}.json"
    if not path.exists():
        environment = domain.environment()
        items = environment.items(f"practice/{seed}/{number}", practice.questions, "train")
        groups = sample(
            engine, tokenizer, environment, items, samples=practice.samples, key=f"practice/{seed}/{number}",
            drawing=Drawing(),
        )  # fmt: skip
        rollouts = [one for group in groups for one in group]
        segments = demonstrations(select(groups))
        write_json(
            path,
            {
                "asked": len(rollouts),
                "right": sum(one.score.value for one in rollouts) / len(rollouts),
                "flop": sum(one.flop for one in rollouts),
                "segments": [
                    [part.ids.tolist(), part.targets.tolist(), part.weights.tolist()] for part in segments
                ],
            },
        )
    found = read_json(path)
    kept = [_segment(*arrays) for arrays in found["segments"]]
    return found["asked"], found["right"], found["flop"], kept


def _segment(ids: list[int], targets: list[int], weights: list[float]) -> Segment:
    return Segment(np.asarray(ids, np.int64), np.asarray(targets, np.int64), np.asarray(weights, np.float32))
