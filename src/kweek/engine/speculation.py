"""Guessing several tokens ahead and checking the guesses in one call: lossless, and off again where it does not pay.

A guess is a fixed text, by look-up or by a smaller model's likeliest tokens. The network then computes all guessed
positions at once, at each of them a token is drawn exactly as it would have been without guesses (the same uniform
number for the same position), and the guesses count as far as they agree. So the result is the same text, not only the
same distribution (Leviathan et al. 2023, arXiv 2211.17192, with a draft that puts all its mass on one token).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from kweek.engine.backend import Backend, Fed
from kweek.engine.native.rows import ROW
from kweek.engine.slots import common_prefix

DEPTH = 5  # tokens guessed at once: more are seldom all right
_MEMORY = 0.9  # of the running means
_PROBE_CALLS, _REST_CALLS = 8, 200  # guess for a while; where it does not pay, rest and try again


class Proposer(Protocol):
    """Guesses the next tokens of a sequence."""

    def propose(self, slot: int, ids: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens to follow `ids`, the sequence in `slot`; none where there is no good guess."""
        ...


class PromptLookup:
    """What followed the last tokens when they occurred before (Saxena 2023, "prompt lookup decoding").

    Args:
        longest, shortest: tokens that must agree; longer agreements are tried first.
    """

    def __init__(self, longest: int = 4, shortest: int = 2) -> None:  # one token agrees by accident
        self.longest, self.shortest = longest, shortest

    def propose(self, slot: int, ids: Sequence[int], count: int) -> list[int]:
        """See `Proposer`."""
        sequence = np.asarray(ids, np.int32)
        for length in range(min(self.longest, len(ids) - 1), self.shortest - 1, -1):
            windows = np.lib.stride_tricks.sliding_window_view(sequence[:-1], length)
            found = np.flatnonzero((windows == sequence[-length:]).all(1))
            if len(found):
                start = int(found[-1]) + length
                return [int(token) for token in sequence[start : start + count]]
        return []


class Draft:
    """The likeliest tokens of a smaller network of the same vocabulary, with slots of its own."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._held: dict[int, list[int]] = {}

    def propose(self, slot: int, ids: Sequence[int], count: int) -> list[int]:
        """See `Proposer`."""
        held = self._held.get(slot, [])
        known = min(common_prefix(held, list(ids)), len(ids) - 1)
        most = self._backend.max_rows
        while len(ids) - 1 - known >= most:
            self._backend.forward([Fed(slot, known, ids[known : known + most])], [])
            known += most
        rows = np.zeros(1, ROW)
        rows["slot"], rows["position"], rows["token"], rows["remaining"] = slot, len(ids) - 1, ids[-1], count
        fed = [Fed(slot, known, ids[known:-1])] if known < len(ids) - 1 else []
        guessed = [int(token) for token in self._backend.run(rows, count, fed)[0]["token"]]
        self._held[slot] = [*ids, *guessed[:-1]]
        return guessed


class Speculation:
    """A proposer, and whether it pays: seconds per token with and without it, as running means.

    Attributes:
        num_guessed, num_accepted: tokens in all; their ratio is the acceptance.
    """

    def __init__(self, proposer: Proposer, depth: int = DEPTH) -> None:
        self.proposer, self.depth = proposer, depth
        self.num_guessed = self.num_accepted = 0
        self._with: float | None = None
        self._without: float | None = None
        self._calls = 0

    @property
    def active(self) -> bool:
        """Whether to guess in the next call: first without to compare with, then while it is not slower."""
        phase = self._calls % (_PROBE_CALLS + _REST_CALLS)
        if self._without is None:
            return False
        return self._with is None or self._with < self._without or phase < _PROBE_CALLS

    def record(self, guessed: int, accepted: int, num_tokens: int, seconds: float) -> None:
        """What a call brought: tokens in all, of them accepted guesses, and its time."""
        self.num_guessed += guessed
        self.num_accepted += accepted
        self._calls += 1
        if not num_tokens:
            return
        each = seconds / num_tokens
        if guessed:
            self._with = each if self._with is None else _MEMORY * self._with + (1 - _MEMORY) * each
        else:
            self._without = each if self._without is None else _MEMORY * self._without + (1 - _MEMORY) * each
