"""Interrupted generations go on as if nothing had happened: in the same engine, in another, in another process."""

import dataclasses
import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.engine.eager import EagerBackend
from kweek.engine.engine import Engine
from kweek.engine.native import library
from kweek.engine.speculation import PromptLookup, Speculation
from kweek.engine.suspended import Suspended
from kweek.engine.suspended_file import read_suspended, write_suspended
from kweek.errors import KweekError, StoreError
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Request

VOCABULARY = 64
TOKEN_BYTES = [bytes([97 + i % 26]) * (1 + i // 26) for i in range(VOCABULARY)]
try:
    library.load()
except KweekError as error:
    pytest.skip(str(error), allow_module_level=True)


class Always(Speculation):
    """Guesses whether it pays or not."""

    active = True


class Alternating:
    """Even and odd tokens by turns."""

    def __init__(self):
        self.turn = 0

    def allowed(self):
        return np.arange(VOCABULARY) % 2 == self.turn

    def advance(self, token_id):
        assert token_id % 2 == self.turn
        self.turn = 1 - self.turn


class Echo:
    """Says after every token 7 or 8 what was said two tokens before."""

    trigger_ids = frozenset({7, 8})

    def __call__(self, token_ids):
        return [token_ids[-3], 9]


def make_network():
    network = Network(
        ModelConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2,
            num_kv_heads=1, head_dim=16, max_positions=600,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3, generator=generator) if parameter.ndim == 2 else parameter.fill_(1.0)
    return network


NETWORK = make_network()


def engine(guess=False, **options):
    speculation = Always(PromptLookup()) if guess else None
    return Engine(NETWORK, token_bytes=TOKEN_BYTES, num_slots=3, speculation=speculation, **options)


def run(engine, requests, tickets=None):
    """All completions, by place."""
    tickets = tickets or {engine.submit(request): place for place, request in enumerate(requests)}
    done = {}
    while engine.num_active:
        done |= {tickets[ticket]: completion for ticket, completion in engine.step()}
    return done


def interrupted(first, second, requests, path, steps, code=True):
    """Completions of requests that were taken out of one engine after some steps and put into another."""
    tickets = {first.submit(request): place for place, request in enumerate(requests)}
    done = {}
    for _ in range(steps):
        done |= {tickets[ticket]: completion for ticket, completion in first.step()}
    write_suspended(path, first.suspend())
    assert first.num_active == 0 and first.step() == []
    moved = {}
    for one in read_suspended(path):
        request = requests[tickets[one.ticket]]
        ticket = second.resume(one, constraint=request.constraint, interceptor=request.interceptor)
        moved[ticket] = tickets[one.ticket]
    return done | run(second, requests, moved), len(moved)


def same(ours, theirs):
    """All but the cost, which holds what was computed twice."""
    return dataclasses.replace(ours, flop=0.0) == dataclasses.replace(theirs, flop=0.0)


def request_of(draw):
    kind = draw(st.sampled_from(["free", "constraint", "tool"]))
    temperature = draw(st.sampled_from([0.0, 0.7, 1.5]))
    prompt = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40))
    fields = {
        "seed": draw(st.integers(0, 2**64 - 1)),
        "top_p": draw(st.sampled_from([0.5, 1.0])),
        "stop_ids": frozenset(draw(st.sets(st.integers(0, 63), max_size=1))),
        "stop_texts": draw(st.sampled_from([(), (b"ab",), (b"zz", b"bba")])),
        "logit_bias": draw(st.sampled_from([{}, {3: 2.5, 4: -math.inf}])),
        "num_top": draw(st.sampled_from([0, 3])),
        "prompt_logprobs": draw(st.booleans()),
        "num_prompt_top": draw(st.sampled_from([0, 2])),
        "tenant": draw(st.sampled_from(["", "é"])),
    }
    fields |= {"constraint": Alternating} if kind == "constraint" else {}
    fields |= {"interceptor": Echo()} if kind == "tool" else {}
    return Request(prompt, draw(st.integers(1, 60)), temperature, **fields)


@st.composite
def requests_of(draw):
    return [request_of(draw) for _ in range(draw(st.integers(1, 5)))]


@settings(max_examples=60, deadline=None)
@given(requests=requests_of(), steps=st.integers(0, 12), guesses=st.tuples(st.booleans(), st.booleans()))
def test_an_interrupted_text_is_the_undisturbed_one(tmp_path_factory, requests, steps, guesses):
    path = tmp_path_factory.mktemp("suspended") / "generations.json"
    whole = run(engine(), requests)
    done, _ = interrupted(engine(guesses[0]), engine(guesses[1]), requests, path, steps)
    assert done.keys() == whole.keys()
    assert all(same(done[place], whole[place]) for place in whole)


