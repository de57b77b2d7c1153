"""Compared answers as an artifact: the very tokens that were sampled, which the model chose, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kweek.align.pairs import Pair
from kweek.align.rollout import Rollout
from kweek.errors import DataError
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.tokenize.chat import Chat

FILE = "pairs.jsonl"


def row(chosen: Rollout, rejected: Rollout, *, held_out: bool, gold: float) -> dict[str, Any]:
    """One comparison as plain data.

    Args:
        held_out: never trained on.
        gold: by how much a judgement that no training sees values the chosen answer higher.
    """
    return {
        "prompt": list(chosen.item.messages),
        "level": chosen.item.level,
        "chosen": _side(chosen),
        "rejected": _side(rejected),
        "held_out": held_out,
        "gold": gold,
    }


def _side(rollout: Rollout) -> dict[str, Any]:
    start = rollout.num_prompt_tokens
    return {
        "text": str(rollout.messages[-1]["content"]),
        "prompt_ids": list(rollout.token_ids[:start]),
        "ids": list(rollout.token_ids[start:]),
        "own": [int(own) for own in rollout.sampled[start:]],
    }


def write_rows(out: ArtifactWriter, rows: Iterable[Mapping[str, Any]]) -> None:
    """One comparison a line."""
    out.write_text(FILE, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))


def read_rows(artifact: Artifact, *, held_out: bool) -> list[dict[str, Any]]:
    """The comparisons of one side of the split."""
    path = artifact.file(FILE)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [one for one in rows if one["held_out"] == held_out]
    if not found:
        raise DataError("no comparisons", where=str(path), fix="compare more answers")
    return found


def as_pair(one: Mapping[str, Any]) -> Pair:
    """A comparison as two sequences of which only the tokens that the model chose count."""
    return Pair(_chat(one["chosen"]), _chat(one["rejected"]))


def _chat(side: Mapping[str, Any]) -> Chat:
    prompt, ids = side["prompt_ids"], side["ids"]
    return Chat([*prompt, *ids], [-1] * len(prompt) + [0 if own else -1 for own in side["own"]])
