"""What a request may ask for, from both backends: truncation, bias, stop texts, constraints, budgets, cancellation."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from small_engine import TOKEN_BYTES, VOCABULARY, library_or_skip

from kweek.engine import engine as engines
from kweek.engine.engine import Engine
from kweek.errors import KweekError
from kweek.model.network import Network
from kweek.protocols import Request


@torch.inference_mode()
def probabilities(network, ids):
    return network.logits(network(torch.tensor([ids])))[0, -1].double().softmax(-1).numpy()


class Alternating:
    """Even and odd tokens by turns."""

    def __init__(self):
        self.turn = 0
        self.taken = []

    def allowed(self):
        return np.arange(VOCABULARY) % 2 == self.turn

    def advance(self, token_id):
        assert token_id % 2 == self.turn
        self.taken.append(token_id)
        self.turn = 1 - self.turn


def test_truncated_sampling_draws_what_is_left_and_says_what_was_cut(engine, network):
    full = probabilities(network, [3, 4])
    order = np.argsort(-full)
    kept = full[order[:3]].sum()
    done = engine.generate([Request([3, 4], 1, 1.0, seed=i, top_k=3) for i in range(600)])
    counts = np.zeros(VOCABULARY)
    for completion in done:
        token = completion.token_ids[0]
        counts[token] += 1
        assert completion.kept_mass[0] == pytest.approx(kept, rel=1e-4)
        assert completion.logprobs[0] == pytest.approx(math.log(full[token]), abs=1e-4)
        assert completion.processed_logprobs[0] == pytest.approx(math.log(full[token] / kept), abs=1e-4)
    assert set(np.flatnonzero(counts)) == set(order[:3].tolist())
    assert np.abs(counts[order[:3]] / 600 - full[order[:3]] / kept).max() < 0.08


def test_top_p_keeps_the_fewest_that_hold_it_and_min_p_those_near_the_best(engine, network):
    full = probabilities(network, [9])
    order = np.argsort(-full)
    count = int(np.searchsorted(np.cumsum(full[order]), 0.4)) + 1
    nucleus = engine.generate([Request([9], 1, 1.0, seed=i, top_p=0.4) for i in range(300)])
    assert {c.token_ids[0] for c in nucleus} <= set(order[:count].tolist())
    near = engine.generate([Request([9], 1, 1.0, seed=i, min_p=0.5) for i in range(300)])
    assert {c.token_ids[0] for c in near} <= set(np.flatnonzero(full >= 0.5 * full.max()).tolist())


def test_a_bias_moves_choices_and_not_the_reported_policy(engine, network):
    full = probabilities(network, [5, 6])
    done = engine.generate([Request([5, 6], 1, logit_bias={7: 100.0})])[0]
    assert done.token_ids == [7]
    assert done.logprobs[0] == pytest.approx(math.log(full[7]), abs=1e-4)


def test_constraints_hold_at_every_token_beside_free_rows(engine):
    free = Request([1, 2, 3], 12, 1.0, seed=5)
    alone = engine.generate([free])[0]
    mixed = engine.generate([Request([4, 5], 12, 1.0, seed=1, constraint=Alternating), free])
    assert [t % 2 for t in mixed[0].token_ids] == [0, 1] * 6
    assert mixed[1].token_ids == alone.token_ids


def test_stop_texts_are_found_across_tokens_and_end_exactly_there(engine):
    free = engine.generate([Request([2, 3], 40, 1.0, seed=2)])[0]
    said = b"".join(TOKEN_BYTES[t] for t in free.token_ids)
    text = said[7:11]
    done = engine.generate([Request([2, 3], 40, 1.0, seed=2, stop_texts=(b"!!", text))])[0]
    end = said.index(text) + len(text)
    assert done.stop_reason == "stop" and done.stopped_by == text
    assert done.token_ids == free.token_ids[: len(done.token_ids)]
    assert len(b"".join(TOKEN_BYTES[t] for t in done.token_ids[:-1])) < end
    assert len(b"".join(TOKEN_BYTES[t] for t in done.token_ids)) >= end


class Forcing:
    """Forces tokens once a sequence has a certain length."""

    trigger_ids = None

    def __init__(self, length, forced):
        self.length, self.forced = length, forced

    def __call__(self, ids):
        return self.forced if len(ids) == self.length else []


def test_a_stop_text_does_not_reach_over_what_a_tool_said_and_a_tool_ends_nothing(engine):
    free = engine.generate([Request([2, 3], 4, interceptor=Forcing(4, [50]))])[0]
    said = [TOKEN_BYTES[token] for token in free.token_ids]
    over = Request([2, 3], 4, interceptor=Forcing(4, [50]), stop_texts=(said[1] + said[3],))
    assert engine.generate([over])[0].token_ids == free.token_ids
    through = Request([2, 3], 4, interceptor=Forcing(4, [50]), stop_texts=(said[2] + said[3],))
    assert engine.generate([through])[0].stopped_by == said[2] + said[3]
    own = Request([2, 3], 4, interceptor=Forcing(4, [50]), stop_texts=(said[2],))
    assert said[2] not in (said[0] + said[1], said[3])
    assert engine.generate([own])[0].token_ids == free.token_ids


def test_stop_texts_without_bytes_are_refused(network):
    with pytest.raises(KweekError, match="bytes of every token"):
        Engine(network).generate([Request([1], 3, stop_texts=(b"x",))])


def test_prompt_scores_are_those_of_score(engine):
    prompt = np.random.default_rng(0).integers(0, VOCABULARY, 300).tolist()
    done = engine.generate([Request(prompt, 3, prompt_logprobs=True)])[0]
    assert done.prompt_logprobs == pytest.approx(engine.score([prompt])[0], abs=1e-4)
    assert engine.generate([Request(prompt, 3)])[0].token_ids == done.token_ids


@torch.inference_mode()
def test_a_prompt_is_scored_with_ranks_and_alternatives_and_nothing_more_if_so_asked(engine, network):
    prompts = [np.random.default_rng(i).integers(0, VOCABULARY, 120 + 90 * i).tolist() for i in range(4)]
    done = engine.generate(
        [Request(prompt, 0, prompt_logprobs=True, num_prompt_top=i) for i, prompt in enumerate(prompts)]
    )
    for count, (prompt, completion) in enumerate(zip(prompts, done, strict=True)):
        table = network.logits(network(torch.tensor([prompt])))[0].log_softmax(-1)[:-1]
        own = table.gather(-1, torch.tensor(prompt[1:])[:, None])
        assert completion.prompt_logprobs == pytest.approx([0.0, *own[:, 0].tolist()], abs=1e-4)
        assert completion.prompt_ranks == [0, *((table > own).sum(-1) + 1).tolist()]
        assert completion.prompt_top[0] == [] and len(completion.prompt_top) == len(prompt)
        for place, row in enumerate(table):
            found = completion.prompt_top[place + 1]
            assert [token for token, _ in found] == row.topk(count).indices.tolist()
            assert [value for _, value in found] == pytest.approx(row.topk(count).values.tolist(), abs=1e-4)
            own_value = completion.prompt_logprobs[place + 1]
            assert all(value == own_value for token, value in found if token == prompt[place + 1])
        assert completion.stop_reason == "length" and completion.token_ids == []
        expected = (len(prompt) - 1) * network.config.num_flops_per_token(len(prompt))
        assert completion.flop == pytest.approx(expected)
    single = engine.generate([Request([5], 0, prompt_logprobs=True)])[0]
    assert single.prompt_logprobs == [0.0] and single.stop_reason == "length"
    dear = engine.generate([Request([5] * 50, 0, prompt_logprobs=True, max_flop=1.0)])[0]
    assert dear.stop_reason == "budget" and dear.flop == 0


def test_a_long_prompt_is_scored_in_pieces_between_which_others_go_on_and_it_can_be_cancelled(engine):
    free = engine.submit(Request([1, 2], 30, num_top=1))
    long = engine.submit(Request([3] * 590, 5, prompt_logprobs=True))
    told = []
    engine.submit(Request([4], 30, num_top=1), lambda token, _: told.append(token))
    assert engine.step() == [] and len(told) == 1
    engine.cancel(long)
    done = dict(engine.step())
    assert done[long].stop_reason == "cancelled" and done[long].token_ids == [] and len(told) == 2
    assert 0 < done[long].flop < 590 * engine.network.config.num_flops_per_token(590) / 2
    while engine.num_active:
        done |= dict(engine.step())
    assert len(done[free].token_ids) == 30


def test_tokens_outside_the_vocabulary_are_refused_wherever_they_come_from(engine):
    for wrong in ({-1: 1.0}, {VOCABULARY: 1.0}, {3: math.nan}, {3: math.inf}):
        with pytest.raises(KweekError, match=r"logit_bias has a token outside 0 \.\. 63"):
            engine.submit(Request([1], 2, logit_bias=wrong))
    for wrong in ({"max_new_tokens": -1}, {"max_new_tokens": 2, "seed": -1}):
        with pytest.raises(KweekError, match="cannot generate"):
            engine.submit(Request([1], **wrong))
    with pytest.raises(KweekError, match="a sequence has a token outside"):
        engine.score([[1, 2], [], [3, VOCABULARY]])
    for token in (-1, VOCABULARY):
        done = engine.generate([Request([1, 2], 9, interceptor=Forcing(4, [token])), Request([1], 9)])
        assert done[0].stop_reason == "error" and "a tool said a token outside" in done[0].error
        assert len(done[1].token_ids) == 9
    many, all_of_them = engine.generate([Request([1, 2], 5, 1.0, top_k=k) for k in (1 << 40, VOCABULARY)])
    assert many.token_ids == all_of_them.token_ids


def test_the_likeliest_tokens_are_named_best_first(engine, network):
    full = probabilities(network, [8, 1])
    done = engine.generate([Request([8, 1], 4, num_top=3)])[0]
    order = np.argsort(-full)[:3]
    assert [token for token, _ in done.top[0]] == order.tolist()
    assert [value for _, value in done.top[0]] == pytest.approx(np.log(full[order]).tolist(), abs=1e-4)
    assert len(done.top) == 4 and done.token_ids[0] == order[0]


def test_a_budget_of_flop_ends_a_generation_before_it_is_spent(engine):
    whole = engine.generate([Request([1, 2, 3], 50)])[0]
    half = engine.generate([Request([4, 2, 3], 50, max_flop=whole.flop / 2)])[0]
    assert half.stop_reason == "budget" and 0 < len(half.token_ids) < 50
    assert half.flop <= whole.flop / 2
    none = engine.generate([Request([4, 2, 3], 50, max_flop=1.0)])[0]
    assert none.stop_reason == "budget" and none.token_ids == []


def test_impossible_requests_name_both_numbers(engine):
    with pytest.raises(KweekError, match=r"500 tokens and 101 new ones exceed the model's 600 positions"):
        engine.generate([Request([1], 5), Request([1] * 500, 101)])
    with pytest.raises(KweekError, match=r"outside 0 \.\. 63"):
        engine.generate([Request([64], 5)])
    assert engine.num_active == 0
    assert len(engine.generate([Request([1] * 500, 100)])[0].token_ids) == 100


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"min_p": 1.5}, {"top_k": -1}]
)
def test_sampling_that_means_nothing_is_refused(engine, wrong):
    with pytest.raises(KweekError, match="cannot sample with"):
        engine.generate([Request([1], 2, **{"temperature": 1.0, **wrong})])


def test_a_temperature_next_to_zero_is_zero(engine):
    greedy = engine.generate([Request([1, 2], 5)])[0]
    for temperature in (1e-45, 1e-12):
        assert engine.generate([Request([1, 2], 5, temperature)])[0].token_ids == greedy.token_ids


def test_requests_come_and_go_while_others_run(engine):
    expected = [engine.generate([Request([i, 5], 30, 1.0, seed=i)])[0].token_ids for i in range(9)]
    tickets, done, told = {}, {}, []
    for i in range(9):
        tickets[engine.submit(Request([i, 5], 30, 1.0, seed=i), lambda token, _: told.append(token))] = i
        done |= dict(engine.step())
    cancelled = engine.submit(Request([33], 500))
    done |= dict(engine.step())
    engine.cancel(cancelled)
    while engine.num_active:
        done |= dict(engine.step())
    assert done.pop(cancelled).stop_reason == "cancelled"
    assert {tickets[t]: c.token_ids for t, c in done.items()} == dict(enumerate(expected))
    assert sorted(told) == sorted(token for tokens in expected for token in tokens)


def test_a_queued_request_can_be_cancelled_before_it_has_a_slot(engine):
    tickets = [engine.submit(Request([i], 200)) for i in range(8)]
    engine.step()
    engine.cancel(tickets[7])
    done = dict(engine.step())
    assert done[tickets[7]].stop_reason == "cancelled" and done[tickets[7]].token_ids == []
    for ticket in tickets:
        engine.cancel(ticket)
    engine.step()
    assert engine.num_active == 0


def test_prefixes_are_shared_with_equal_results_but_never_between_tenants(engine):
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, 120).tolist()
    first = engine.generate([Request([*prompt, 1], 8, tenant="a")])[0]
    again = engine.generate([Request([*prompt, 2], 8, tenant="a")])[0]
    other = engine.generate([Request([*prompt, 2], 8, tenant="b")])[0]
    assert again.token_ids == other.token_ids
    assert again.logprobs == other.logprobs
    assert again.flop < first.flop / 2 and other.flop == pytest.approx(first.flop)


def test_changed_weights_are_seen_and_old_prefixes_forgotten(engine):
    copy = Network(engine.network.config)
    copy.load_state_dict(engine.network.state_dict())
    changing = Engine(copy, num_slots=4)
    prompt = list(range(40))
    before = changing.generate([Request(prompt, 20)])[0]
    with torch.no_grad():
        copy.model.layers[0].mlp.down_proj.weight.mul_(-1.5)
    after = changing.generate([Request(prompt, 20)])[0]
    assert after.logprobs == pytest.approx(Engine(copy).generate([Request(prompt, 20)])[0].logprobs, abs=1e-5)
    assert after.logprobs != pytest.approx(before.logprobs, abs=1e-2)
    assert after.flop == pytest.approx(before.flop)


def test_a_failing_tool_leaves_nothing_behind(engine):
    class Broken:
        trigger_ids = None

        def __call__(self, token_ids):
            raise OSError("the tool broke")

    with pytest.raises(OSError, match="the tool broke"):
        engine.generate([Request([1, 2], 5, interceptor=Broken()), Request([3], 5)])
    assert engine.num_active == 0
    assert len(engine.generate([Request([3], 5)])[0].token_ids) == 5


class Limited(Alternating):
    """A grammar that gives up, either way."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def allowed(self):
        if self.where == "allowed" and len(self.taken) == 2:
            raise KweekError("the grammar is at its limits")
        return super().allowed()

    def advance(self, token_id):
        if self.where == "advance" and len(self.taken) == 2:
            raise KweekError("the grammar is at its limits")
        super().advance(token_id)


