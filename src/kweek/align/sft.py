"""Supervised chats: batches whose loss lies on the assistant's tokens, with a replay of pretraining text.

Without replay a chat stage of some hundred updates costs a tenth to half a bit per byte on the text learnt
before; with 256 replayed tokens per update at half weight it costs nothing measurable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kweek.data.batches import Batch, Segment, collate, pack, segment
from kweek.data.packing import PackedMix, Source, keyed_generator
from kweek.errors import GuardError
from kweek.model.network import Network
from kweek.tokenize.chat import encode_chat
from kweek.tokenize.tokenizer import Tokenizer

ROW_LENGTH = 256  # chats are packed into rows of the length pretraining ended with
NEW_ROW_NOISE = 0.1  # relative noise on copied rows, so that two tokens with one source can part

# Which known row each unseen special token starts from. `<tool>` and `</think>` must differ: initialised
# alike they are confused ("</think>68-16<result>").
SOURCES = {
    "<|im_start|>": "\n",
    "<|im_end|>": "<|endoftext|>",
    "<think>": "\n",
    "</think>": "\n\n",
    "<tool>": " ",
    "<result>": "=",
    "</result>": " ",
}


def chat_segments(tokenizer: Tokenizer, chats: Sequence[Sequence[Mapping[str, Any]]]) -> list[Segment]:
    """Chats as segments with weight 1 on every token the assistant writes itself."""
    segments = []
    for messages in chats:
        chat = encode_chat(tokenizer, list(messages))
        segments.append(segment(chat.token_ids, np.asarray(chat.loss_mask, np.float32)))
    if not any(part.weights.any() for part in segments):
        raise GuardError(
            "no token of any chat carries a loss",
            fix="check that the chat template marks what the assistant writes",
        )
    return segments


class ChatBatches:
    """Batches of `batch_size` chats in keyed order for some epochs, each with replayed rows beside them.

    The chats' loss is averaged over their weighted tokens, the replay's over its own, times `replay_weight`.
    """

    def __init__(
        self,
        chats: Sequence[Segment],
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        replay: Sequence[Source] = (),
        replay_tokens: int = 256,
        replay_weight: float = 0.5,
        eos_id: int = 0,
        row_length: int = ROW_LENGTH,
    ) -> None:
        self.chats, self.batch_size, self.epochs, self.seed = chats, batch_size, epochs, seed
        self.replay, self.replay_tokens, self.replay_weight, self.eos_id = (
            replay,
            replay_tokens,
            replay_weight,
            eos_id,
        )
        self.row_length = row_length
        self.steps_per_epoch = max(1, len(chats) // batch_size)
        self.num_steps = self.steps_per_epoch * epochs

    def __call__(self, first_step: int = 0) -> Iterator[Batch]:
        """Batches from `first_step` on, a pure function of seed and step."""
        replayed: Iterator[list[list[Segment]]] = iter(())
        if self.replay:
            mix = PackedMix(
                self.replay, [ROW_LENGTH] * self.num_steps, self.replay_tokens, self.seed, self.eos_id
            )
            replayed = mix.rows()
        for step in range(self.num_steps):
            rows_of_text = next(replayed, [])
            if step < first_step:
                continue
            epoch, position = divmod(step, self.steps_per_epoch)
            order = keyed_generator("chats", self.seed, epoch).permutation(len(self.chats))
            chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
            yield weighted(
                [self.chats[int(i)] for i in chosen],
                [part for row in rows_of_text for part in row],
                self.replay_weight,
                self.row_length,
            )


def weighted(
    chats: Sequence[Segment], replayed: Sequence[Segment], replay_weight: float, row_length: int = ROW_LENGTH
) -> Batch:
    """Pack chats and replayed text into rows; each group's weights are normalised by its own sum."""
    groups = [(chats, 1.0), (replayed, replay_weight)]
    segments: list[Segment] = []
    for members, share in groups:
        total = float(sum(part.weights.sum() for part in members))
        if total > 0:
            segments += [replace(p, weights=p.weights * np.float32(share / total)) for p in members]
    if not any(part.weights.any() for part in segments):
        raise GuardError(
            "a batch carries no loss at all", fix="raise the batch size or check the chats' masks"
        )
    return collate(pack(segments, row_length))


@torch.no_grad()
def initialise_special_rows(network: Network, tokenizer: Tokenizer, seed: int) -> list[str]:
    """Give embedding and head rows of tokens that pretraining never met those of known relatives, plus noise.

    Lifted a model taught on 64 chats from 12.8 to 49.5% in a measured trial. Returns the tokens initialised.
    """
    generator = torch.Generator().manual_seed(seed)
    tables: list[torch.Tensor] = [network.model.embed_tokens.weight]
    if not network.config.tied_embeddings:
        tables.append(network.head_weight)
    done = []
    for token, like in SOURCES.items():
        source = tokenizer.special.get(like)
        if source is None:
            source = tokenizer.encode(like)[-1]
        for table in tables:
            row = table[source]
            noise = torch.randn(row.shape, generator=generator) * row.std() * NEW_ROW_NOISE
            table[tokenizer.special[token]] = row + noise
        done.append(token)
    return done
