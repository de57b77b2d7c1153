"""The engine's computations on a GPU: a whole step, sampling included, as one CUDA graph per bucket of rows.

A step of a small model on a GPU is some hundred kernels of microseconds each; started one by one from the host they
wait for it. Captured once they are started together, and several steps follow one another without the host. The same
code runs without capture on any device, which is how it is tested without a GPU.

Legend: B rows of the bucket, T tokens, S steps, D width, V vocabulary, L length looked at.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kweek.engine.backend import Fed
from kweek.engine.choosing import pointed
from kweek.engine.device.batch import BUCKETS, Shape, StaticBatch, bucket_of, length_of
from kweek.engine.device.cache import DeviceCache
from kweek.engine.device.sampling import draw
from kweek.engine.native.rows import CHOICE, Rows
from kweek.engine.scheduler import MAX_STEPS
from kweek.errors import is_out_of_memory
from kweek.model.attention import FORBIDDEN, Context, Tables
from kweek.model.network import Network

FIRST_CAPACITY = 512  # positions of a slot at first; doubled when a request needs more
MAX_FED = 8192  # prompt tokens of one call: enough to keep a large GPU's matrix units busy
_WARM_CALLS = 2  # before a capture, as torch asks: libraries allocate what they need on their first calls


class DeviceBackend:
    """A network on its device, and slots beside it: later changes of its weights show at once. See `Backend`.

    Args:
        network: in the precision to compute in.
        num_slots: sequences held at once.
        capture: whether steps become CUDA graphs; None where the network is on a CUDA device.
    """

    rewinds, rides = True, False
    max_rows = MAX_FED

    def __init__(self, network: Network, *, num_slots: int, capture: bool | None = None) -> None:
        self.network, self.config, self.num_slots = network, network.config, num_slots
        weight = network.head_weight
        self.device, self._dtype = weight.device, network.compute_dtype
        self._capture = weight.is_cuda if capture is None else capture
        capacity = min(FIRST_CAPACITY, self.config.max_positions)
        self._spare = num_slots  # the slot of padding
        self._cache = DeviceCache(self.config, num_slots + 1, capacity, dtype=self._dtype, device=self.device)
        self._tables = Tables(self.config)  # its own: graphs read them, and the network's may be made anew
        self._tables.layout(capacity, self.device, self._dtype)
        self._static = StaticBatch(self._spare, self.config.vocab_size, self.device)
        self._steps: dict[Shape, Callable[[], None]] = {}
        self._pool: Any = None
        self._logits_BV = torch.zeros(0, self.config.vocab_size, device=self.device)
        self._rows_of_logits = np.zeros(0, np.intp)
        self._kept_logits: dict[Shape, Tensor] = {}
        self.lse = np.zeros(0, np.float32)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """(rows, V) of the last call; fetched from the device when asked for."""
        found: npt.NDArray[np.float32] = self._logits_BV[self._rows_of_logits].cpu().numpy()
        return found

    @torch.inference_mode()
    def run(self, rows: Rows, steps: int = 1, fed: Sequence[Fed] = ()) -> npt.NDArray[np.void]:
        """See `Backend`. Rows beyond the largest bucket follow in a second batch."""
        if steps > MAX_STEPS:
            raise ValueError(f"{steps} steps are more than {MAX_STEPS}")
        if fed:
            self._feed(fed, [])
        rows["produced"], rows["done"] = 0, rows["remaining"] <= 0
        choices = np.zeros((len(rows), steps), CHOICE)
        lse = np.zeros(len(rows), np.float32)
        found: list[Tensor] = []
        for start in range(0, len(rows), BUCKETS[-1]):
            part = slice(start, start + BUCKETS[-1])
            lse[part] = self._run(rows[part], steps, choices[part])
            if len(rows) > BUCKETS[-1]:  # the next batch writes where these are
                found.append(self._logits_BV[self._rows_of_logits])
        if found:
            self._logits_BV, self._rows_of_logits = torch.cat(found), np.arange(len(rows))
        self.lse = lse
        return choices

    def _run(self, rows: Rows, steps: int, choices: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
        """One batch; fills `choices` and moves the rows on. Returns the lse of the first step."""
        ends = rows["position"] + np.minimum(rows["remaining"], steps)
        self.reserve(0, int(ends.max()))
        shape, places = self._shape(rows, int(ends.max()))
        play = self._steps.get(shape) or self._prepare(shape)
        self._static.fill(rows, places, steps, shape)
        for _ in range(steps):
            play()
        self._logits_BV, self._rows_of_logits = self._kept_logits[shape], places
        drawn = self._static.drawn[:steps, :, : shape.rows].cpu().numpy()[:, :, places]  # the one wait
        for index, row in enumerate(rows):
            _advance(row, drawn[:, :, index], choices[index], self.config.vocab_size)
        first: npt.NDArray[np.float32] = drawn[0, 4].astype(np.float32)
        return first

    def _shape(self, rows: Rows, positions: int) -> tuple[Shape, npt.NDArray[np.intp]]:
        """The graph for these rows, and the place of each in its bucket."""
        slots = rows["slot"].astype(np.intp)
        bucket = bucket_of(len(rows))
        # Where rows fill the first slots, keys are read in place: a copy of them would cost three times that.
        direct = len(set(slots.tolist())) == len(slots) and int(slots.max()) < bucket
        shape = Shape(
            bucket,
            length_of(positions, self._cache.max_length),
            direct,
            sampled=bool((rows["temperature"] > 0).any()),
            truncated=bool(((rows["top_k"] > 0) | (rows["top_p"] < 1) | (rows["min_p"] > 0)).any()),
            shifted=bool(((rows["bias"] != 0) | (rows["allowed"] != 0)).any()),
        )
        return shape, slots if direct else np.arange(len(rows))

    def _prepare(self, shape: Shape) -> Callable[[], None]:
        """The step for a shape: recorded where steps are captured, else to be computed each time."""

        def step() -> None:
            self._step(shape)

        play: Callable[[], None] = step
        if self._capture:
            self._static.clear(shape)  # what is computed while recording must touch no slot but the spare one
            beside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(beside):
                for _ in range(_WARM_CALLS):
                    step()
            torch.cuda.current_stream(self.device).wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                step()
            self._pool = graph.pool()
            play = graph.replay
        self._steps[shape] = (
            play  # only now: where recording failed it is tried again, not left out in silence
        )
        return play

    def _step(self, shape: Shape) -> None:
        """One token for every row, from the buffers into the buffers; nothing here waits for the device."""
        static, rows = self._static, shape.rows
        token_B, slot_B, position_B, remaining_B = (
            static.whole(name, rows) for name in ("token", "slot", "position", "remaining")
        )
        at_B1 = position_B[:, None]
        self._cache.place(slot_B, slot_B[:, None], at_B1, shape.length, direct=shape.direct)
        hidden_BTD = self._hidden(token_B[:, None], at_B1, shape.length)
        logits_BV = self.network.logits(hidden_BTD[:, 0]).float()
        self._kept_logits[shape] = logits_BV
        drawn = draw(
            logits_BV,
            static.shift(rows) if shape.shifted else None,
            static.controls(rows),
            sampled=shape.sampled,
            truncated=shape.truncated,
        )
        found = (drawn.token_B, drawn.logprob_B, drawn.processed_B, drawn.kept_B, drawn.lse_B)
        entry_5B = torch.stack([part.to(static.drawn.dtype) for part in found])
        static.drawn[:, :, :rows].index_copy_(0, static.step, entry_5B[None])
        static.step.add_(1)
        remaining_B.sub_(1)
        goes_on_B = remaining_B > 0
        token_B.copy_(drawn.token_B)
        # A row that has all its tokens is padding from here on.
        slot_B.copy_(torch.where(goes_on_B, slot_B, self._spare))
        position_B.copy_(torch.where(goes_on_B, position_B + 1, 0))

    def _hidden(self, ids_BT: Tensor, at_BT: Tensor, length: int) -> Tensor:
        """(B, T, D) after the final norm."""
        layout = self._tables.layout(self._cache.max_length, self.device, self._dtype).at(at_BT)
        seen_BTL = torch.arange(length, device=self.device) <= at_BT[:, :, None]
        bias = torch.where(seen_BTL, 0.0, FORBIDDEN)[:, None].to(self._dtype)
        hidden_BTD: Tensor = self.network.model(
            ids_BT, Context(layout, bias, False, self._cache, self._dtype)
        )
        return hidden_BTD

    @torch.inference_mode()
    def forward(self, fed: Sequence[Fed], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        self._logits_BV = self._feed(fed, wanted)
        self._rows_of_logits = np.arange(len(wanted))
        return self.logits

    def logprobs(self, targets: Sequence[int]) -> list[float]:
        """See `Backend`."""
        chosen_B1 = torch.tensor(targets, device=self.device)[:, None]
        table_BV = self._logits_BV[: len(targets)].log_softmax(-1)
        return cast(list[float], table_BV.gather(-1, chosen_B1)[:, 0].tolist())

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        for part in (*self._cache.keys, *self._cache.values):
            part[target, :, :length] = part[source, :, :length]

    def reserve(self, slot: int, tokens: int) -> None:
        """See `Backend`; all slots are of one size. Graphs read the old memory, so they go."""
        before = self._cache.max_length
        if tokens <= before:
            return
        self._steps.clear()
        self._kept_logits.clear()
        self._pool = None
        try:
            self._cache.grow(max(tokens, min(2 * before, self.config.max_positions)))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError from None
            raise
        self._tables.layout(self._cache.max_length, self.device, self._dtype)

    def release(self, slot: int) -> None:
        """See `Backend`; the memory of one slot cannot be given back alone."""

    def _feed(self, fed: Sequence[Fed], wanted: Sequence[int]) -> Tensor:
        """Pass prompts through the network, pieces of like length together; logits (wanted, V) of offsets into all."""
        self.reserve(0, max(piece.position + len(piece.token_ids) for piece in fed))
        offsets = np.cumsum([0, *(len(piece.token_ids) for piece in fed)])
        size = int(offsets[-1]) if len(wanted) else 0
        rows_ND = torch.zeros(size, self.config.hidden_size, dtype=self._dtype, device=self.device)
        for group in _groups([len(piece.token_ids) for piece in fed]):
            hidden_BTD = self._feed_together([fed[index] for index in group])
            if len(wanted):
                for row, index in enumerate(group):
                    size = len(fed[index].token_ids)
                    rows_ND[offsets[index] : offsets[index] + size] = hidden_BTD[row, :size]
        if not len(wanted):
            return torch.zeros(0, self.config.vocab_size, device=self.device)
        return self.network.logits(rows_ND[torch.tensor(list(wanted), device=self.device)]).float()

    def _feed_together(self, pieces: Sequence[Fed]) -> Tensor:
        """One call over pieces padded to the longest; the padding is written into the spare slot."""
        time = max(len(piece.token_ids) for piece in pieces)
        ids, at = (np.zeros((len(pieces), time), np.int64) for _ in range(2))
        into = np.full((len(pieces), time), self._spare)
        for row, piece in enumerate(pieces):
            size = len(piece.token_ids)
            ids[row, :size], into[row, :size] = piece.token_ids, piece.slot
            at[row, :size] = range(piece.position, piece.position + size)
        ids_BT, at_BT, into_BT = (torch.from_numpy(part).to(self.device) for part in (ids, at, into))
        length = length_of(int(at.max()) + 1, self._cache.max_length)
        slots_B = torch.tensor([piece.slot for piece in pieces], device=self.device)
        self._cache.place(slots_B, into_BT, at_BT, length)
        return self._hidden(ids_BT, at_BT, length)


def _advance(
    row: np.void, drawn_S5: npt.NDArray[np.float64], choices: npt.NDArray[np.void], size: int
) -> None:
    """Move a row on by the tokens drawn for it, up to the one that makes it pause; what came after is dropped."""
    events = pointed(row["events"], ctypes.c_uint8, size)
    for token, logprob, processed, kept, lse in drawn_S5:
        if row["done"]:
            return
        if not np.isfinite(lse):
            row["done"] = 2
            return
        choices[row["produced"]] = (int(token), logprob, processed, kept)
        row["token"], row["position"] = int(token), row["position"] + 1
        row["produced"] += 1
        row["remaining"] -= 1
        row["uniforms"] += np.uint64(8)
        row["done"] = row["remaining"] <= 0 or (events is not None and events[int(token)] != 0)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of pieces to pass together: sorted by length, padded to at most `MAX_FED` tokens."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= MAX_FED:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
