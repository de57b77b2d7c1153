"""A second judgement: reads the last number or the words, whatever stands around them."""

from dataclasses import replace

import pytest
from policy_world import a_rollout

from kweek.align.environment import Item
from kweek.align.guards.gold import can_judge, states


def said(text, gold):
    rollout = a_rollout([1, 2, 3], 1, 0.0)
    item = Item(({"role": "user", "content": "?"},), gold)
    return replace(rollout, item=item, messages=(*item.messages, {"role": "assistant", "content": text}))


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("13", "13", 1),
        ("So it is 13 cups.", "13", 1),
        ("first 12, then 13.0", "13", 1),
        ("1,300", "1300", 1),
        ("-4", "-4", 1),
        ("4", "-4", 0),
        ("13 and then 14", "13", 0),
        ("113", "13", 0),
        ("", "13", 0),
        ("thirteen", "13", 0),
        ("The cat!", "the cat", 1),
        ("the cat sat", "the cat", 0),
        ("", "the cat", 0),
        ("abc", "abc", 1),
    ],
)
def test_the_last_number_or_all_words_decide(text, gold, right):
    assert states(said(text, gold)) == right


def test_an_answer_without_content_is_wrong():
    assert states(said(None, "13")) == 0


def test_it_can_only_judge_where_gold_is_an_answer():
    assert can_judge([(said("13", "13"), said("14", "13"))])
    assert not can_judge(
        [(said("13", "13"), said("14", "13")), (said("def f(): ...", "assert f"), said("", "x"))]
    )
    assert not can_judge([(said("a", "a"), said("A.", "a"))]), "a worse answer that it takes for right"
    assert not can_judge([])
