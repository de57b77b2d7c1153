"""A network in the native library: packed weights, slots of keys and values, and calls for any mix of rows.

Legend: L layers, K key heads, E head dimension, C capacity of a slot in tokens, V vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from kweek.engine.backend import MAX_ROWS, Fed
from kweek.engine.native import library as native
from kweek.engine.native.pack import TILE, TYPES, WeightFormat, aligned, pack
from kweek.engine.native.rows import CHOICE, MOST_ROWS, Rows
from kweek.engine.native.slot_memory import SlotMemory, stride
from kweek.errors import KweekError, is_out_of_memory
from kweek.model.attention import Tables
from kweek.model.network import Block, Network

MAX_HEAD_DIM = 1024  # as in attention.h: a key waits on the stack while it is rounded
FIRST_CAPACITY = 272  # tokens of a slot at first; doubled when a request needs more
Ints = npt.NDArray[np.int32]
#: Of keys and values; "q8" has a scale for each key and each value of a head.
KVFormat = Literal["f32", "f16", "q8"]


class _Scratch:
    """What calls work with: activations, and the threads."""

    def __init__(self, library: ctypes.CDLL, model: native.Model, positions: int, threads: int) -> None:
        self._library = library
        self.address = library.kw_scratch_new(ctypes.byref(model), MAX_ROWS, positions, threads)
        if not self.address:
            raise MemoryError("no memory for the engine's activations, or no threads")
        self.work = aligned(np.zeros(threads * library.kw_work_bytes(ctypes.byref(model)), np.uint8))

    def __del__(self) -> None:
        if getattr(self, "address", None):
            self._library.kw_scratch_free(self.address)


class NativeBackend:
    """The weights of a network at one moment, and slots.

    Args:
        network: on the CPU; copied, so that later changes of it do not show.
        form: of the matrices. "f32" computes what the network computes, to rounding; "q8" and "q4" also take
            activations in 8 bits.
        kv: of keys and values.
        num_slots: sequences held at once.
        threads: share out the outputs of every product and the rows and heads of everything else; the bits are those of
            one. 1 because whoever wants several cores used does better with several processes.
        target: instruction set; None takes the best of this processor.
        consume: take each matrix away from the network once it is packed, so that no memory holds both.

    Raises:
        KweekError: no thread, heads of more than 1,024 numbers, rows that are no whole groups of 32 for 8 or 4 bits,
            or no library.
        MemoryError: there is too little, also for threads.
    """

    max_rows = MAX_ROWS
    rewinds = rides = True

    def __init__(
        self,
        network: Network,
        form: WeightFormat = "f32",
        *,
        kv: KVFormat = "f32",
        num_slots: int = 64,
        threads: int = 1,
        target: str | None = None,
        consume: bool = False,
    ) -> None:
        if threads < 1:
            raise KweekError(
                f"the native library cannot compute with {threads} threads", fix="use at least 1"
            )
        if network.config.head_dim > MAX_HEAD_DIM:
            raise KweekError(
                f"the native library has heads of up to {MAX_HEAD_DIM} numbers, not {network.config.head_dim}",
                fix="compute with torch",
            )
        self.config, self.form, self.num_slots = network.config, form, num_slots
        self._library = native.load(target)
        self._kept: list[object] = []  # arrays that C points into
        self._kv = TYPES[kv]
        self._tables = Tables(network.config)
        self._consume = consume
        self.model = self._pack(network, form)
        self._memory = SlotMemory(self._library, self.model, num_slots)
        self._positions = 0
        self._threads = threads
        self._rotate(FIRST_CAPACITY)
        self.stride = -(-self.config.vocab_size // TILE) * TILE
        self.logits = np.zeros((MAX_ROWS, self.stride), np.float32)
        self.lse = np.zeros(MOST_ROWS, np.float32)

    def repack(self, network: Network) -> None:
        """Take the weights that a network of the same shape has now. What slots hold is of the old ones; memory stays.

        New memory for the slots, written to for the first time, would cost an update of a small network more than the
        weights do.
        """
        self._kept = []
        self._memory.forget_all()
        self.model = self._pack(network, self.form)
        self.model.cosines, self.model.sines = (int(part.ctypes.data) for part in self._rotations)

    def reserve(self, slot: int, tokens: int) -> None:
        """See `Backend`."""
        before = self._memory.capacities[slot]
        if tokens <= before:
            return
        capacity = stride(min(max(tokens, 2 * before), max(tokens, self.config.max_positions)))
        if capacity > self._positions:
            self._rotate(capacity)
        self._memory.grow(slot, capacity)

    def release(self, slot: int) -> None:
        """See `Backend`."""
        self._memory.release(slot)

    def _rotate(self, positions: int) -> None:
        """Rotations, and room for scores, of at least so many positions; without the memory for them all stays."""
        positions = max(positions, min(2 * self._positions, self.config.max_positions))
        try:
            rotations = self._tables.layout(positions, torch.device("cpu"), torch.float32).key
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError from None
            raise
        half = self.config.head_dim // 2
        parts = [
            aligned(part.contiguous().numpy()) for part in (rotations[0, :, :half], rotations[1, :, half:])
        ]
        scratch = _Scratch(self._library, self.model, positions, self._threads)
        self._positions, self._rotations, self._scratch = positions, parts, scratch
        self.model.cosines, self.model.sines = (int(part.ctypes.data) for part in parts)

    def run(self, rows: Rows, steps: int = 1, fed: Sequence[Fed] = ()) -> npt.NDArray[np.void]:
        """See `Backend`."""
        own = rows[rows["rides_on"] == 0]
        for slot, position in zip(own["slot"].tolist(), own["position"].tolist(), strict=True):
            self.reserve(slot, position + steps)
        self._prepare(fed)
        self._memory.settle_all(own["slot"], own["position"])
        total = len(own) + sum(len(piece.token_ids) for piece in fed)
        if total > MAX_ROWS or len(rows) > MOST_ROWS:
            raise ValueError(f"{total} rows and fed tokens, {len(rows)} that choose: too many for one call")
        choices = np.zeros((len(rows), steps), CHOICE)
        tokens, slots, positions = _flat(fed)
        self._library.kw_run(
            ctypes.byref(self.model), self._scratch.address, self._memory.table.ctypes.data, len(rows),
            rows.ctypes.data, steps, len(tokens), tokens.ctypes.data, slots.ctypes.data, positions.ctypes.data,
            choices.ctypes.data, self.logits.ctypes.data, self.stride, self.lse.ctypes.data,
            self._scratch.work.ctypes.data,
        )  # fmt: skip
        return choices

    def forward(self, fed: Sequence[Fed], wanted: Sequence[int]) -> npt.NDArray[np.float32]:
        """See `Backend`."""
        tokens, slots, positions = _flat(fed)
        if len(tokens) > MAX_ROWS:
            raise ValueError(f"{len(tokens)} fed tokens are more than {MAX_ROWS}")
        self._prepare(fed)
        offsets = np.asarray(wanted, np.int32)
        self._library.kw_step(
            ctypes.byref(self.model), self._scratch.address, self._memory.table.ctypes.data, len(tokens),
            tokens.ctypes.data, slots.ctypes.data, positions.ctypes.data, len(offsets), offsets.ctypes.data,
            self.logits.ctypes.data, self.stride,
        )  # fmt: skip
        return self.logits[: len(offsets), : self.config.vocab_size]

    def logprobs(self, targets: Sequence[int]) -> list[float]:
        """See `Backend`."""
        wanted = np.asarray(targets, np.int32)
        found = np.zeros(len(wanted), np.float32)
        self._library.kw_logprobs(
            ctypes.byref(self.model), len(wanted), self.logits.ctypes.data, self.stride, wanted.ctypes.data,
            found.ctypes.data, self._scratch.work.ctypes.data,
        )  # fmt: skip
        return [float(value) for value in found]

    def fork(self, source: int, target: int, length: int) -> None:
        """See `Backend`."""
        self.reserve(target, length)
        self._memory.fork(source, target, length)

    def _prepare(self, fed: Sequence[Fed]) -> None:
        """Memory for what is fed, of each slot's own."""
        for piece in fed:
            self.reserve(piece.slot, piece.position + len(piece.token_ids))
            self._memory.settle(piece.slot, piece.position)

    def _keep(self, values: npt.NDArray[np.generic]) -> int:
        values = aligned(values)
        self._kept.append(values)
        return int(values.ctypes.data)

    def _matrix(
        self, weight: torch.Tensor, form: WeightFormat, bias: torch.Tensor | None = None
    ) -> native.Matrix:
        outputs, inputs = weight.shape
        data = pack(weight.detach().float().numpy(), form)
        if self._consume:
            weight.data = weight.data.new_empty(0)
        self._kept.append(data)
        biases = None if bias is None else self._keep(bias.detach().float().numpy())
        return native.Matrix(TYPES[form], outputs, inputs, data.ctypes.data, biases)

    def _vector(self, weight: torch.Tensor) -> int:
        return self._keep(weight.detach().float().numpy())

    def _pack(self, network: Network, form: WeightFormat) -> native.Model:
        config = network.config
        layers = (native.Layer * config.num_layers)()
        for layer, block in zip(layers, cast(list[Block], list(network.model.layers)), strict=True):
            attention, mlp = block.self_attn, block.mlp
            layer.qkv = self._matrix(attention.qkv_proj.weight, form, attention.qkv_proj.bias)
            layer.out = self._matrix(attention.o_proj.weight, form)
            layer.gate_up = self._matrix(mlp.gate_up_proj.weight, form)
            layer.down = self._matrix(mlp.down_proj.weight, form)
            layer.norm1 = self._vector(block.input_layernorm.weight)
            layer.norm2 = self._vector(block.post_attention_layernorm.weight)
            if config.qk_norm:
                layer.q_norm = self._vector(attention.q_norm.weight)
                layer.k_norm = self._vector(attention.k_norm.weight)
        head = self._matrix(network.head_weight, form)
        if config.tied_embeddings:
            embedding = head
        else:  # only read row by row: 8 bits at least cost no time
            kept: WeightFormat = "q8" if form == "q4" else form
            embedding = self._matrix(network.model.embed_tokens.weight, kept)
        model = native.Model(
            config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
            config.intermediate_size, config.vocab_size, self._kv, config.norm_epsilon,
        )  # fmt: skip
        model.embedding, model.head = ctypes.pointer(embedding), ctypes.pointer(head)
        model.layers = ctypes.cast(layers, ctypes.POINTER(native.Layer))
        model.final_norm = self._vector(network.model.norm.weight)
        self._kept += [layers, head, embedding]
        return model


def _flat(fed: Sequence[Fed]) -> tuple[Ints, Ints, Ints]:
    """Tokens, slots and positions of all pieces, one after another."""
    tokens = np.array([token for piece in fed for token in piece.token_ids], np.int32)
    slots = np.array([piece.slot for piece in fed for _ in piece.token_ids], np.int32)
    positions = np.array([piece.position + i for piece in fed for i in range(len(piece.token_ids))], np.int32)
    return tokens, slots, positions
