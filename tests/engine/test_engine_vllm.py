"""Requests in vLLM's words and its outputs in ours, with stand-ins of the shape of vLLM's own classes.

The stand-ins follow vllm/sampling_params.py, vllm/outputs.py and vllm/logprobs.py; where vLLM is installed they are
compared with them.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.engine.backend import ForeignSizes
from kweek.engine.vllm.engine import VllmEngine, load
from kweek.engine.vllm.translate import Growing, limit_of, prompt_of, sampling_arguments
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.protocols import Request

CONFIG = ModelConfig(300, 64, 96, 2, 4, 2, head_dim=32, max_positions=512)
SIZES = ForeignSizes(300, 512, CONFIG)
#: Fields of `vllm.SamplingParams` that are used here.
FIELDS = {
    "n", "temperature", "top_k", "top_p", "min_p", "max_tokens", "ignore_eos", "stop_token_ids", "stop",
    "include_stop_str_in_output", "detokenize", "skip_special_tokens", "spaces_between_special_tokens", "logprobs",
    "prompt_logprobs", "seed", "logit_bias", "output_kind",
}  # fmt: skip


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool = False


def step(tokens, logprobs, reason=None, stopped_by=None, prompt=None):
    """What one step brings: only new tokens (`RequestOutputKind.DELTA`)."""
    entries = [{token: Logprob(value, 1)} for token, value in zip(tokens, logprobs, strict=True)]
    part = CompletionOutput(0, "", tokens, None, entries, reason, stopped_by)
    return RequestOutput("1", prompt, [part], reason is not None)


def growing(request):
    return Growing(request, limit_of(request, SIZES))


def test_arguments_of_a_plain_request():
    found = sampling_arguments(Request([1, 2], 7, stop_ids=frozenset({9, 3})), SIZES)
    assert set(found) <= FIELDS
    assert (found["temperature"], found["max_tokens"], found["stop_token_ids"]) == (0.0, 7, [3, 9])
    assert found["ignore_eos"] and not found["detokenize"] and found["logprobs"] == 0
    assert "seed" not in found and "prompt_logprobs" not in found


def test_arguments_of_a_request_with_everything():
    request = Request(
        [1, 2], 7, 0.7, seed=(1 << 63) + 5, top_k=4, top_p=0.9, min_p=0.1, logit_bias={3: -1.5},
        stop_texts=("é\n".encode(),), prompt_logprobs=True, num_prompt_top=2, num_top=5, tenant="a",
    )  # fmt: skip
    found = sampling_arguments(request, SIZES)
    assert set(found) <= FIELDS
    assert (found["temperature"], found["top_k"], found["top_p"], found["min_p"]) == (0.7, 4, 0.9, 0.1)
    assert found["stop"] == ["é\n"] and found["detokenize"] and found["include_stop_str_in_output"]
    assert (found["logprobs"], found["prompt_logprobs"], found["seed"]) == (5, 2, 5)
    assert found["logit_bias"] == {3: -1.5}
    assert prompt_of(request) == {"prompt_token_ids": [1, 2], "cache_salt": "a"}
    assert prompt_of(Request([1], 1)) == {"prompt_token_ids": [1]}


class Anything:
    trigger_ids = None

    def __call__(self, ids):
        return []

    def allowed(self):
        return np.ones(300, bool)

    def advance(self, token_id):
        pass


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("constraint", Request([1], 2, constraint=Anything)),
        ("interceptor", Request([1], 2, interceptor=Anything())),
        ("temperature", Request([1], 2, 0.005)),
        ("temperature", Request([1], 2, 2.5)),
        ("stop_texts", Request([1], 2, stop_texts=(b"\xff",))),
    ],
)
def test_what_vllm_cannot_do_is_refused_by_name(name, request_):
    with pytest.raises(KweekError, match=f"^{name}: vLLM cannot"):
        sampling_arguments(request_, SIZES)


def test_a_completion_is_put_together_from_steps():
    told = []
    request = Request(
        [1, 2, 3], 9, 1.0, stop_ids=frozenset({7}), num_top=2, prompt_logprobs=True, num_prompt_top=1
    )
    state = growing(request)
    state.on_token = lambda *pair: told.append(pair)
    prompt = [None, {2: Logprob(-1.0, 1)}, {5: Logprob(-0.1, 1), 3: Logprob(-3.0, 4)}]
    first = step([5, 6], [-0.5, -2.0], prompt=prompt)
    first.outputs[0].logprobs[1] = {6: Logprob(-2.0, 3), 8: Logprob(-0.25, 1), 4: Logprob(-0.75, 2)}
    state.take(first)
    assert state.reason is None
    state.take(step([7], [-0.125], "stop", 7))
    done = state.completion(SIZES)
    assert done.token_ids == [5, 6, 7] and done.sampled == [True] * 3
    assert done.logprobs == [-0.5, -2.0, -0.125] == done.processed_logprobs
    assert done.kept_mass == [1.0] * 3
    assert (done.stop_reason, done.stopped_by) == ("stop", 7)
    assert done.top == [[(5, -0.5)], [(8, -0.25), (4, -0.75)], [(7, -0.125)]]
    assert done.prompt_logprobs == [0.0, -1.0, -3.0] and done.prompt_ranks == [0, 1, 4]
    assert done.prompt_top == [[], [(2, -1.0)], [(5, -0.1)]]
    assert told == [(5, -0.5), (6, -2.0), (7, -0.125)]
    expected = 3 * CONFIG.num_flops_per_token(3) + CONFIG.num_flops_decode(3) + CONFIG.num_flops_decode(4)
    assert done.flop == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reason", "stop_reason", "expected"),
    [
        ("length", None, ("length", None)),
        ("stop", "é", ("stop", "é".encode())),
        ("abort", None, ("cancelled", None)),
        ("repetition", None, ("error", None)),
    ],
)
def test_reasons(reason, stop_reason, expected):
    state = growing(Request([1], 1))
    state.take(step([4], [-1.0], reason, stop_reason))
    done = state.completion(SIZES)
    assert (done.stop_reason, done.stopped_by) == expected
    assert (done.error is not None) == (expected[0] == "error")


@given(
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.5]),
    bias=st.booleans(),
)
def test_processed_logprobs_are_given_where_they_are_known_and_only_there(temperature, top_k, top_p, bias):
    request = Request([1], 1, temperature, top_k=top_k, top_p=top_p, logit_bias={4: 1.0} if bias else {})
    state = growing(request)
    state.take(step([4], [-1.0], "length"))
    done = state.completion(SIZES)
    if temperature == 0:
        assert (done.processed_logprobs, done.kept_mass) == ([0.0], [1.0])
    elif temperature == 1 and not top_k and top_p == 1 and not bias:
        assert (done.processed_logprobs, done.kept_mass) == ([-1.0], [1.0])
    else:
        assert (done.processed_logprobs, done.kept_mass) == ([], [])


def test_budgets_and_prompts_that_are_only_scored():
    prompt_cost = 3 * CONFIG.num_flops_per_token(3)
    dear = growing(Request([1, 2, 3], 5, max_flop=prompt_cost / 2))
    assert dear.reason == "budget" and dear.completion(SIZES).flop == 0
    some = Request([1, 2, 3], 5, max_flop=prompt_cost + 1.5 * CONFIG.num_flops_decode(3))
    assert sampling_arguments(some, SIZES)["max_tokens"] == 2
    state = growing(some)
    state.take(step([4, 5], [-1.0, -1.0], "length"))
    assert state.reason == "budget"
    scored = growing(Request([1, 2], 0, prompt_logprobs=True))
    assert scored.reason is None and sampling_arguments(scored.request, SIZES)["max_tokens"] == 1
    scored.take(step([4], [-1.0], "length", prompt=[None, {2: Logprob(-2.0, 5)}]))
    done = scored.completion(SIZES)
    assert (done.token_ids, done.prompt_logprobs, done.stop_reason) == ([], [0.0, -2.0], "length")
    assert growing(Request([1, 2], 0)).reason == "length"
    unknown = ForeignSizes(300, 512, None)
    assert math.isnan(unknown.num_flops_decode(3)) and math.isnan(unknown.num_flops_per_token(3))


def test_a_failing_listener_leaves_nothing_behind(monkeypatch, tmp_path):
    """vLLM itself is a stand-in that says token 5 in every step until three have been said."""

    class LLMEngine:
        model_config = SimpleNamespace(get_vocab_size=lambda: 300, max_model_len=512)

        def __init__(self):
            self.said = {}

        @classmethod
        def from_engine_args(cls, arguments):
            return cls()

        def add_request(self, request_id, prompt, params):
            self.said[request_id] = 0

        def abort_request(self, request_ids):
            self.said = {name: count for name, count in self.said.items() if name not in request_ids}

        def has_unfinished_requests(self):
            return bool(self.said)

        def step(self):
            outputs = []
            for name in list(self.said):
                self.said[name] += 1
                output = step([5], [-1.0], "length" if self.said[name] == 3 else None)
                outputs.append(replace(output, request_id=name))
                if output.finished:
                    del self.said[name]
            return outputs

    fake = SimpleNamespace(EngineArgs=dict, LLMEngine=LLMEngine, SamplingParams=lambda **_: None)
    monkeypatch.setattr("kweek.engine.vllm.engine.load", lambda: fake)
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(DELTA=1))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", kinds)
    engine = VllmEngine(tmp_path)

    def fail(index, token):
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        engine.generate([Request([1], 3), Request([2], 3)], fail)
    assert engine.num_active == 0 and not engine._engine.said
    assert [done.token_ids for done in engine.generate([Request([1], 3)])] == [[5, 5, 5]]


def test_without_vllm_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KweekError, match=r"pip install 'kweek\[vllm\]'"):
        load()


def test_the_stand_ins_are_as_vllm_has_them():
    vllm = pytest.importorskip("vllm")
    assert set(inspect.signature(vllm.SamplingParams).parameters) >= FIELDS
    for ours, theirs in (
        (CompletionOutput, "CompletionOutput"),
        (RequestOutput, "RequestOutput"),
    ):
        found = inspect.signature(getattr(importlib.import_module("vllm.outputs"), theirs)).parameters
        assert set(found) >= set(inspect.signature(ours).parameters)
