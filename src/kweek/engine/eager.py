"""The engine's computations by torch: where there is no native library, and on other devices.

Legend: B rows, T new tokens, S keys attended to, K key heads, E head dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kweek.engine.backend import MAX_ROWS, Fed
from kweek.engine.choosing import take
from kweek.engine.native.rows import CHOICE, Rows
from kweek.errors import is_out_of_memory
from kweek.model.cache import KVCache
from kweek.model.network import Network

FIRST_CAPACITY = 256  # tokens of a slot at first; doubled when a request needs more


class _SlotCache(KVCache):
    """A cache whose rows are slots: a forward pass names the slots that it reads and writes, and where."""

    def place(self, slots: Sequence[int], positions_BT: Tensor) -> None:
        self._slots = torch.as_tensor(slots)
        self._at_BT = positions_BT
        self._last = int(positions_BT.max()) + 1

    def begin(self, num_tokens: int) -> tuple[Tensor, Tensor | None]:
        return self._at_BT, (torch.arange(self._last) <= self._at_BT[:, :, None])[:, None]

    def update(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._slots[:, None]
        self.keys[layer][rows, :, self._at_BT] = k_BKTE.transpose(1, 2).to(self.keys[layer].dtype)
        self.values[layer][rows, :, self._at_BT] = v_BKTE.transpose(1, 2).to(self.values[layer].dtype)
        return self.keys[layer][self._slots, :, : self._last], self.values[layer][
            self._slots, :, : self._last
        ]

    def advance(self, counts_B: Tensor | int) -> None:
        """Nothing to count: positions are named from outside."""


class EagerBackend:
    """A network as it is: later changes of its weights show at once. See `Backend`."""

    max_rows = MAX_ROWS
    rewinds, rides = True, False

    def __init__(self, network: Network, *, num_slots: int = 64) -> None:
        self.network, self.config, self.num_slots = network, network.config, num_slots
        self.logits = np.zeros((0, self.config.vocab_size), np.float32)
        self.lse = np.zeros(0, np.float32)
        self._cache = _SlotCache(self.config, num_slots, FIRST_CAPACITY)

    def reserve(self, slot: int, tokens: int) -> None:
        """See `Backend`; all slots are of one size."""
        before = self._cache.max_length
        if tokens > before:
            try:
                grown = _SlotCache(self.config, self.num_slots, max(tokens, 2 * before))
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise MemoryError from None
                raise
            for mine, theirs in zip(
                (*self._cache.keys, *self._cache.values), (*grown.keys, *grown.values), strict=True
            ):
                theirs[:, :, :before] = mine
            self._cache = grown

    def release(self, slot: int) -> None:
        """See `Backend`; the memory of one slot cannot be given back alone."""

    @torch.inference_mode()
    def run(self, rows: Rows, steps: int = 1, fed: Sequence[Fed] = ()) -> npt.NDArray[np.void]:
        """See `Backend`."""
        if len(rows) + sum(len(piece.token_ids) for piece in fed) > MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS} rows and fed tokens")
        for piece in fed:
            self._hidden([piece.slot], [piece.token_ids], [piece.position])
        choices = np.zeros((len(rows), steps), CHOICE)
        rows["produced"], rows["done"] = 0, rows["remaining"] <= 0
        for _ in range(steps):
            active = np.flatnonzero(rows["done"] == 0)
            if not len(active):
                break
            now = rows[active]
            hidden_B1D = self._hidden(
                now["slot"].tolist(), [[t] for t in now["token"].tolist()], now["position"].tolist()
            )
            self.logits = self.network.logits(hidden_B1D[:, 0]).float().numpy()
            self.lse = torch.from_numpy(self.logits).logsumexp(-1).numpy()
            take(rows, active, self.logits, self.lse, choices)
        return choices

    @torch.inference_mode()
    def forward(self, fed: Sequence[Fed], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        pieces = [self._hidden([piece.slot], [piece.token_ids], [piece.position])[0] for piece in fed]
        self.logits = self.network.logits(torch.cat(pieces)[list(wanted)]).float().numpy()
        return self.logits

    def logprobs(self, targets: Sequence[int]) -> list[float]:
        """See `Backend`."""
        table_BV = torch.from_numpy(self.logits[: len(targets)]).log_softmax(-1)
        return [float(value) for value in table_BV.gather(-1, torch.tensor(targets)[:, None])[:, 0]]

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        for part in (*self._cache.keys, *self._cache.values):
            part[target, :, :length] = part[source, :, :length]

    def _hidden(self, slots: Sequence[int], ids: Sequence[Sequence[int]], positions: Sequence[int]) -> Tensor:
        ids_BT = torch.tensor([list(row) for row in ids])
        self.reserve(0, max(positions) + ids_BT.shape[1])
        self._cache.place(slots, torch.tensor(positions)[:, None] + torch.arange(ids_BT.shape[1]))
        hidden_BTD: Tensor = self.network(ids_BT, cache=self._cache)
        return hidden_BTD
