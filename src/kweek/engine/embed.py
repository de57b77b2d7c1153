"""Texts to vectors with an encoder in this process: batched by length, order kept.

Legend: N texts, B texts of a batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kweek.errors import KweekError
from kweek.model.encoder import Encoder
from kweek.model.encoder_checkpoint import load_encoder
from kweek.model.sentence import SentenceConfig, load_sentence_config
from kweek.protocols import Progress, silent
from kweek.tokenize.wordpiece import WordPiece

#: Tokens of a batch, padding included: enough that matrix products are efficient, few enough that a layer's
#: inner states (1,536 wide in a small encoder) stay within tens of megabytes.
BATCH_TOKENS = 4096


class Embedder:
    """A sentence encoder: network, tokenizer, and what its folder says about pooling.

    Attributes:
        max_tokens: longest text it reads, special tokens included.
        dimension: D, the width of a vector.
        flop: arithmetic of all calls so far, padding included.
    """

    def __init__(self, encoder: Encoder, tokenizer: WordPiece, config: SentenceConfig) -> None:
        if tokenizer.vocab_size > encoder.config.vocab_size:
            raise KweekError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the encoder {encoder.config.vocab_size}",
                fix="use the tokenizer.json that came with the encoder",
            )
        self.encoder, self.tokenizer, self.config = encoder, tokenizer, config
        positions = encoder.config.max_positions
        self.max_tokens = min(positions, config.max_tokens or positions)
        self.dimension = encoder.config.hidden_size
        self.flop = 0.0

    @classmethod
    def load(cls, folder: Path | str) -> Embedder:
        """Load a checkpoint folder in the BERT layout, with or without the files of sentence-transformers.

        Raises:
            CheckpointError: something in the folder is missing, broken or not supported.
        """
        return cls(load_encoder(folder), WordPiece.load(folder), load_sentence_config(folder))

    def embed(
        self, texts: Sequence[str], *, truncate: bool = False, progress: Progress = silent
    ) -> npt.NDArray[np.float32]:
        """One vector per text, float32 (N, D), in the order of the texts.

        A vector does not depend on its neighbours in the batch but for rounding (some 1e-7).

        Args:
            truncate: cut longer texts to `max_tokens`; off, because what is cut off is silently not found again.
            progress: counts texts.

        Raises:
            KweekError: a text is too long, with its number of tokens and the limit.
        """
        rows = self._token_ids(texts, truncate)
        vectors_ND = np.empty((len(rows), self.dimension), dtype=np.float32)
        done = 0
        for batch in _batches(rows):
            vectors_ND[batch] = self._read([rows[index] for index in batch])
            done += len(batch)
            progress(done, len(rows))
        return vectors_ND

    def _token_ids(self, texts: Sequence[str], truncate: bool) -> list[list[int]]:
        if self.config.lower_case:
            texts = [text.lower() for text in texts]
        rows = self.tokenizer.encode_batch(texts, self.max_tokens if truncate else None)
        for number, ids in enumerate(rows):
            if len(ids) > self.max_tokens:
                raise KweekError(
                    f"text {number} has {len(ids)} tokens where the encoder reads at most {self.max_tokens}",
                    fix="cut the text into pieces, or pass truncate=True to embed only its beginning",
                )
        return rows

    @torch.inference_mode()
    def _read(self, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Vectors of one batch, (B, D)."""
        device = self.encoder.embeddings.word_embeddings.weight.device
        lengths_B = torch.tensor([len(ids) for ids in rows])
        width = int(lengths_B.max())
        ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
        for row, ids in enumerate(rows):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
        valid_BT = (torch.arange(width) < lengths_B[:, None]).to(device)
        padded = int(lengths_B.min()) < width
        hidden_BTD = self.encoder(ids_BT.to(device), valid_BT if padded else None)
        self.flop += len(rows) * self.encoder.config.num_flops(width)
        vectors: npt.NDArray[np.float32] = self.config.pool(hidden_BTD, valid_BT).cpu().numpy()
        return vectors


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of texts of like length, as many as fit into `BATCH_TOKENS` when padded; longest first."""
    order = sorted(
        range(len(rows)), key=lambda index: -len(rows[index])
    )  # what needs most memory fails first
    start = 0
    while start < len(order):
        size = max(1, BATCH_TOKENS // len(rows[order[start]]))
        yield order[start : start + size]
        start += size
