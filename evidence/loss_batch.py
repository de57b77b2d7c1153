"""The stored batch on which losses and gradients are compared: a small network, and what each kind of loss reads.

`python evidence/loss_batch.py` writes `evidence/loss_batch/` anew, `python evidence/trl_losses.py` (where TRL is
installed) its values on it. Everything that is compared reads the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kweek.align.kto import Judged
from kweek.align.pairs import Pair
from kweek.align.process import Chain
from kweek.align.sequences import network_logprobs
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.model.scorer import Scorer, scorer_from
from kweek.store import files
from kweek.tokenize.chat import Chat

FOLDER = Path(__file__).resolve().parent / "loss_batch"
VOCABULARY, NUM_PAIRS, PAD = 24, 6, 23


@dataclass(frozen=True)
class Stored:
    """What was stored; every per-token list is parallel to the tokens of its sequence.

    Attributes:
        pairs: with margins and reference log-probabilities.
        judged: the sides of the pairs as single answers, with strangers.
        old: by pair and side, the log-probability of every token when it was sampled.
        returns, old_values: likewise, what a critic learns and what it has said.
        chains: the chosen sides, cut into steps.
        rewards: of every chosen and every rejected side.
    """

    pairs: list[Pair]
    judged: list[Judged]
    old: list[list[list[float]]]
    returns: list[list[list[float]]]
    old_values: list[list[list[float]]]
    chains: list[Chain]
    rewards: list[list[float]]


def network(dtype: torch.dtype = torch.float64) -> Network:
    """The network, computing in `dtype`."""
    return _as(load_model(FOLDER), dtype)


def teacher(dtype: torch.dtype = torch.float64) -> Network:
    """Another network: the stored one with every row of its weights written backwards."""
    made = load_model(FOLDER)
    made.load_state_dict({name: value.flip(-1) for name, value in made.state_dict().items()})
    return _as(made, dtype)


def scorer(dtype: torch.dtype = torch.float64, *, per_token: bool = False) -> Scorer:
    """A scorer with the network's body and the stored head."""
    made = scorer_from(load_model(FOLDER), per_token=per_token, pad_token_id=PAD)
    head = files.read_json(FOLDER / "batch.json")["head"]
    with torch.no_grad():
        made.score.weight.copy_(torch.tensor([head[:-1]]))
        if per_token:
            made.score.bias.fill_(head[-1])
    return _as(made, dtype)


def _as(made: Any, dtype: torch.dtype) -> Any:
    made.to(dtype)
    made.compute_dtype = dtype
    return made


def _chat(row: Mapping[str, Any]) -> Chat:
    return Chat(row["ids"], [0 if own else -1 for own in row["mask"]])


def load() -> Stored:
    """Read the stored batch."""
    document = files.read_json(FOLDER / "batch.json")
    rows = document["pairs"]
    pairs = [
        Pair(
            *(_chat(row[side]) for side in SIDES),
            margin=row["margin"],
            chosen_reference=row["chosen"]["reference"],
            rejected_reference=row["rejected"]["reference"],
        )
        for row in rows
    ]
    judged = [
        Judged(getattr(pair, side), side == "chosen", row[side]["reference"])
        for pair, row in zip(pairs, rows, strict=True)
        for side in SIDES
    ]
    strangers = document["strangers"]
    judged = [
        replace(one, stranger=_chat(row), stranger_reference=row["reference"])
        for one, row in zip(judged, strangers, strict=True)
    ]
    streams = {
        name: [[row[side][name] for side in SIDES] for row in rows]
        for name in ("old", "returns", "old_values")
    }
    chains = [
        Chain(row["chosen"]["ids"], chain["ends"], chain["first_wrong"])
        for row, chain in zip(rows, document["chains"], strict=True)
    ]
    return Stored(pairs, judged, chains=chains, rewards=[row["rewards"] for row in rows], **streams)


SIDES = ("chosen", "rejected")


def make() -> None:
    """Draw everything from one generator and write it."""
    generator = np.random.default_rng(20)
    config = ModelConfig(VOCABULARY, 16, 32, 2, 2, 1, 8, max_positions=64, pad_token_id=PAD, eos_token_id=0)
    made = Network(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            mean = 1.0 if "norm" in name else 0.0
            parameter.copy_(torch.from_numpy(generator.normal(mean, 0.35, parameter.shape)))
    save_model(FOLDER, made)

    def floats(count: int, mean: float = 0.0, deviation: float = 1.0) -> list[float]:
        return [round(float(x), 4) for x in generator.normal(mean, deviation, count)]

    def near(ids: list[int], mean: float, deviation: float) -> list[float]:
        """Log-probabilities about as those of the network: what models say that were trained from it."""
        own = network_logprobs(made, [ids])[0]
        return [round(x + y, 4) for x, y in zip(own, floats(len(ids), mean, deviation), strict=True)]

    def sequence(prompt: list[int]) -> dict[str, Any]:
        length = int(generator.integers(2, 9))
        mask = [0] * len(prompt) + [1] * length
        if length > 4:
            mask[len(prompt) + 2] = 0  # what a tool returned in the middle of an answer
        ids = [*prompt, *generator.integers(0, PAD, length).tolist()]
        size = len(ids)
        return {
            "ids": ids, "mask": mask, "reference": near(ids, 0.0, 0.5), "old": near(ids, 0.0, 0.2),
            "returns": floats(size), "old_values": floats(size, 0, 0.5),
        }  # fmt: skip

    rows: list[dict[str, Any]] = []
    for _ in range(NUM_PAIRS):
        prompt = generator.integers(0, PAD, int(generator.integers(1, 6))).tolist()
        rows.append({"margin": round(float(generator.uniform(0, 1)), 3), "rewards": floats(2)})
        rows[-1] |= {side: sequence(prompt) for side in SIDES}
    flat = [row[side] for row in rows for side in SIDES]
    strangers = []
    for own, other in zip(flat, [*flat[1:], flat[0]], strict=True):
        start, begin = own["mask"].index(1), other["mask"].index(1)
        ids = [*own["ids"][:start], *other["ids"][begin:]]
        mask = [*own["mask"][:start], *other["mask"][begin:]]
        strangers.append(
            {"ids": ids, "mask": mask, "reference": [-abs(x) - 3.0 for x in floats(len(ids), 2.5)]}
        )
    chains = []
    for number, row in enumerate(rows):
        ends = sorted(set(generator.integers(1, len(row["chosen"]["ids"]), 3).tolist()))
        chains.append({"ends": ends, "first_wrong": None if number % 2 else number % len(ends)})
    document = {"pairs": rows, "strangers": strangers, "chains": chains, "head": floats(17, 0, 0.5)}
    files.write_text(FOLDER / "batch.json", json.dumps(document))


if __name__ == "__main__":
    make()
