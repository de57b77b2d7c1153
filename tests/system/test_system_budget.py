"""Budgets: what is set aside cannot be spent twice, children cannot spend what parents lack, and time ends."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.errors import ConfigError, KweekError
from kweek.system.budget import Budget, BudgetExceeded, Limits
from kweek.system.cost import Cost, total


def test_costs_add_up_and_unknown_flop_are_never_called_nothing():
    both = total([Cost(2e9, 0, 3, 1, 4, 0.5, 0.1, 0.25), Cost(num_unknown=1, tokens_in=2)])
    assert both == Cost(2e9, 1, 5, 1, 4, 0.5, 0.1, 0.25) and both.tokens == 9
    assert Cost.from_dict(both.to_dict()) == both
    assert "unknown" in both.flop_said and "2.0e9" in both.flop_said
    assert Cost(num_unknown=2).flop_said.startswith("unknown") and Cost().flop_said == "0 FLOP"


def test_what_is_set_aside_is_gone_until_it_is_settled():
    budget = Budget("run", Limits(tokens=100))
    ticket = budget.reserve(Cost(tokens_in=60))
    with pytest.raises(BudgetExceeded, match=r"budget run: a call needs 50 tokens, 40 tokens are left"):
        budget.reserve(Cost(tokens_out=50))
    budget.settle(ticket, Cost(tokens_in=10))
    assert budget.left().tokens == 90 and budget.spent.tokens == 10
    budget.reserve(Cost(tokens_out=50))


def test_a_child_cannot_spend_what_its_parent_lacks_and_the_scope_is_named():
    budget = Budget("run", Limits(flop=100.0))
    with budget.scope("debate", flop=1000.0) as child:
        assert child.left().flop == 100
        with pytest.raises(BudgetExceeded, match="budget run"):
            child.reserve(Cost(101.0))
        with child.scope("round", flop=10.0) as inner:
            with pytest.raises(BudgetExceeded, match="budget round"):
                inner.reserve(Cost(11.0))
            inner.settle(inner.reserve(Cost(10.0)), Cost(30.0))  # more than was set aside counts too
            assert inner.left().flop == 0 and inner.spent.flop == 30
    assert budget.spent.flop == child.spent.flop == 30 and budget.left().flop == 70


def test_less_is_granted_where_less_is_left_but_not_less_than_the_least():
    budget = Budget("run", Limits(tokens=100, flop=50.0))
    ticket = budget.reserve(Cost(80.0, tokens_out=200), least=Cost(10.0, tokens_out=20))
    assert (ticket.tokens, ticket.flop) == (100, 50)
    with pytest.raises(BudgetExceeded):
        budget.reserve(Cost(80.0, tokens_out=200), least=Cost(10.0))


def test_seconds_are_those_of_the_clock_and_those_of_an_earlier_life_count():
    now = [0.0]
    budget = Budget("run", Limits(seconds=10), clock=lambda: now[0])
    budget.reserve(Cost(seconds=1000))  # unknown beforehand, so nobody asks
    budget.take_up(Cost(seconds=4.0, tokens_in=5))
    assert budget.left().seconds == 6 and budget.spent.tokens == 5
    now[0] = 6.0
    with pytest.raises(BudgetExceeded, match="the 10 s are over"):
        budget.reserve(Cost())


def test_flop_of_nobody_knows_what_cannot_be_limited():
    Budget("run", Limits(tokens=10)).reserve(Cost(num_unknown=1))
    with pytest.raises(KweekError, match="not known"):
        Budget("run", Limits(flop=1e12)).reserve(Cost(num_unknown=1))
    with pytest.raises(ConfigError):
        Limits(tokens=-1)
    with pytest.raises(ConfigError):
        Limits(flop=math.nan)


def test_threads_together_never_set_aside_more_than_there_is():
    budget, granted = Budget("run", Limits(tokens=1000)), []

    def spend():
        for _ in range(50):
            try:
                granted.append(budget.scope("part").reserve(Cost(tokens_in=7)))
            except BudgetExceeded:
                return

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 142 and budget.left().tokens == 1000 - 142 * 7


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 60)), max_size=40))
def test_spent_and_left_agree_in_every_scope_whatever_the_order(calls):
    root = Budget("root", Limits(tokens=500))
    scopes = [root, root.scope("a", tokens=200), root.scope("b")]
    scopes.append(scopes[1].scope("c", tokens=90))
    for which, asked, real in calls:
        try:
            ticket = scopes[which].reserve(Cost(tokens_in=asked))
        except BudgetExceeded:
            assert scopes[which].left().tokens < asked
            continue
        scopes[which].settle(ticket, Cost(tokens_in=real))
    assert scopes[1].spent.tokens >= scopes[3].spent.tokens
    assert root.left().tokens == max(0, 500 - root.spent.tokens)
    assert scopes[3].left().tokens <= min(scope.left().tokens for scope in (root, scopes[1]))