@pytest.mark.parametrize("where", ["allowed", "advance"])
def test_a_constraint_that_gives_up_ends_its_own_generation_only(engine, where):
    free = Request([1, 2, 3], 12, 1.0, seed=5)
    alone = engine.generate([free])[0]
    failed, other = engine.generate([Request([4], 12, constraint=lambda: Limited(where)), free])
    assert failed.stop_reason == "error" and "at its limits" in failed.error
    assert len(failed.token_ids) == (2 if where == "allowed" else 3)
    assert other.token_ids == alone.token_ids and other.error is None


def test_constraints_of_another_vocabulary_or_beside_a_tool_are_refused(engine):
    class Small(Alternating):
        def allowed(self):
            return np.ones(5, bool)

    with pytest.raises(KweekError, match="over 5 tokens, the model has 64"):
        engine.generate([Request([1], 2, constraint=Small)])
    tool = type("Tool", (), {"trigger_ids": None, "__call__": lambda self, ids: []})()
    with pytest.raises(KweekError, match="cannot foresee"):
        engine.generate([Request([1], 2, constraint=Alternating, interceptor=tool)])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_weights_end_in_an_error_not_in_a_token(engine, temperature):
    broken = Network(engine.network.config)
    broken.load_state_dict(engine.network.state_dict())
    with torch.no_grad():
        broken.model.norm.weight[3] = math.nan
    done = Engine(broken, num_slots=4).generate([Request([1, 2], 5, temperature)])[0]
    assert done.stop_reason == "error" and "not a number" in done.error and done.token_ids == []


