"""Offline distillation: a teacher reads sequences once, and what it predicts is kept for as many pupils as come.

Any `LanguageModel` that names its likeliest tokens can teach: an engine in this process, another program's, a server.
Training is then `kweek.train.distillation.StoredDistillation` on the segments of the predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kweek.data.batches import Segment
from kweek.data.predictions import Predicted, PredictionInfo, write_predictions
from kweek.errors import KweekError
from kweek.protocols import Completion, LanguageModel, Request
from kweek.store.artifact import ArtifactWriter
from kweek.tokenize.agreement import ids_fingerprint
from kweek.tokenize.tokenizer import Tokenizer

#: A row takes 66 bytes. Of a teacher of 1.3M parameters 16 tokens hold 99.8% of the shares in answers; in documents
#: only 64%, so more are worth their place there.
NUM_LIKELIEST = 16
READ_TOGETHER = 64  # sequences in one call: an engine is full with them, and their lists stay small


class Reading:
    """What a teacher says of sequences, as they are asked for.

    Args:
        teacher: scores prompts and names the likeliest tokens.
        segments: what it reads; predictions are kept where a token has a weight.
        num_likeliest: how many tokens it names.

    Attributes:
        flop: of what has been read so far; nan where the teacher does not know.
    """

    def __init__(
        self, teacher: LanguageModel, segments: Sequence[Segment], num_likeliest: int = NUM_LIKELIEST
    ) -> None:
        self.teacher, self.segments, self.num_likeliest = teacher, segments, num_likeliest
        self.flop = 0.0

    def __iter__(self) -> Iterator[Predicted]:
        """One for each segment, in order.

        Raises:
            KweekError: the teacher failed, or names fewer tokens than it was asked for.
        """
        for start in range(0, len(self.segments), READ_TOGETHER):
            part = self.segments[start : start + READ_TOGETHER]
            requests = [
                Request(tokens_of(one), 0, prompt_logprobs=True, num_prompt_top=self.num_likeliest)
                for one in part
            ]
            for one, request, done in zip(part, requests, self.teacher.generate(requests), strict=True):
                self.flop += done.flop
                yield self._predicted(one, request, done)

    def _predicted(self, one: Segment, request: Request, done: Completion) -> Predicted:
        if done.error is not None or done.stop_reason == "budget":
            raise KweekError(done.error or "the teacher's budget is spent")
        weights = np.concatenate([np.zeros(1, np.float32), one.weights])
        named = [done.prompt_top[int(place)] for place in np.nonzero(weights)[0]]
        if any(len(top) < self.num_likeliest for top in named):
            raise KweekError(
                f"the teacher names fewer than {self.num_likeliest} likeliest tokens", fix="ask for fewer"
            )
        pairs = np.array([top[: self.num_likeliest] for top in named]).reshape(-1, self.num_likeliest, 2)
        return Predicted(request.prompt_ids, weights, pairs[..., 0].astype(np.int64), pairs[..., 1])


def store_predictions(
    out: ArtifactWriter, reading: Reading, tokenizer: Tokenizer, vocab_size: int, teacher: str
) -> int:
    """Let a teacher read everything and write what it says; returns the number of rows.

    Args:
        out: an artifact of kind `kweek.data.predictions.KIND`.
        reading: teacher and sequences; its FLOP are known afterwards.
        tokenizer: of teacher and pupil.
        vocab_size: tokens that the teacher predicts.
        teacher: its name or fingerprint, for people.
    """
    info = PredictionInfo(vocab_size, reading.num_likeliest, ids_fingerprint(tokenizer), teacher)
    return write_predictions(out, reading, info)


def tokens_of(segment: Segment) -> list[int]:
    """All tokens of a segment: its inputs and the last target."""
    return [*segment.ids.tolist(), int(segment.targets[-1])]
