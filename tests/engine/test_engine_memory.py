"""What a shortage of memory costs: one text, and nothing that was or will be said by others."""

import pytest
from small_engine import TOKEN_BYTES, VOCABULARY

from kweek.engine.engine import Engine
from kweek.protocols import Request


class Poor:
    """A backend with memory for so many tokens in all slots together."""

    def __init__(self, backend, tokens):
        self._backend, self._tokens, self._held = backend, tokens, {}

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def reserve(self, slot, tokens):
        if sum(self._held.values()) - self._held.get(slot, 0) + tokens > self._tokens:
            raise MemoryError
        self._held[slot] = tokens
        self._backend.reserve(slot, tokens)

    def release(self, slot):
        self._held.pop(slot, None)
        self._backend.release(slot)


@pytest.mark.parametrize("scored", [False, True])
def test_a_text_without_memory_ends_alone_and_idle_prefixes_make_room(engine, monkeypatch, scored):
    make = Engine._make
    requests = [Request([i] * 20, 60, 1.0, seed=i) for i in range(3)]
    expected = [engine.generate([request])[0].token_ids for request in requests]
    monkeypatch.setattr(Engine, "_make", lambda self: Poor(make(self), 450))
    poor = Engine(engine.network, token_bytes=TOKEN_BYTES, num_slots=4)
    big = Request([9] * 500, 50, prompt_logprobs=scored)
    *done, failed = poor.generate([*requests, big])
    assert failed.stop_reason == "error" and "not enough memory for a text of 500 tokens" in failed.error
    assert [completion.token_ids for completion in done] == expected
    assert len(poor.generate([Request([7] * 300, 50)])[0].token_ids) == 50, "idle slots are given up"
    assert [completion.token_ids for completion in poor.generate(requests)] == expected


def test_a_text_that_got_no_memory_leaves_no_prefix_to_be_found(engine, monkeypatch):
    make = Engine._make
    prompt = [(3 * i) % VOCABULARY for i in range(60)]
    again = Request([*prompt, 5], 8)
    expected = engine.generate([again])[0].token_ids
    monkeypatch.setattr(Engine, "_make", lambda self: Poor(make(self), 450))
    poor = Engine(engine.network, num_slots=4)
    poor.submit(Request(prompt, 100, 1.0, seed=1))
    poor.step()  # it is running, so that the others copy from it
    big = poor.submit(Request([*prompt, *[9] * 400], 4))
    assert dict(poor.step())[big].stop_reason == "error"
    ticket, done = poor.submit(again), {}
    while ticket not in done:
        done |= dict(poor.step())
    assert done[ticket].token_ids == expected


class Stumbling:
    """A backend whose first call fails before it computes."""

    def __init__(self, backend):
        self._backend, self._stumbled = backend, False

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def run(self, rows, steps=1, fed=()):
        if not self._stumbled:
            self._stumbled = True
            raise MemoryError
        return self._backend.run(rows, steps, fed)


def test_of_a_call_that_failed_nothing_is_found_again(engine, monkeypatch):
    make = Engine._make
    request = Request([(5 * i) % VOCABULARY for i in range(40)], 8)
    expected = engine.generate([request])[0].token_ids
    monkeypatch.setattr(Engine, "_make", lambda self: Stumbling(make(self)))
    stumbling = Engine(engine.network, num_slots=4)
    ticket = stumbling.submit(request)
    with pytest.raises(MemoryError):
        stumbling.step()
    stumbling.cancel(ticket)  # as the server's worker does
    assert [completion.stop_reason for _, completion in stumbling.step()] == ["cancelled"]
    assert stumbling.generate([request])[0].token_ids == expected
