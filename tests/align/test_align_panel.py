"""The panel: what was lost, item by item, and whether more than may be."""

import json

import numpy as np
import pytest
from policy_world import Letters, a_rollout, small_policy, small_tokenizer, small_trainer

from kweek.align.guards.abilities import agreement, task_measure, text_measures, trust_measure
from kweek.align.guards.guard import Step
from kweek.align.guards.panel import Measure, Panel, PanelGuard, require_kept
from kweek.align.sft import chat_segments, weighted
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.errors import GuardError


def solved(share, key=0, n=200):
    """Right or wrong on the same items, the luck of one reading like that of the other but for `share`."""
    luck = np.random.default_rng(1).random(n) + np.random.default_rng(key).normal(0, 0.02, n)
    return (luck < share).astype(float).tolist()


def panel(*values, tolerance=0.05, better="higher", weights=()):
    readings = iter(values)
    return Panel([Measure("sums", lambda: next(readings), better, tolerance, weights)])


@pytest.mark.parametrize(
    ("after", "verdict"), [(0.8, "ok"), (0.85, "ok"), (0.77, "ok"), (0.73, "warn"), (0.6, "fail")]
)
def test_a_loss_fails_when_the_interval_says_so(after, verdict):
    one = panel(solved(0.8), solved(after, 2))
    found = one.compare(one.read(), one.read())[0]
    assert found.verdict == verdict and found.n == 200
    assert found.lost == pytest.approx(found.before - found.after)
    assert found.lo <= found.lost <= found.hi and set(found.row()) >= {"name", "before", "after", "lost"}


def test_down_is_better_where_it_is_said_and_weights_are_those_of_the_ratio():
    before, after, sizes = [1.0] * 40, [1.0] * 20 + [2.0] * 20, (1.0,) * 20 + (3.0,) * 20
    one = panel(before, after, better="lower", weights=sizes)
    found = one.compare(one.read(), one.read())[0]
    assert (found.before, found.after, found.verdict) == (1.0, 1.75, "fail")
    assert found.lost == pytest.approx(0.75)


def test_the_gate_names_what_was_lost_and_lets_the_rest_pass():
    lost, kept = panel(solved(0.8), solved(0.4)), panel(solved(0.8), solved(0.8, 3))
    with pytest.raises(GuardError, match=r"sums lost 0.4.* where 0.05 may be lost. Replay earlier material"):
        require_kept(lost.compare(lost.read(), lost.read()))
    require_kept(kept.compare(kept.read(), kept.read()))


def test_other_items_are_no_comparison():
    one = panel(solved(0.8), solved(0.8, n=150))
    with pytest.raises(ValueError, match="items"):
        one.compare(one.read(), one.read())


def test_a_run_ends_at_the_look_that_finds_it_and_keeps_the_last_good_weights():
    guard = PanelGuard(panel(solved(0.8), solved(0.79, 2), solved(0.73, 3), solved(0.5, 4)), every=5)
    guard.before()
    found = [guard.after(Step(number)) for number in range(1, 16)]
    assert [found[n].kind for n in (4, 9, 14)] == ["ok", "warn", "stop"]
    assert found[14].keep == 5 and found[14].figures["sums"] == pytest.approx(0.3, abs=0.05)


def test_it_goes_on_after_a_kill_with_what_it_read_at_the_start():
    first = PanelGuard(panel(solved(0.8), solved(0.79, 2)), every=5)
    first.before()
    first.after(Step(5))
    second = PanelGuard(panel(solved(0.4)), every=5)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.before().keep == 5
    assert second.after(Step(10)).kind == "stop"


# The usual measures, on a network that forgets


def test_chats_without_replay_cost_text_and_the_panel_says_which():
    network, tokenizer = small_policy(), small_tokenizer()
    texts = {
        "stories": stories.sample_texts("panel", 24, "validation"),
        "noise": ["zq xj vk", "qqz kx jq", "vvx zz", "xqj kz"] * 6,
    }
    one = Panel(text_measures(network, tokenizer, texts, context_length=128))
    before = one.read()
    trainer = small_trainer(network, 1e-2)
    chats = chat_segments(tokenizer, stories.demonstrations("panel", 16, ("direct",)))
    for _ in range(12):
        trainer.step([weighted(chats, [], 0.0)], 1.0)
    found = {change.name: change for change in one.compare(before, one.read())}
    assert found["bits per byte, stories"].n == 24
    assert found["bits per byte, noise"].verdict == "fail"
    same = one.read()
    assert all(change.lost == 0 and change.verdict == "ok" for change in one.compare(same, same))


def test_tasks_and_calibration_are_read_from_the_model():
    engine, where = Engine(small_policy()), Letters()
    items = where.items("t", 6, "validation")
    measures = [make(engine, small_tokenizer(), where, items) for make in (task_measure, trust_measure)]
    first, again = (Panel(measures).read() for _ in range(2))
    assert first == again, "the same model reads alike"
    assert all(len(values) == 6 and all(0 <= v <= 1 for v in values) for values in first.values())


def test_agreement_is_of_the_most_frequent_answer():
    said = ["7", "8", "7", "9"]
    group = [a_rollout([1, 2], 1, float(text == "7")) for text in said]
    group = [
        r.__class__(**{**r.__dict__, "messages": ({"role": "assistant", "content": text},)})
        for r, text in zip(group, said, strict=True)
    ]
    assert agreement(group) == (0.5, 1.0)
    assert agreement(group[1:]) == (1 / 3, 0.0)


def test_a_single_item_warns_and_never_fails():
    one = panel([0.0], [1.0], better="lower")
    found = one.compare(one.read(), one.read())[0]
    assert (found.verdict, found.lost) == ("warn", 1.0)
    assert found.row()["lo"] is None and json.dumps(found.row())


def test_what_was_not_read_before_is_new():
    one = panel(solved(0.2))
    assert one.compare({}, one.read()) == []


def test_it_looks_after_the_last_update_and_does_not_read_that_twice():
    readings = [solved(0.8, 2), solved(0.8, 3), solved(0.8, 4)]
    guard = PanelGuard(panel(*readings), every=4, last=6, start={"sums": solved(0.8)})
    guard.before()
    figures = [bool(guard.after(Step(number)).figures) for number in range(1, 7)]
    assert figures == [False, False, False, True, False, True]
    assert guard.read_at(6) == {"sums": readings[1]}, "as it was read"
    assert guard.read_at(4) == {"sums": readings[2]}, "the weights have gone back"
