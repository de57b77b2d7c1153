"""One answer, votes, best of N: every branch, with a model that says what it is told."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_systems import role, system, tokenizer

from kweek.protocols import Score
from kweek.system.budget import Limits
from kweek.system.roles import Judge
from kweek.system.scaffolds import marks
from kweek.system.scaffolds.asking import Way, final, key, last_number, with_instruction
from kweek.system.scaffolds.best_of import best_of_n
from kweek.system.scaffolds.direct import STEP_BY_STEP, chain_of_thought, direct
from kweek.system.scaffolds.votes import Poll, self_consistency, weighted_vote
from kweek.system.scripted import Line, UniformCounts
from kweek.system.task import Task

TASK = Task.of("How many cups are there?", gold="3")


def solve(scaffold, say, **more):
    declared = system(scaffold, say, **more)
    return declared.answer(TASK), declared.core.model.prompts


def test_direct_closes_the_thoughts_and_a_chain_of_thought_opens_them():
    solved, prompts = solve(direct, ["3"])
    assert solved.answer.text == "3" and prompts[0].endswith("<think></think>")
    solved, prompts = solve(chain_of_thought, ["1+2=3</think>3"])
    assert solved.answer.text == "3" and prompts[0].endswith("<think>")
    solved, prompts = solve(partial(direct, way=Way(max_new_tokens=1)), ["3 cups, all of them blue"])
    assert not solved.answer.finished


def test_a_model_without_thoughts_is_told_to_think_in_words():
    plain = system(chain_of_thought, ["2 and 1 make 3.\nAnswer: 3"])
    opening = plain.core.tokenizer.special.pop("<think>")
    try:
        assert plain.answer(TASK).answer.text == "3"
        assert STEP_BY_STEP.split(".")[0] in plain.core.model.prompts[0]
    finally:
        plain.core.tokenizer.special["<think>"] = opening


def test_answers_are_read_out_of_texts():
    assert final("#### 12") == "12" and final("The final answer is: blue\n") == "blue"
    assert final("Answer: 3\nAnswer: 4") == "4" and final("  ") is None and final("\\boxed{}") is None
    assert last_number("from 3 to -4.5.") == "-4.5" and last_number("none") is None
    assert with_instruction([{"role": "user", "content": "Q"}], "") == [{"role": "user", "content": "Q"}]
    assert key("1/0") == "1/0"


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_the_same_answer_however_it_is_written(number):
    assert key(f"{number:,}") == key(f"{number}.0") == key(f" {number}. ") == key(str(number))


def test_a_vote_ends_when_nothing_can_change_it():
    solved, prompts = solve(partial(self_consistency, n=8), ["3"] * 8)
    assert solved.answer.text == "3" and len(prompts) == 5 and solved.answer.confidence == 1.0
    solved, prompts = solve(partial(self_consistency, n=8), ["3", "3", "4", "4", "3", "5", "4", "3"])
    assert solved.answer.text == "3" and len(prompts) == 8
    assert solved.answer.data["votes"] == {"3": 4.0, "4": 3.0, "5": 1.0}
    solved, prompts = solve(partial(self_consistency, n=3), ["4", "3", "3.0"])
    assert solved.answer.text == "3"


def test_a_vote_may_also_end_when_it_is_sure_enough():
    solved, prompts = solve(partial(self_consistency, n=40, sure=0.9), ["3"] * 40)
    assert len(prompts) == 21 and solved.answer.text == "3"
    _, prompts = solve(partial(self_consistency, n=40), (["3", "4"] * 20))
    assert len(prompts) == 40


def test_a_vote_that_the_budget_ends_gives_what_it_has_and_one_of_no_answers_is_empty():
    solved, _ = solve(
        partial(self_consistency, n=50, way=Way(max_new_tokens=4)),
        lambda prompt, request: "3",
        limits=Limits(flop=400.0),
    )
    assert solved.answer.text == "3" and not solved.answer.finished
    solved, _ = solve(partial(self_consistency, n=3), ["", " ", ""])
    assert solved.answer.text == "" and solved.answer.data["without_answer"] == 3


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=12))
def test_stopping_early_never_changes_the_winner(said):
    whole = Poll()
    for one in said:
        whole.add(one)
    part, left = Poll(), len(said)
    while left and not part.is_decided(left):
        batch = part.next_batch(left)
        assert 1 <= batch <= left
        for one in said[len(said) - left :][:batch]:
            part.add(one)
        left -= batch
    assert part.winner == whole.winner


def test_a_weighted_vote_counts_what_its_votes_weigh():
    say = [Line("4", -2.0), Line("4", -2.0), Line("3", -0.1)]
    solved, _ = solve(partial(weighted_vote, n=3, mark=marks.by_likelihood()), say)
    assert solved.answer.text == "3"
    negative = partial(weighted_vote, n=2, mark=lambda context, task, samples: [-1.0, 0.5])
    assert solve(negative, ["4", "3"])[0].answer.data["votes"] == {"4": 0.0, "3": 0.5}


def test_best_of_n_by_each_kind_of_mark():
    say = [Line("4", -0.5), Line("3", -0.1), Line("5", -3.0)]
    assert solve(partial(best_of_n, n=3), say)[0].answer.text == "3"
    check = {"even": lambda task, answer: Score(float(answer == "4"), True)}
    scaffold = partial(best_of_n, n=3, mark=marks.by_check("even"))
    assert solve(scaffold, say, checks=check)[0].answer.text == "4"
    judge = Judge(lambda sequences: [float(sum(one)) for one in sequences], tokenizer(), UniformCounts())
    solved, _ = solve(partial(best_of_n, n=3, mark=marks.by_judge()), say, roles={"reward": judge})
    five, three = (tokenizer().encode(digit) for digit in "53")
    assert solved.answer.text == (
        "5" if sum(five) > sum(three) else "3" if sum(three) > sum(tokenizer().encode("4")) else "4"
    )
    assert solved.cost.flop > solve(partial(best_of_n, n=3), say)[0].cost.flop


def test_best_of_n_stops_at_an_answer_that_is_good_enough():
    check = {"is": lambda task, answer: Score(float(answer == task.gold), True)}
    scaffold = partial(best_of_n, n=5, mark=marks.by_check("is"), enough=1.0)
    solved, prompts = solve(scaffold, ["4", "3", "never"], checks=check)
    assert solved.answer.text == "3" and len(prompts) == 2
    solved, prompts = solve(scaffold, ["1", "2", "4", "5", "6"], checks=check)
    assert solved.answer.text == "1" and len(prompts) == 5


def test_the_opinion_of_another_model_is_a_probability():
    class Sure:
        def score(self, sequences):
            yes = tokenizer().encode("yes")
            return [[0.0] * (len(one) - 1) + [-0.1 if one[-len(yes) :] == yes else -3.0] for one in sequences]

    verifier = role(["unused"])
    verifier = type(verifier)(Sure(), tokenizer(), verifier.counts, 4096)
    scaffold = partial(best_of_n, n=1, mark=marks.by_opinion())
    solved, _ = solve(scaffold, ["3"], roles={"verifier": verifier})
    assert solved.answer.data["marks"][0] == pytest.approx(1 / (1 + 2.718281828 ** (-2.9)), rel=1e-6)
