"""Continuous batching: a call of the network holds a row of every running generation and pieces of waiting prompts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kweek.engine.backend import Backend, Fed
from kweek.engine.generation import Generation, OnToken
from kweek.engine.native.rows import ROW
from kweek.engine.slots import Slots, common_prefix
from kweek.engine.speculation import Speculation
from kweek.errors import KweekError
from kweek.protocols import Completion, Request

#: Seconds that several steps in one call may take: short enough for a stream to look even and for a cancellation.
CALL_SECONDS = 0.008
MAX_STEPS = 32
BROKEN = 2  # what `done` is in a row whose logits are not numbers
SHARED = 16  # tokens of a common prefix that are worth waiting for while another generation computes them


class Scheduler:
    """Generations over a `Backend`.

    Args:
        backend: computes.
        num_slots: how many of its slots, from the first on, are used here.
        token_bytes: the bytes of every token, for requests with stop texts.
        speculation: guesses tokens ahead; None never does.
    """

    def __init__(
        self,
        backend: Backend,
        num_slots: int,
        token_bytes: Sequence[bytes] | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        self.backend, self._token_bytes, self.speculation = backend, token_bytes, speculation
        self._slots = Slots(num_slots)
        self._queue: deque[Generation] = deque()
        self._running: list[Generation] = []
        self._tickets = 0
        self._step_seconds = CALL_SECONDS  # of one step, as last measured
        self._maps: dict[tuple[frozenset[int], frozenset[int]], npt.NDArray[np.uint8]] = {}
        self._held: list[npt.NDArray[np.generic]] = []  # what the rows of the present call point at

    @property
    def num_active(self) -> int:
        """Generations queued or running."""
        return len(self._queue) + len(self._running)

    def submit(self, request: Request, on_token: OnToken | None = None) -> int:
        """Queue a request; returns its ticket.

        Raises:
            KweekError: it can never be generated.
        """
        self._tickets += 1
        self._queue.append(Generation.begin(self._tickets, request, self.backend.config, on_token))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """End a generation with what it has, as "cancelled", at the next step."""
        for generation in [*self._queue, *self._running]:
            if generation.ticket == ticket:
                generation.cancelled = True

    def step(self) -> list[tuple[int, Completion]]:
        """One call of the network, of one or several steps; the generations that ended."""
        ended = self._admit()
        rows, fed = self._compose()
        if rows or fed:
            self._call(rows, fed)
        for generation in [g for g in self._running if g.cancelled or g.reason is not None]:
            ended.append(generation)
            self._running.remove(generation)
            assert generation.slot is not None
            self._slots.release(generation.slot)
        for generation in ended:
            if generation.reason is None:
                generation.reason = "cancelled"
        return [(generation.ticket, generation.completion(self.backend.config)) for generation in ended]

    def _admit(self) -> list[Generation]:
        """Give slots to queued generations in order; those that ended without one are returned."""
        ended = [g for g in self._queue if g.cancelled or g.reason is not None]
        waiting: deque[Generation] = deque()
        feeding = [g.ids for g in self._running if g.num_waiting > SHARED]
        while self._queue:
            generation = self._queue.popleft()
            if generation in ended:
                continue
            if generation.request.prompt_logprobs or not self.backend.rewinds:
                placed = self._slots.take(generation.ids[:1], generation.request.tenant)
            elif any(
                ids[:SHARED] == generation.ids[:SHARED] and common_prefix(ids, generation.ids) >= SHARED
                for ids in feeding
            ):
                waiting.append(generation)  # one call later it can copy what another computes now
                continue
            else:
                placed = self._slots.take(generation.ids, generation.request.tenant)
            if placed is None:
                waiting.append(generation)
                break
            slot, source, length = placed
            if source is not None:
                self.backend.fork(source.number, slot.number, length)
            generation.slot, generation.num_fed, generation.num_shared = slot, length, length
            if generation.request.prompt_logprobs:
                self._score_prompt(generation)
            self._running.append(generation)
            if generation.num_waiting > SHARED:
                feeding.append(generation.ids)
        self._queue.extendleft(reversed(waiting))
        return ended

    def _compose(self) -> tuple[list[Generation], list[tuple[Generation, Fed]]]:
        """The generations that get a token in this call, and the tokens to feed beside them."""
        room = self.backend.max_rows - len(self._running)
        rows: list[Generation] = []
        fed: list[tuple[Generation, Fed]] = []
        for generation in self._running:
            if generation.cancelled or not self._masked(generation):
                continue
            assert generation.slot is not None
            before = generation.num_waiting - 1
            if before:
                count = min(before, room)
                if count:
                    start = generation.num_fed
                    piece = generation.ids[start : start + count]
                    fed.append((generation, Fed(generation.slot.number, start, piece)))
                    room -= count
                if count < before:
                    continue
            rows.append(generation)
        return rows, fed

    def _call(self, rows: list[Generation], fed: list[tuple[Generation, Fed]]) -> None:
        for generation, piece in fed:
            assert generation.slot is not None
            generation.slot.token_ids += piece.token_ids
            generation.num_fed += len(piece.token_ids)
        room = self.backend.max_rows - len(rows) - sum(len(piece.token_ids) for _, piece in fed)
        drafts = self._drafts(rows, room)
        steps = 1 if any(drafts) else self._steps(rows)
        table = np.zeros(len(rows) + sum(map(len, drafts)), ROW)
        self._held = []
        first = 0
        for generation, draft in zip(rows, drafts, strict=True):
            for ahead in range(len(draft) + 1):
                self._fill(table[first + ahead], generation, ahead, draft)
            first += len(draft) + 1
        started = time.perf_counter()
        choices = self.backend.run(table, steps, [piece for _, piece in fed])
        seconds = time.perf_counter() - started
        if not fed and not any(drafts):
            self._step_seconds = seconds / max(1, int(table["produced"].max(initial=1)))
        first = taken = accepted = 0
        for generation, draft in zip(rows, drafts, strict=True):
            if generation.request.num_top:
                generation.top.append(self._likeliest(first, generation.request.num_top))
            if draft:
                agreed = common_prefix(draft, choices[first : first + len(draft), 0]["token"].tolist())
                chosen = choices[first : first + agreed + 1, 0].tolist()
                accepted += agreed
            else:
                chosen = choices[first, : int(table["produced"][first])].tolist()
            before = len(generation.token_ids)
            self._take(generation, chosen)
            if table["done"][first] == BROKEN and generation.reason is None:
                generation.fail("the network computed something that is not a number; its weights are broken")
            taken += len(generation.token_ids) - before
            first += len(draft) + 1
        if self.speculation is not None and not fed:
            self.speculation.record(sum(map(len, drafts)), accepted, taken, seconds)

    def _drafts(self, rows: Sequence[Generation], room: int) -> list[list[int]]:
        """Guessed tokens for each row; none where someone must look at every token."""
        drafts: list[list[int]] = []
        for generation in rows:
            draft: list[int] = []
            left = generation.limit - len(generation.token_ids) - 1
            if self.speculation is not None and self.speculation.active and not self._watched(generation):
                assert generation.slot is not None
                count = min(self.speculation.depth, left, room)
                if count > 0:
                    draft = self.speculation.proposer.propose(generation.slot.number, generation.ids, count)
            room -= len(draft)
            drafts.append(draft)
        return drafts

    @staticmethod
    def _masked(generation: Generation) -> bool:
        """Ask a constraint what may come next; false where it could not say, which ends the generation."""
        if generation.constraint is None:
            return True
        try:
            generation.mask = np.ascontiguousarray(generation.constraint.allowed(), np.uint8)
        except KweekError as error:
            generation.fail(str(error))
        return generation.reason is None

    @staticmethod
    def _watched(generation: Generation) -> bool:
        """Whether someone must look between any two tokens."""
        interceptor = generation.request.interceptor
        asked = interceptor is not None and interceptor.trigger_ids is None
        return asked or generation.constraint is not None or generation.request.num_top > 0

    def _take(self, generation: Generation, chosen: list[tuple[int, float, float, float]]) -> None:
        """Append what a call brought, up to where the generation ends."""
        assert generation.slot is not None
        for token, logprob, processed, kept in chosen:
            generation.slot.token_ids.append(generation.ids[generation.num_fed])
            generation.num_fed += 1
            try:
                if not generation.take(token, logprob, processed, kept, self._token_bytes):
                    break
            except KweekError as error:  # a grammar at its limits, a tool that says what is wrong
                generation.fail(str(error))
                break

    def _steps(self, rows: Sequence[Generation]) -> int:
        """How many steps to make in one call: one where someone must look between them."""
        if any(self._watched(generation) for generation in rows):
            return 1
        return max(1, min(MAX_STEPS, int(CALL_SECONDS / self._step_seconds)))

    def _fill(self, row: np.void, generation: Generation, ahead: int, draft: Sequence[int]) -> None:
        """The row of a generation, or of the position `ahead` of it, after that many guessed tokens."""
        request, slot = generation.request, generation.slot
        assert slot is not None
        row["slot"], row["position"] = slot.number, len(generation.ids) - 1 + ahead
        row["token"] = draft[ahead - 1] if ahead else generation.ids[-1]
        row["remaining"] = generation.limit - len(generation.token_ids) - ahead
        row["temperature"], row["top_k"] = request.temperature, request.top_k
        row["top_p"], row["min_p"] = request.top_p, request.min_p
        if request.temperature > 0:
            row["uniforms"] = generation.uniforms.ctypes.data + 8 * (len(generation.token_ids) + ahead)
        triggers = request.interceptor.trigger_ids if request.interceptor is not None else None
        if request.stop_ids or triggers:
            row["events"] = self._map(request.stop_ids, triggers or frozenset()).ctypes.data
        if generation.constraint is not None:
            row["allowed"] = self._hold(generation.mask)
        if request.logit_bias:
            bias = np.zeros(self.backend.config.vocab_size, np.float32)
            for token, value in request.logit_bias.items():
                bias[token] = value
            row["bias"] = self._hold(bias)

    def _hold(self, values: npt.NDArray[np.generic]) -> int:
        self._held.append(values)
        return int(values.ctypes.data)

    def _map(self, stop_ids: frozenset[int], triggers: frozenset[int]) -> npt.NDArray[np.uint8]:
        """Which tokens make a row pause."""
        found = self._maps.get((stop_ids, triggers))
        if found is None:
            found = np.zeros(self.backend.config.vocab_size, np.uint8)
            found[[token for token in stop_ids | triggers if 0 <= token < len(found)]] = 1
            self._maps[stop_ids, triggers] = found
        return found

    def _likeliest(self, row: int, count: int) -> list[tuple[int, float]]:
        """The best tokens of a row of the last call of one step."""
        logits = self.backend.logits[row, : self.backend.config.vocab_size]
        count = min(count, len(logits))
        best = np.argpartition(-logits, count - 1)[:count]
        best = best[np.lexsort((best, -logits[best]))]
        return [(int(token), float(logits[token] - self.backend.lse[row])) for token in best]

    def _score_prompt(self, generation: Generation) -> None:
        """Feed a prompt but its last token, keeping the log-probability of every token."""
        assert generation.slot is not None
        ids = generation.ids
        generation.prompt_logprobs = [0.0]
        most = self.backend.max_rows
        for start in range(0, len(ids) - 1, most):
            piece = ids[start : min(start + most, len(ids) - 1)]
            self.backend.forward([Fed(generation.slot.number, start, piece)], range(len(piece)))
            generation.prompt_logprobs += self.backend.logprobs(ids[start + 1 : start + 1 + len(piece)])
        generation.num_fed = len(ids) - 1
        generation.slot.token_ids = ids[:-1]
