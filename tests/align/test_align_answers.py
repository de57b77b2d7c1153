"""Which answers changed most, and how an attempt reads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_world import small_policy, small_tokenizer

from kweek.align.answers import Answer, asked, continued, most_changed, of_rollout, rewording
from kweek.align.sampling import sample
from kweek.align.verifier import whole_number
from kweek.align.word_problems import OneAnswer, WordProblems, as_item
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


def outcomes_of(engine, problems, kind):
    asker = Asker(small_tokenizer(), whole_number, Calculator(small_tokenizer()), kind=kind)
    return [group[0] for group in attempt(engine, asker, problems)]


def test_answers_read_as_those_of_an_evaluation_do():
    engine, tokenizer, where = Engine(small_policy()), small_tokenizer(), WordProblems()
    problems = stories.problems("read", 6, "train")
    items = [as_item(problem) for problem in problems]
    groups = sample(engine, tokenizer, where, items, samples=1, key="greedy")
    chats = [of_rollout(tokenizer, group[0]) for group in groups]
    documents, _ = continued(engine, tokenizer, where, items)
    for kind, answers in (("chat", chats), ("document", documents)):
        expected = outcomes_of(engine, problems, kind)
        assert [one.text.strip() for one in answers] == [o.transcript.strip() for o in expected]
        assert [one.reward for one in answers] == [float(o.correct) for o in expected]
        assert [(one.prompt, one.gold) for one in answers] == [(p.question, p.answer) for p in problems]
        assert [one.length for one in answers] == [o.num_new_tokens for o in expected]
    _, flop = continued(
        Engine(small_policy()), tokenizer, where, items
    )  # what is computed already costs nothing
    assert flop == sum(o.flop for o in outcomes_of(Engine(small_policy()), problems, "document"))
    assert of_rollout(tokenizer, groups[0][0], 7.5).reward == 7.5


def test_a_judge_that_fails_on_a_document_gives_nothing():
    class Faulty(WordProblems):
        def begin(self, item):
            raise_later = OneAnswer(item, self.verifier)
            raise_later.score = lambda: 1 / 0
            return raise_later

    items = [as_item(problem) for problem in stories.problems("read", 2, "train")]
    found, _ = continued(Engine(small_policy()), small_tokenizer(), Faulty(), items)
    assert [one.reward for one in found] == [0.0, 0.0]


def test_a_prompt_of_several_messages_names_who_speaks():
    assert asked([{"role": "user", "content": "Hello"}]) == "Hello"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": None}]
    assert asked(chat) == "system: Be brief.\nuser: "
