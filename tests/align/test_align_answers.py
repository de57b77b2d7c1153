"""Which answers changed most, and how an attempt reads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_world import small_policy, small_tokenizer

from kweek.align.answers import Answer, asked, most_changed, of_outcome, of_rollout, rewording
from kweek.align.sampling import sample
from kweek.align.verifier import whole_number
from kweek.align.word_problems import WordProblems, as_item
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.evaluate.problems import Asker, attempt
from kweek.system.calculator import Calculator


def answer(number, reward, text="same"):
    return Answer(f"prompt {number}", text, reward, 1)


def test_gains_losses_and_other_words_all_have_room():
    before = [answer(n, 0.0) for n in range(10)] + [answer(n, 1.0) for n in range(10, 20)]
    after = [answer(n, 1.0) for n in range(10)] + [answer(n, 0.0) for n in range(10, 15)]
    after += [answer(n, 1.0, "other words" if n % 2 else "same") for n in range(15, 20)]
    chosen = most_changed(before, after, 8)
    assert [at for at in chosen if at < 10] == [0, 1, 2, 3]  # half, in the order of asking
    assert [at for at in chosen if 10 <= at < 15] == [10, 11]
    assert [at for at in chosen if at >= 15] == [15, 17]  # those that say something else


def test_the_largest_changes_come_first():
    before = [answer(n, 0.0) for n in range(4)]
    after = [answer(n, reward) for n, reward in enumerate((0.1, 0.9, -0.5, 0.4))]
    assert most_changed(before, after, 2) == [1, 2]  # one of each rather than two gains
    assert most_changed(before, after) == [1, 3, 0, 2]


def test_room_that_one_kind_does_not_need_goes_to_another():
    before, after = [answer(n, 0.0) for n in range(20)], [answer(n, 1.0) for n in range(20)]
    assert most_changed(before, after, 8) == list(range(8))
    assert most_changed(after, before, 8) == list(range(8))
    assert most_changed(before, before) == []


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0.5, 1]), st.sampled_from([0, 0.5, 1]), st.sampled_from("ab")),
        max_size=30,
    ),
    st.integers(1, 9),
)
def test_any_change_is_shown_once_and_no_more_than_there_is_room(rows, most):
    before = [answer(n, a, "a") for n, (a, _, _) in enumerate(rows)]
    after = [answer(n, b, text) for n, (_, b, text) in enumerate(rows)]
    chosen = most_changed(before, after, most)
    changed = [n for n, (a, b, text) in enumerate(rows) if a != b or text != "a"]
    assert len(chosen) == len(set(chosen)) == min(most, len(changed))
    assert set(chosen) <= set(changed)
    if most >= 4 and any(a > b for a, b, _ in rows):
        assert any(before[at].reward > after[at].reward for at in chosen)


def test_answers_to_other_prompts_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        most_changed([answer(0, 0.0)], [answer(1, 0.0)])
    with pytest.raises(ValueError, match="same prompts"):
        most_changed([answer(0, 0.0)], [])


def test_words_in_common():
    assert rewording("a b c d", "d c b a") == 0
    assert rewording("a b", "c d") == 1
    assert rewording("a b", "a c") == 0.5
    assert rewording("", "") == 0


def test_a_rollout_and_an_outcome_of_the_same_problem_read_alike():
    engine, tokenizer = Engine(small_policy()), small_tokenizer()
    problems = stories.problems("read", 6, "train")
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    outcomes = [of_outcome(group[0]) for group in attempt(engine, asker, problems)]
    groups = sample(
        engine, tokenizer, WordProblems(), [as_item(p) for p in problems], samples=1, key="greedy"
    )
    assert [of_rollout(tokenizer, group[0]) for group in groups] == outcomes
    assert all(one.gold and one.length > 0 for one in outcomes)
    assert not any("<|im_end|>" in one.text for one in outcomes)


def test_a_prompt_of_several_messages_names_who_speaks():
    assert asked([{"role": "user", "content": "Hello"}]) == "Hello"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": None}]
    assert asked(chat) == "system: Be brief.\nuser: "