@pytest.mark.parametrize("form", ["f32", "q8", "q4"])
@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_every_format_goes_on_with_the_same_bits(tmp_path, form, kv):
    requests = [Request([i, 2, 3], 60, 1.0, seed=i) for i in range(5)]
    make = lambda: Engine(NETWORK, num_slots=3, weights=form, kv=kv)  # noqa: E731
    whole = run(make(), requests)
    done, moved = interrupted(make(), make(), requests, tmp_path / "s.json", 2)
    assert moved == 5 and all(same(done[place], whole[place]) for place in whole)


def test_torch_goes_on_with_the_same_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "_make", lambda self: EagerBackend(self.network, num_slots=20))
    requests = [Request([i, 2, 3], 40, 1.0, seed=i, num_top=1) for i in range(3)]  # a token for each step
    whole = run(engine(), requests)
    done, moved = interrupted(engine(), engine(), requests, tmp_path / "s.json", 7)
    assert moved == 3
    for place, completion in whole.items():
        assert done[place].token_ids == completion.token_ids
        assert done[place].logprobs == pytest.approx(completion.logprobs, abs=1e-4)


def test_another_process_goes_on(tmp_path):
    """Twice interrupted, three processes, one text."""
    save_model(tmp_path / "model", NETWORK)
    requests = [Request([i, 2, 3], 90, 1.0, seed=i, constraint=Alternating) for i in range(4)]
    whole = run(engine(), requests)
    first = engine()
    for request in requests:
        first.submit(request)
    done = dict(ticket_of for _ in range(3) for ticket_of in first.step())
    assert not done
    path = tmp_path / "suspended.json"
    write_suspended(path, first.suspend())
    script = textwrap.dedent("""
        import json, sys
        from pathlib import Path
        from test_engine_suspended import TOKEN_BYTES, Alternating
        from kweek.engine.engine import Engine
        from kweek.engine.suspended_file import read_suspended, write_suspended
        from kweek.model.checkpoint import load_model
        engine = Engine(load_model(Path(sys.argv[1])), token_bytes=TOKEN_BYTES)
        for one in read_suspended(Path(sys.argv[2])):
            engine.resume(one, constraint=Alternating)
        found = {}
        for _ in range(int(sys.argv[3])):
            found |= {ticket: completion.token_ids for ticket, completion in engine.step()}
        write_suspended(Path(sys.argv[2]), engine.suspend())
        print(json.dumps(found))
    """)
    found = []
    for steps in ("4", "1000"):
        words = [sys.executable, "-c", script, str(tmp_path / "model"), str(path), steps]
        process = subprocess.run(words, capture_output=True, text=True, cwd=__file__.rpartition("/")[0])
        assert process.returncode == 0, process.stderr
        found.append(json.loads(process.stdout))
    assert found[0] == {}
    assert list(found[1].values()) == [whole[place].token_ids for place in range(4)]


def test_listeners_hear_only_what_is_new_and_costs_add_up():
    first, second, told = engine(), engine(), []
    whole = run(engine(), [Request([1, 2, 3], 30)])[0]
    first.submit(Request([1, 2, 3], 30, num_top=1))
    for _ in range(4):
        first.step()
    (one,) = first.suspend()
    assert len(one.token_ids) == 4 and one.flop < whole.flop
    ticket = second.resume(one, lambda token, _: told.append(token))
    done = run(second, [], {ticket: 0})[0]
    assert told == whole.token_ids[4:] and done.token_ids == whole.token_ids
    again = 6 * NETWORK.config.num_flops_per_token(7)  # the prompt and three tokens that had been fed, twice
    assert whole.flop < done.flop < whole.flop + 1.5 * again


def test_one_of_several_is_taken_out_and_the_others_end():
    running = engine()
    tickets = [running.submit(Request([i], 20, num_top=1)) for i in range(5)]  # three run, two wait
    running.step()
    cancelled = tickets[1]
    running.cancel(cancelled)
    taken = running.suspend([tickets[0], cancelled, tickets[4], 999])
    assert [one.ticket for one in taken] == [tickets[0], tickets[4]]
    assert [len(one.token_ids) for one in taken] == [1, 0]
    done = {}
    while running.num_active:
        done |= dict(running.step())
    assert done.keys() == {tickets[1], tickets[2], tickets[3]}
    assert done[cancelled].stop_reason == "cancelled"


def test_other_weights_or_formats_are_refused():
    first = engine()
    first.submit(Request([1, 2], 9, num_top=1))
    first.step()
    (one,) = first.suspend()
    changed = make_network()
    with torch.no_grad():
        changed.model.layers[1].mlp.down_proj.weight.mul_(1.001)
    for other in (Engine(changed), Engine(NETWORK, weights="q8"), Engine(NETWORK, kv="f16")):
        with pytest.raises(KweekError, match="other weights"):
            other.resume(one)
    assert Engine(make_network()).resume(one)  # the same weights somewhere else in memory


