"""Continuous batching: a call of the network holds a row of every running generation and pieces of waiting prompts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from kweek.engine.backend import MAX_ROWS, Backend, Fed
from kweek.engine.generation import Generation, OnToken
from kweek.engine.prompt_scores import likeliest
from kweek.engine.riding import Riding
from kweek.engine.row_table import RowTable
from kweek.engine.slots import Slot, Slots, common_prefix
from kweek.engine.speculation import Speculation
from kweek.engine.suspended import Suspended
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
        self._riding = Riding()
        self._tickets = 0
        self._step_seconds = CALL_SECONDS  # of one step, as last measured
        self._table = RowTable(backend.config.vocab_size)

    @property
    def num_active(self) -> int:
        """Generations queued or running."""
        return len(self._queue) + self._num_begun

    @property
    def _num_begun(self) -> int:
        """Those that have a slot, or will want one when they part from the one they ride on."""
        return len(self._running) + len(self._riding.riders)

    def submit(self, request: Request, on_token: OnToken | None = None) -> int:
        """Queue a request; returns its ticket.

        Raises:
            KweekError: it can never be generated.
        """
        self._tickets += 1
        self._queue.append(Generation.begin(self._tickets, request, self.backend.config, on_token))
        return self._tickets

    def resume(self, suspended: Suspended, request: Request, on_token: OnToken | None = None) -> int:
        """Queue a suspended generation; returns its new ticket.

        Args:
            request: that of the suspended one, with its tool and its constraint.
            on_token: told the tokens from now on.

        Raises:
            KweekError: as in `submit`, or the constraint does not take what has been said.
        """
        size = self.backend.config.vocab_size
        if max(suspended.token_ids, default=0) >= size:
            raise KweekError(
                f"a suspended generation has a token outside 0 .. {size - 1}", fix="generate anew"
            )
        generation = Generation.begin(self._tickets + 1, request, self.backend.config, on_token)
        generation.go_on(suspended, self._token_bytes)
        self._tickets += 1
        self._queue.append(generation)
        return self._tickets

    def suspend(self, tickets: Collection[int] | None, model: str) -> list[Suspended]:
        """Take generations that have not ended out, between two steps; all of them where `tickets` is None.

        Args:
            model: identity of what computes.
        """
        found = [
            generation
            for generation in [*self._running, *self._riding.riders, *self._queue]
            if (tickets is None or generation.ticket in tickets)
            and generation.reason is None
            and not generation.cancelled
        ]
        for generation in found:
            if self._riding.remove(generation):
                continue
            if generation.slot is None:
                self._queue.remove(generation)
            else:
                self._running.remove(generation)
                self._slots.release(generation.slot)
        found.sort(key=lambda generation: generation.ticket)
        return [generation.suspended(self.backend.config, model) for generation in found]

    def cancel(self, ticket: int) -> None:
        """End a generation with what it has, as "cancelled", at the next step."""
        for generation in [*self._queue, *self._running, *self._riding.riders]:
            if generation.ticket == ticket:
                generation.cancelled = True

    def step(self) -> list[tuple[int, Completion]]:
        """One call of the network, of one or several steps; the generations that ended."""
        ended = self._admit()
        self._score_prompts()
        rows, fed = self._compose()
        if rows or fed:
            self._call(rows, fed, *self._rides(rows))
        for generation in [g for g in self._running if g.cancelled or g.reason is not None]:
            ended.append(generation)
            self._running.remove(generation)
            assert generation.slot is not None
            self._slots.release(generation.slot)
        silent, parted = self._riding.leave(self._running)
        ended += silent
        self._queue.extendleft(reversed(parted))  # each finds a slot at once: see `_admit`
        for generation in ended:
            if generation.reason is None:
                generation.reason = "cancelled"
        return [(generation.ticket, generation.completion(self.backend.config)) for generation in ended]

    def _admit(self) -> list[Generation]:
        """Give slots to queued generations in order; those that ended without one are returned."""
        ended = [g for g in self._queue if g.cancelled or g.reason is not None]
        self._queue = deque(g for g in self._queue if g not in ended)
        feeding = {tuple(g.ids[:SHARED]) for g in self._running if g.num_waiting > SHARED}
        riding = self.backend.rides and self.backend.rewinds and self.speculation is None
        self._riding.look(self._running if riding and self._queue else ())
        for generation in list(self._queue):
            if self._num_begun >= self._slots.count:
                break
            if riding and self._riding.join(generation):
                self._queue.remove(generation)
                continue
            if generation.num_unscored or not self.backend.rewinds:
                placed = self._slots.take(generation.ids[:1], generation.request.tenant)
            elif not generation.token_ids and tuple(generation.ids[:SHARED]) in feeding:
                continue  # one call later it can copy what another computes now
            else:
                placed = self._slots.take(generation.ids, generation.request.tenant)
            if placed is None:
                break
            self._queue.remove(generation)
            self._running.append(generation)
            self._place(generation, *placed)
            if riding:
                self._riding.lead(generation)
            if generation.num_waiting > SHARED:
                feeding.add(tuple(generation.ids[:SHARED]))
        return ended

    def _place(self, generation: Generation, slot: Slot, source: Slot | None, length: int) -> None:
        """Begin in a slot with what is computed already of the text."""
        generation.slot = slot
        if source is None:
            self._fits(generation)
        else:
            wanted, slot.token_ids = slot.token_ids, []  # until it is copied nothing is there
            if self._fits(generation) and source.token_ids[:length] == wanted:
                self.backend.fork(source.number, slot.number, length)
                slot.token_ids = wanted
            else:  # there is no memory, or that of the source has just been given back
                length = 0
        generation.num_fed = generation.num_shared = length

    def _fits(self, generation: Generation) -> bool:
        """Make room for the next call; a generation that cannot have it ends, alone.

        What idle slots keep for later is given up first.
        """
        slot, tokens = generation.slot, len(generation.ids) + MAX_STEPS
        assert slot is not None
        if tokens <= slot.reserved:
            return True
        for attempt in range(2):
            try:
                self.backend.reserve(slot.number, tokens)
            except MemoryError:
                for number in [] if attempt else self._slots.forget_idle():
                    self.backend.release(number)
            else:
                slot.reserved = tokens
                return True
        generation.fail(f"not enough memory for a text of {len(generation.ids)} tokens")
        return False

    def _compose(self) -> tuple[list[Generation], list[tuple[Generation, Fed]]]:
        """The generations that get a token in this call, and the tokens to feed beside them."""
        room = self.backend.max_rows - len(self._running)
        rows: list[Generation] = []
        fed: list[tuple[Generation, Fed]] = []
        for generation in self._running:
            if generation.cancelled or generation.reason is not None or generation.num_unscored:
                continue
            if not self._fits(generation) or not self._masked(generation):
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

    def _rides(self, rows: list[Generation]) -> tuple[list[Generation], list[int]]:
        """The riders of a call, and which of its rows each rides on."""
        places = {id(generation): place for place, generation in enumerate(rows)}
        found = [
            (rider, places[id(rider.leader)])
            for rider in self._riding.riders
            if id(rider.leader) in places and not rider.cancelled
        ]
        return [rider for rider, _ in found], [place for _, place in found]

    def _score_prompts(self) -> None:
        """One call over the next pieces of prompts whose log-probabilities are wanted, if there are any."""
        pieces: list[tuple[Generation, Fed]] = []
        room = MAX_ROWS
        for generation in self._running:
            count = min(generation.num_unscored, room)
            if generation.cancelled or not count or not self._fits(generation):
                continue
            assert generation.slot is not None
            start = generation.num_fed
            pieces.append(
                (generation, Fed(generation.slot.number, start, generation.ids[start : start + count]))
            )
            room -= count
        if not pieces:
            return
        logits_TV = self.backend.forward([piece for _, piece in pieces], range(MAX_ROWS - room))
        targets = [
            g.ids[piece.position + 1 : piece.position + 1 + len(piece.token_ids)] for g, piece in pieces
        ]
        logprobs = self.backend.logprobs([token for own in targets for token in own])
        first = 0
        for (generation, piece), own in zip(pieces, targets, strict=True):
            assert generation.slot is not None and generation.prompt_scores is not None
            last = first + len(own)
            num_top = generation.request.num_prompt_top
            generation.prompt_scores.take(own, logits_TV[first:last], logprobs[first:last], num_top)
            generation.slot.token_ids += piece.token_ids
            generation.num_fed += len(own)
            if not generation.num_unscored and generation.limit <= 0:
                generation.reason = generation.reason_at_limit
            first = last

    def _call(
        self,
        own: list[Generation],
        fed: list[tuple[Generation, Fed]],
        riders: list[Generation],
        places: list[int],
    ) -> None:
        rows = [*own, *riders]
        room = self.backend.max_rows - len(own) - sum(len(piece.token_ids) for _, piece in fed)
        drafts = self._drafts(rows, room)
        steps = 1 if any(drafts) else self._steps(rows)
        table = self._table.filled(rows, drafts, places)
        started = time.perf_counter()
        choices = self.backend.run(table, steps, [piece for _, piece in fed])
        seconds = time.perf_counter() - started
        for generation, piece in fed:  # only now: of a call that failed nothing may be found again
            assert generation.slot is not None
            generation.slot.token_ids += piece.token_ids
            generation.num_fed += len(piece.token_ids)
        if not fed and not any(drafts):
            self._step_seconds = seconds / max(1, int(table["produced"].max(initial=1)))
        first = taken = accepted = 0
        # Once for all: a device fetches them when they are asked for.
        logits_BV = self.backend.logits if any(g.request.num_top for g in rows) else None
        columns = [choices[name].tolist() for name in ("token", "logprob", "processed", "kept")]
        produced, done = table["produced"].tolist(), table["done"].tolist()
        for generation, draft in zip(rows, drafts, strict=True):
            if logits_BV is not None and generation.request.num_top:
                logits_V = logits_BV[first, : self.backend.config.vocab_size]
                lse = float(self.backend.lse[first])
                generation.top.append(likeliest(logits_V, lse, generation.request.num_top))
            last = first
            if draft:
                agreed = common_prefix(draft, [row[0] for row in columns[0][first : first + len(draft)]])
                last = first + agreed
                accepted += agreed
                # A row whose logits are not numbers has produced nothing, whatever stands in its place.
                there = [row for row in range(first, last + 1) if produced[row]]
                chosen = [[column[row][0] for row in there] for column in columns]
            else:
                chosen = [column[first][: produced[first]] for column in columns]
            before = len(generation.token_ids)
            self._take(generation, chosen, len(chosen[0]) - 1 if generation.plain and not draft else 0)
            if done[last] == BROKEN and generation.reason is None:
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
            if self.speculation is not None and self.speculation.active and not generation.watched:
                assert generation.slot is not None
                count = min(self.speculation.depth, left, room)
                if count > 0:
                    with suppress(MemoryError):  # of a draft model: then there is no guess
                        draft = self.speculation.proposer.propose(
                            generation.slot.number, generation.ids, count
                        )
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

    def _take(self, generation: Generation, chosen: list[list[Any]], plain: int) -> None:
        """Append what a call brought, up to where the generation ends.

        Args:
            chosen: tokens, their log-probabilities raw and processed, and the mass that was kept.
            plain: how many of the first mean nothing by themselves: the row would have paused there.
        """
        if plain > 0:
            generation.take_plain(*(column[:plain] for column in chosen))
            generation.advance(plain)
        for token, logprob, processed, kept in list(zip(*chosen, strict=True))[max(0, plain) :]:
            generation.advance(1)
            try:
                if not generation.take(token, logprob, processed, kept, self._token_bytes):
                    break
            except KweekError as error:  # a grammar at its limits, a tool that says what is wrong
                generation.fail(str(error))
                break

    def _steps(self, rows: Sequence[Generation]) -> int:
        """How many steps to make in one call: one where someone must look between them."""
        if any(generation.watched for generation in rows):
            return 1
        return max(1, min(MAX_STEPS, int(CALL_SECONDS / self._step_seconds)))
