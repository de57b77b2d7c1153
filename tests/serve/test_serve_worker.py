"""The engine's thread: cancelled work leaves at once, a failed step costs only those who were in it."""

import asyncio
import threading

import pytest

from kweek.engine.engine import Engine
from kweek.protocols import Completion, Request
from kweek.serve.refusal import Refusal
from kweek.serve.worker import NewToken, Worker


def served(engine, work, max_active=64):
    """Run `work(worker)` on an event loop with a worker around it."""

    async def run():
        worker = Worker(engine, max_active=max_active)
        worker.start()
        try:
            return await work(worker)
        finally:
            await worker.stop()
            assert not any(thread.name == "engine" for thread in threading.enumerate())

    return asyncio.run(asyncio.wait_for(run(), 60))


async def collect(batch):
    tokens, done = {}, {}
    async for events in batch.events():
        for index, event in events:
            if isinstance(event, Completion):
                done[index] = event
            else:
                tokens.setdefault(index, []).append(event.token_id)
    return tokens, done


def test_every_token_arrives_in_order_and_then_the_completion(trained):
    requests = [Request([1, 2, 3], 30), Request([4], 5, 1.0, seed=3)]

    async def work(worker):
        first, second = worker.submit(requests), worker.submit(requests[1:])
        return await asyncio.gather(collect(first), collect(second)), worker.num_active

    ((tokens, done), (_, other)), left = served(trained.engine, work)
    assert left == 0
    assert [tokens[i] for i in (0, 1)] == [done[i].token_ids for i in (0, 1)]
    alone = Engine(trained.network).generate(requests)
    assert [done[i].token_ids for i in (0, 1)] == [c.token_ids for c in alone]
    assert other[0].token_ids == done[1].token_ids


def test_a_cancelled_batch_leaves_in_the_middle(trained):
    async def work(worker):
        batch = worker.submit([Request([1], 380, 5.0, seed=i) for i in range(16)])
        async for events in batch.events():
            assert any(isinstance(event, NewToken) for _, event in events)
            break
        batch.cancel()
        _, done = await collect(batch)
        return done, worker.num_active

    done, left = served(trained.engine, work)
    assert left == 0 and len(done) == 16
    assert {completion.stop_reason for completion in done.values()} == {"cancelled"}
    assert all(len(completion.token_ids) < 380 for completion in done.values())


def test_a_full_queue_says_when_to_come_back(trained):
    async def work(worker):
        batch = worker.submit([Request([1], 300, 5.0)] * 3)
        with pytest.raises(Refusal) as caught:
            worker.submit([Request([1], 1)] * 2)
        with pytest.raises(Refusal) as never:
            worker.submit([Request([1], 1)] * 5)
        assert never.value.status == 400
        await asyncio.gather(collect(worker.submit([Request([1], 0, prompt_logprobs=True)])), collect(batch))
        _, done = await collect(worker.submit([Request([1], 1)] * 4))
        return caught.value, len(done)

    refusal, num_later = served(trained.engine, work, max_active=4)
    assert refusal.status == 503 and refusal.headers == {"Retry-After": "1"}
    assert num_later == 4


def test_what_the_engine_refuses_is_told_to_its_own_batch_only(trained):
    async def work(worker):
        good, bad = worker.submit([Request([1], 20)]), worker.submit([Request([1], 20), Request([1], 999)])
        with pytest.raises(Refusal, match="384 positions"):
            await collect(bad)
        bad.cancel()
        return await collect(good)

    _, done = served(trained.engine, work)
    assert len(done[0].token_ids) == 20


class Failing(Engine):
    """Fails in its third step, as when memory runs out; with `for_good` in every later one too."""

    for_good = False
    steps = 0

    def step(self):
        self.steps += 1
        if self.steps == 3 or (self.for_good and self.steps > 3):
            raise MemoryError
        return super().step()


@pytest.mark.parametrize("for_good", [False, True])
def test_a_failed_step_is_an_error_and_not_the_end(trained, for_good):
    engine = Failing(trained.network)
    engine.for_good = for_good

    async def work(worker):
        lost = worker.submit([Request([1], 380, 5.0, seed=i, num_top=1) for i in range(2)])
        with pytest.raises(Refusal, match="not enough memory") as caught:
            await collect(lost)
        assert caught.value.status == 500
        if for_good:
            await asyncio.sleep(0.05)
            assert worker.failure
            with pytest.raises(Refusal) as later:
                worker.submit([Request([1], 5)])
            return later.value.status
        _, done = await collect(worker.submit([Request([1], 5)]))
        return len(done[0].token_ids)

    assert served(engine, work) == (503 if for_good else 5)


class Starved(Engine):
    """Has no memory for its backend at first."""

    starved = True

    def _make(self):
        if self.starved:
            self.starved = False
            raise MemoryError
        return super()._make()


def test_an_engine_that_cannot_begin_is_an_error_and_not_the_end(trained):
    async def work(worker):
        with pytest.raises(Refusal, match=r"cannot begin \(not enough memory\)") as caught:
            await collect(worker.submit([Request([1], 5)]))
        _, done = await collect(worker.submit([Request([1], 5)]))
        return caught.value.status, len(done[0].token_ids), worker.num_active

    assert served(Starved(trained.network), work) == (500, 5, 0)
