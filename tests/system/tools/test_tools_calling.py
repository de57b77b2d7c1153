"""A model that writes at random under the grammar of a toolbox writes valid calls, and nothing else like one."""

import json
import random

import numpy as np
import pytest
import torch

from kweek.engine.constraints import GrammarError, Vocabulary
from kweek.engine.engine import Engine
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Request
from kweek.system.tools import Toolbox, calls_of, tool
from kweek.system.tools.calling import CLOSING, OPENING
from kweek.system.tools.schema import faults

EOS = 256
BYTES = [bytes([byte]) for byte in range(256)]


@tool
def weigh(what: str, grams: int = 1) -> str:
    """Weigh something."""
    return f"{what}: {grams}"


@tool
def wait() -> str:
    """Wait."""
    return ""


BOX = Toolbox([weigh, wait])


def vocabulary(*more: bytes, control: bool = False) -> Vocabulary:
    tokens = [*BYTES, b"", *more]
    names = {}
    if control:
        names = {OPENING: len(tokens), CLOSING: len(tokens) + 1}
        tokens += [b"", b""]
    return Vocabulary(tokens, [EOS], names.values(), names)


def write(constraint, words, rng, steer, length=200):
    """Tokens drawn from those allowed, `steer` first where it is allowed."""
    written, steer = [], list(steer)
    for _ in range(length):
        allowed = np.flatnonzero(constraint.allowed())
        assert len(allowed)
        if steer and steer[0] in allowed:
            token = steer.pop(0)
        elif steer:
            raise AssertionError(f"{steer[0]} is not allowed")
        else:
            token = int(rng.choice(allowed[allowed != EOS]) if len(allowed) > 1 else allowed[0])
        constraint.advance(token)
        written.append(token)
        if token == EOS:
            break
    return written


def spelt(words: Vocabulary, ids) -> str:
    names = {index: name.encode() for name, index in words.control_names.items()}
    return b"".join(names.get(index, words.tokens[index]) for index in ids).decode("utf-8", "replace")


@pytest.mark.parametrize("control", [False, True])
def test_what_opens_like_a_call_is_a_valid_call(control):
    words = vocabulary(b"<tool", b"_call", b">", b'>\n{"', b"ok <tool_call>", control=control)
    grammar = BOX.grammar(words)
    opening = [words.control_names[OPENING]] if control else list(b"<tool_call>")
    head = list(b'\n{"name": "weigh", "arguments": {"what": "')
    for seed in range(20):
        rng = random.Random(seed)
        text = spelt(words, write(grammar.start(), words, rng, [*b"Let me see. ", *opening, *head], 400))
        whole = text[: text.rfind(CLOSING) + len(CLOSING)]
        for call in calls_of({"content": whole}):
            assert not call.wrong
            assert not faults(call.arguments, BOX.tools[call.name].parameters)


def test_no_token_goes_on_past_the_mark():
    words = vocabulary(b'>\n{"', b"x<tool_call>y", b"x<tool_call>", b"all>", b"all>z")
    constraint = BOX.grammar(words).start()
    first = constraint.allowed()
    assert not first[258] and first[259] and first[257]
    for byte in b"<tool_c":
        constraint.advance(byte)
    assert constraint.allowed()[260] and not constraint.allowed()[261]
    constraint.advance(260)
    with pytest.raises(GrammarError):
        constraint.advance(ord("x"))
    assert set(np.flatnonzero(constraint.allowed())) == {ord("\n")}


def test_text_goes_on_after_a_call():
    words = vocabulary()
    constraint = BOX.grammar(words).start()
    call = {"name": "wait", "arguments": {}}
    for byte in f"a {OPENING}\n{json.dumps(call)}\n{CLOSING}".encode():
        constraint.advance(byte)
    assert constraint.allowed()[ord("b")] and constraint.allowed()[EOS]
    constraint.advance(EOS)
    assert set(np.flatnonzero(constraint.allowed())) == {EOS}


def test_a_call_can_be_required():
    words = vocabulary()
    constraint = BOX.grammar(words, required=True).start()
    text = spelt(
        words, write(constraint, words, random.Random(1), b'<tool_call>\n{"name": "wait", "arguments": {}}')
    )
    (call,) = calls_of({"content": text})
    assert call.name == "wait"


def test_no_tools_no_grammar():
    with pytest.raises(GrammarError):
        Toolbox([]).grammar(vocabulary())


def test_the_engine_writes_valid_calls_with_weights_that_know_nothing():
    network = Network(ModelConfig(257, 32, 64, 1, 1, 1, 32, max_positions=512))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.2, generator=generator)
    grammar = BOX.grammar(vocabulary(), required=True)
    requests = [
        Request([1], 200, 1.0, seed=seed, stop_ids=frozenset({EOS}), constraint=lambda: grammar.start(200))
        for seed in range(8)
    ]
    for done in Engine(network, num_slots=8).generate(requests):
        assert (done.stop_reason, done.error) == ("stop", None)
        (call,) = calls_of({"content": bytes(done.token_ids[:-1]).decode()})
        assert BOX.call(call.name, call.arguments).error is None
