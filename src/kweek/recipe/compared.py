"""Compared answers as an artifact: the very tokens that were sampled, which the model chose, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kweek.align.environment import Item
from kweek.align.pairs import Pair
from kweek.align.rollout import Rollout
from kweek.errors import DataError
from kweek.protocols import Message
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.tokenize.chat import Chat, encode_chat
from kweek.tokenize.tokenizer import Tokenizer

FILE = "pairs.jsonl"


def row(chosen: Rollout, rejected: Rollout, *, held_out: bool, gold: float) -> dict[str, Any]:
    """One comparison of sampled answers as plain data.

    Args:
        held_out: never trained on.
        gold: by how much a judgement that no training sees values the chosen answer higher.
    """
    return _row(chosen.item, [_side(one) for one in (chosen, rejected)], held_out, gold)


def written_row(
    tokenizer: Tokenizer, item: Item, chosen: Message, rejected: Message, *, held_out: bool, gold: float
) -> dict[str, Any]:
    """The same of two answers that no model wrote, encoded as a model would have to write them; it is marked so."""
    made = _row(item, [_written(tokenizer, item, one) for one in (chosen, rejected)], held_out, gold)
    return made | {"written": True}


def _row(item: Item, sides: Sequence[Mapping[str, Any]], held_out: bool, gold: float) -> dict[str, Any]:
    return {
        "prompt": list(item.messages),
        "level": item.level,
        "chosen": sides[0],
        "rejected": sides[1],
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


def _written(tokenizer: Tokenizer, item: Item, message: Message) -> dict[str, Any]:
    """The whole answer up to the token that ends the turn, where a sampled one ends too."""
    chat = encode_chat(tokenizer, [*item.messages, message])
    own = [turn == len(item.messages) for turn in chat.turns]
    start, end = own.index(True), len(own) - own[::-1].index(True)
    return {
        "text": str(message["content"]),
        "prompt_ids": chat.token_ids[:start],
        "ids": chat.token_ids[start:end],
        "own": [int(one) for one in own[start:end]],
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
