"""Scripted models for tests of compression: one that foresees words by chance, one that answers by rule."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from kweek.protocols import Completion, Request
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer


def word_tokenizer() -> Tokenizer:
    """A small byte-level tokenizer."""
    return bpe.train(["the cat and the dog met in the house of the king " * 20], 320)


class Foreseeing:
    """Scores tokens by a hash of them, of the seed and of whether a question stands before.

    Args:
        flop: of a token.
        scores: whether it does at all.
        most: positions that it has.
    """

    def __init__(self, seed: int = 0, flop: float = 2.0, scores: bool = True, most: int = 1 << 20) -> None:
        self.most = most
        self.seed, self.flop, self.scores, self.calls = seed, flop, scores, 0

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, int], None] | None = None
    ) -> list[Completion]:
        """Only scores."""
        self.calls += len(requests)
        done = []
        for request in requests:
            ids = list(request.prompt_ids)
            assert len(ids) <= self.most
            logprobs = [0.0, *(self._logprob(ids, at) for at in range(1, len(ids)))] if self.scores else None
            flop = self.flop * len(ids)
            done.append(Completion([], [], [], "length", len(ids), flop, prompt_logprobs=logprobs))
        return done

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """As `generate` does."""
        requests = [Request(ids, 0, prompt_logprobs=True) for ids in sequences]
        return [list(done.prompt_logprobs or ()) for done in self.generate(requests)]

    def _logprob(self, ids: Sequence[int], at: int) -> float:
        key = f"{self.seed} {ids[at]} {ids[1]}".encode()
        return math.log((hashlib.sha256(key).digest()[0] + 1) / 257)