def test_a_format_that_the_sizes_do_not_allow_is_an_error_and_not_another_format(network):
    library_or_skip()
    narrow = Network(dataclasses.replace(network.config, hidden_size=24))
    with pytest.raises(KweekError, match=r"24 inputs has no whole groups of 32 for q4. Use f16 or f32"):
        Engine(narrow, weights="q4").generate([Request([1], 2)])
    with pytest.raises(KweekError, match="no whole groups"):
        Engine(narrow, weights="q8").score([[1, 2]])


def test_what_only_the_native_library_has_is_not_ignored_by_torch(network):
    for options in ({"weights": "q4"}, {"kv": "q8"}, {"threads": 2}):
        with pytest.raises(KweekError, match="weights, kv, threads and the native library"):
            Engine(network, computing="torch", **options).generate([Request([1], 2)])


def test_without_a_library_it_says_so_once_and_goes_on(network, monkeypatch):
    def missing(*_, **__):
        raise KweekError("the native engine needs a C compiler, and none was found")

    monkeypatch.setattr(engines.library, "load", missing)
    expected = Engine(network)
    with pytest.warns(RuntimeWarning, match="several times slower"):
        done = expected.generate([Request([1, 2, 3], 6)])[0]
    assert len(done.token_ids) == 6


def test_after_an_update_the_native_engine_keeps_its_memory(network):
    library_or_skip()
    mine = copy.deepcopy(network)
    engine = Engine(mine, num_slots=2)
    request = Request([3, 4, 5], 6)
    engine.generate([request])
    backend = engine._scheduler.backend
    held = backend._memory.table["data"].tolist()
    with torch.no_grad():
        mine.head_weight.neg_()
    after = engine.generate([request])[0]
    assert engine._scheduler.backend is backend
    assert backend._memory.table["data"].tolist() == held
    assert after == Engine(mine, num_slots=2).generate([request])[0]
