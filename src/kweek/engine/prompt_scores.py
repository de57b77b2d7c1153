"""What the logits at the places of a prompt say of it: its tokens' log-probabilities and ranks, and the likeliest.

Shapes: T places, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Top = list[tuple[int, float]]


@dataclass
class PromptScores:
    """One entry for each token of a prompt so far; the first has no context, so 0.0, rank 0 and no alternatives.

    Attributes:
        logprobs: natural logs under the full softmax.
        ranks: 1 for the likeliest token.
        top: the likeliest (id, natural log) at that place, best first, with the very floats of `logprobs` where the
            prompt's own token is among them.
    """

    logprobs: list[float] = field(default_factory=lambda: [0.0])
    ranks: list[int] = field(default_factory=lambda: [0])
    top: list[Top] = field(default_factory=lambda: [[]])

    def __len__(self) -> int:
        return len(self.logprobs)

    def take(
        self,
        own: Sequence[int],
        logits_TV: npt.NDArray[np.float32],
        logprobs: Sequence[float],
        num_top: int,
    ) -> None:
        """Append the scores of the next tokens.

        Args:
            own: the prompt's tokens after those whose logits these are.
            logits_TV: one row for each.
            logprobs: natural log of each own token.
            num_top: how many of the likeliest to keep.
        """
        own_T = logits_TV[np.arange(len(own)), list(own)]
        self.logprobs += logprobs
        self.ranks += ((logits_TV > own_T[:, None]).sum(1) + 1).tolist()
        for token, logit, logprob, logits_V in zip(own, own_T.tolist(), logprobs, logits_TV, strict=True):
            found = likeliest(logits_V, logit - logprob, num_top)
            self.top.append([(other, logprob if other == token else value) for other, value in found])


def likeliest(logits_V: npt.NDArray[np.float32], lse: float, count: int) -> Top:
    """The `count` best tokens (id, natural log), best first, of equals the lowest id first.

    Args:
        logits_V: of one place.
        lse: the logarithm of the sum of their exponentials.
        count: none where it is 0, all where there are fewer.
    """
    count = min(count, len(logits_V))
    if not count:
        return []
    best_K = np.argpartition(-logits_V, count - 1)[:count]
    best_K = best_K[np.lexsort((best_K, -logits_V[best_K]))]
    return [(int(token), float(logits_V[token]) - lse) for token in best_K]
