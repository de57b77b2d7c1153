"""Expert iteration and the curriculum."""

import json

import numpy as np
import pytest
from policy_world import a_rollout, small_policy, small_trainer

from kweek.align.curriculum import Curriculum
from kweek.align.environment import Item
from kweek.align.expert import demonstrations, select
from kweek.align.rollout import Rollout
from kweek.align.sft import ChatBatches
from kweek.engine.engine import Engine
from kweek.protocols import Score


def test_right_answers_are_kept_a_few_different_ones_of_each_item():
    group = [
        a_rollout([1, 2, 3], 1, 1.0),
        a_rollout([1, 2, 3], 1, 1.0),  # the same again
        a_rollout([1, 2, 4], 1, 0.5),  # half right
        a_rollout([1, 2, 5], 1, 1.0, stop_reason="length"),
        a_rollout([1, 2, 6], 1, 1.0),
        a_rollout([1, 2, 7], 1, 1.0),
    ]
    other = [a_rollout([8, 2, 9], 1, 0.0)]
    assert [r.token_ids for r in select([group, other])] == [[1, 2, 3], [1, 2, 6]]
    assert len(select([group, other], most=9)) == 3
    assert [r.token_ids[-1] for r in select([group], most=9, right=0.5)] == [3, 4, 6, 7]


def test_what_was_kept_is_learnt_where_the_model_chose():
    kept = [a_rollout([5, 6, 7, 8, 9], 2, 1.0, sampled=[False, False, True, False, True])]
    part = demonstrations(kept)[0]
    assert part.weights.tolist() == [0.0, 1.0, 0.0, 1.0]
    network = small_policy()
    before = Engine(network).score([kept[0].token_ids])[0]
    trainer = small_trainer(network, 1e-2)
    for batch in ChatBatches(demonstrations(kept * 4), batch_size=4, epochs=5, seed=0)():
        trainer.step([batch], 1.0)
    after = Engine(network).score([kept[0].token_ids])[0]
    assert after[2] > before[2] and after[4] > before[4]


def rollouts(level: str, values: list[float]) -> list[Rollout]:
    item = Item(({"role": "user", "content": level},), level=level)
    return [Rollout(item, [1], 1, [False], [0.0], (), Score(v, True), "stop", 0.0) for v in values]


def test_levels_near_a_half_are_preferred_and_the_others_never_forgotten():
    seen = Curriculum()
    assert seen.success("new") == 0.5
    for _ in range(30):
        seen = seen.after(
            [rollouts("easy", [1.0] * 8), rollouts("right", [1.0, 0.0] * 4), rollouts("hard", [0.0] * 8)]
        )
    assert seen.success("easy") > 0.95 and seen.success("hard") < 0.05
    assert seen.success("right") == pytest.approx(0.5, abs=0.01)
    levels = ("easy", "right", "hard")
    items = [
        Item(({"role": "user", "content": f"{level}{i}"},), level=level)
        for i in range(40)
        for level in levels
    ]
    chosen = seen.choose(items, 30, "key")
    counts = {level: sum(item.level == level for item in chosen) for level in levels}
    assert counts["right"] > 15 > counts["easy"] > 0 and counts["hard"] > 0
    assert seen.choose(items, 30, "key") == chosen != seen.choose(items, 30, "other")
    assert chosen == [item for item in items if item in chosen], "in their order"
    assert seen.choose(items, 500, "key") == items
    assert Curriculum.restore(seen.state()) == seen


def test_what_was_measured_fades():
    seen = Curriculum().after([rollouts("a", [1.0] * 20)])
    for _ in range(40):
        seen = seen.after([rollouts("a", [0.0] * 2)])
    assert seen.success("a") < 0.1
    assert np.isclose(seen.tallies["a"][1], 20, atol=1.0), "some twenty attempts are remembered"


def test_items_without_a_level_have_a_success_of_their_own():
    def item(name: str) -> Item:
        return Item(({"role": "user", "content": name},))

    def attempts(name: str, values: list[float]) -> list[Rollout]:
        return [Rollout(item(name), [1], 1, [False], [0.0], (), Score(v, True), "stop", 0.0) for v in values]

    seen = Curriculum()
    for _ in range(5):
        seen = seen.after([attempts("known", [1.0] * 8), attempts("open", [1.0, 0.0] * 4)])
    assert seen.promise(item("known")) < 0.2 and seen.promise(item("open")) == pytest.approx(1.0)
    assert seen.promise(item("never met")) == 1.0 and seen.tallies == {}
    assert Curriculum.restore(json.loads(json.dumps(seen.state()))) == seen
    for number in range(600):
        seen = seen.after([attempts(f"new {number}", [0.0])])
    assert len(seen.items) < 200, "what is forgotten is not kept"
    assert seen.promise(item("known")) == 1.0