def test_weights_that_change_under_a_generation_are_said():
    network = make_network()
    running = Engine(network)
    running.submit(Request([1, 2], 9, num_top=1))
    running.step()
    with torch.no_grad():
        network.model.norm.weight.mul_(1.5)
    with pytest.raises(KweekError, match="changed under running generations"):
        running.suspend()


def test_code_that_is_missing_or_too_much_is_refused(tmp_path):
    first = engine()
    first.submit(Request([1], 9, constraint=Alternating))
    first.submit(Request([1], 9, num_top=1))
    first.step()
    held = first.suspend()
    write_suspended(tmp_path / "s.json", held)
    bound, free = read_suspended(tmp_path / "s.json")
    with pytest.raises(KweekError, match="does not go on without it"):
        engine().resume(bound)
    with pytest.raises(KweekError, match="had none"):
        engine().resume(free, constraint=Alternating)
    with pytest.raises(KweekError, match="had none"):
        engine().resume(free, interceptor=Echo())
    assert engine().resume(held[0])  # in the same process nothing needs to be given again

    class Odd(Alternating):
        def allowed(self):
            return ~super().allowed()

    with pytest.raises(KweekError, match="does not allow"):
        engine().resume(bound, constraint=Odd)
    with pytest.raises(KweekError, match="bytes of every token"):
        Engine(NETWORK).resume(dataclasses.replace(free, request=Request([1], 9, stop_texts=(b"x",))))
    with pytest.raises(KweekError, match=r"outside 0 \.\. 63"):
        engine().resume(dataclasses.replace(free, token_ids=[64]))


def a_file(tmp_path):
    first = engine()
    first.submit(Request([1, 2], 9, 0.5, stop_texts=(b"qqq",), num_top=2, prompt_logprobs=True))
    first.step()
    write_suspended(tmp_path / "s.json", first.suspend())
    return tmp_path / "s.json"


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.pop("logprobs"),
        lambda g: g.update(more=1),
        lambda g: g["token_ids"].append(5),
        lambda g: g["token_ids"].__setitem__(0, "x"),
        lambda g: g["request"].update(stop_texts=["zz"]),
        lambda g: g["request"].update(max_flop="much"),
        lambda g: g["request"].update(prompt_ids=[]),
        lambda g: g["request"].update(max_new_tokens=1),
        lambda g: g.update(wants=["lawyer"]),
        lambda g: g.update(prompt_logprobs=[0.0]),
        lambda g: g.update(top=[]),
    ],
)
def test_a_file_that_is_not_whole_is_one_clear_error(tmp_path, change):
    path = a_file(tmp_path)
    held = json.loads(path.read_text())
    change(held["generations"][0])
    path.write_text(json.dumps(held))
    with pytest.raises(StoreError, match=r"no file of suspended generations .*[Gg]enerate anew"):
        read_suspended(path)


def test_a_file_cut_anywhere_is_an_error_and_never_half_read(tmp_path):
    path = a_file(tmp_path)
    data = path.read_bytes()
    for length in range(0, len(data.rstrip()), 37):
        path.write_bytes(data[:length])
        with pytest.raises(StoreError):
            read_suspended(path)
    for value in ("[]", "3", "{}", '{"version": 2, "generations": []}'):
        path.write_text(value)
        with pytest.raises(StoreError, match="no file of suspended generations"):
            read_suspended(path)


LOGPROBS = st.floats(-1e3, 0.0) | st.just(-math.inf)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_gives_back_what_was_written(tmp_path_factory, data):
    request = dataclasses.replace(request_of(data.draw), constraint=None, interceptor=None)
    request = dataclasses.replace(request, max_flop=data.draw(st.floats(0, 1e20) | st.just(math.inf)))
    count = data.draw(st.integers(0, request.max_new_tokens - 1))
    pick = lambda values, n=count: data.draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    tops = st.lists(st.tuples(st.integers(0, 63), LOGPROBS), max_size=3)
    one = Suspended(
        request, data.draw(st.integers(1, 99)), "identity", (), data.draw(st.floats(0, 1e20)), pick(st.integers(0, 63)),
        pick(st.booleans()), pick(LOGPROBS), pick(LOGPROBS), pick(st.floats(0, 1)),
        pick(tops) if request.num_top else [],
    )  # fmt: skip
    if request.prompt_logprobs:
        size = len(request.prompt_ids)
        lists = pick(LOGPROBS, size), pick(st.integers(0, 63), size), pick(tops, size)
        one = dataclasses.replace(
            one, **dict(zip(("prompt_logprobs", "prompt_ranks", "prompt_top"), lists, strict=True))
        )
    path = tmp_path_factory.mktemp("file") / "s.json"
    write_suspended(path, [one, one])
    assert read_suspended(path) == [one, one]
