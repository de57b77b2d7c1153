"""What is repeated beside reinforcement, so that nothing is lost: small talk and text of pretraining."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from kweek.align.loop import Replay, nothing
from kweek.align.sft import chat_segments
from kweek.data import stories
from kweek.data.batches import Segment
from kweek.data.packing import PackedMix, Source, keyed_generator
from kweek.recipe.materials import Mix, token_sources
from kweek.store.artifact import Artifact
from kweek.tokenize.tokenizer import Tokenizer

LENGTH = 256  # of the replayed rows, as pretraining ended
TOKENS = 1024  # of text per update: a small weight on many tokens holds what was learnt with little noise
TALKS = 4  # chats of small talk per update


def replay(
    corpus: Artifact,
    tokenizer: Tokenizer,
    weight: float,
    steps: int,
    seed: int,
    chats: Sequence[Sequence[Mapping[str, Any]]] | None = None,
) -> Replay:
    """A function of the step: small talk (`chats`, where it is another) and a row of text, weighing `weight` each."""
    if weight == 0:
        return nothing
    talk = chat_segments(tokenizer, stories.small_talk() if chats is None else chats)
    sources: list[Source] = token_sources(corpus, tokenizer, Mix(0.3, 200_000, f"replay/{seed}"))
    texts = list(PackedMix(sources, [LENGTH] * steps, TOKENS, seed, tokenizer.eos_id).rows())

    def segments(step: int) -> list[Segment]:
        order = keyed_generator("talk", seed, step).permutation(len(talk))[:TALKS]
        result: list[Segment] = []
        for members in ([talk[int(i)] for i in order], [part for row in texts[step] for part in row]):
            total = sum(float(part.weights.sum()) for part in members)
            result += [dataclasses.replace(p, weights=p.weights * (weight / total)) for p in members]
        return result

    return segments
