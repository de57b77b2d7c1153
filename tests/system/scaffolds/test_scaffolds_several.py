"""Scaffolds of several instances: synthesis, revision, forcing, debate, writer and checker, team, cascade."""

from functools import partial

import pytest
from scripted_systems import by_question, role, system, tokenizer

from kweek.errors import DataError, KweekError
from kweek.system.budget import Limits
from kweek.system.scaffolds import cascade as cascades
from kweek.system.scaffolds.asking import Way
from kweek.system.scaffolds.cascade import Calibration, cascade
from kweek.system.scaffolds.debate import debate
from kweek.system.scaffolds.forcing import budget_forcing
from kweek.system.scaffolds.revision import REVISE, revision
from kweek.system.scaffolds.synthesis import generate_check_synthesise
from kweek.system.scaffolds.team import Member, team
from kweek.system.scaffolds.teamwork import Teamwork
from kweek.system.scaffolds.writer_checker import writer_checker
from kweek.system.task import Answer, Task

TASK = Task.of("How many cups are there?", gold="3")


def solve(scaffold, say, **more):
    declared = system(scaffold, say, **more)
    return declared.answer(TASK), declared.core.model.prompts


def test_generate_check_synthesise_checks_each_different_draft_once():
    solved, prompts = solve(
        generate_check_synthesise, ["3", "3.0", "4", "It is right.", "It is wrong.", "So 3"]
    )
    assert solved.answer.text == "So 3" and solved.answer.data["synthesised"]
    assert len(prompts) == 6 and "Proposed answer: 3" in prompts[3] and "Proposed answer: 4" in prompts[4]
    assert "Answer 2: 4" in prompts[5] and "Check: It is wrong." in prompts[5]
    assert solved.answer.confidence == pytest.approx(2 / 3)


def test_generate_check_synthesise_with_marks_and_roles_and_nothing_to_synthesise():
    scaffold = partial(
        generate_check_synthesise,
        synthesiser="large",
        mark=lambda context, task, samples: [0.25] * len(samples),
    )
    large = role([""])
    solved, prompts = solve(scaffold, ["4", "3", "3"], roles={"large": large})
    assert solved.answer.text == "3" and not solved.answer.data["synthesised"]
    assert len(prompts) == 3 and "Check: 0.25 of 1" in large.model.prompts[0]
    solved, _ = solve(generate_check_synthesise, ["", "", "", "nothing there", "still 3"])
    assert solved.answer.text == "still 3"


def test_a_budget_that_ends_before_the_synthesis_leaves_the_vote():
    solved, _ = solve(generate_check_synthesise, lambda prompt, request: "3", limits=Limits(tokens=170))
    assert solved.answer.text == "3" and not solved.answer.finished


def test_revision_ends_when_nothing_changes():
    solved, prompts = solve(revision, ["4", "3", "3"])
    assert solved.answer.text == "3" and solved.answer.data == {"answers": ["4", "3", "3"], "changes": 1}
    assert REVISE[:20] in prompts[1]
    solved, prompts = solve(revision, ["4", "4"])
    assert len(prompts) == 2 and solved.answer.data["changes"] == 0
    solved, _ = solve(partial(revision, rounds=1), ["4", ""])
    assert solved.answer.text == "4"


def test_thoughts_are_made_longer_and_cut():
    solved, prompts = solve(
        partial(budget_forcing, least=12), ["one</think>", "two three four five six</think>", "3"]
    )
    assert solved.answer.text == "3" and solved.answer.data["waits"] == 1
    assert prompts[1].endswith("<think>one Wait") and prompts[2].endswith("five six</think>")
    solved, prompts = solve(partial(budget_forcing, most=3), ["one two three four five six", "3"])
    assert solved.answer.data["thought_tokens"] == 3 and prompts[1].endswith("</think>")
    solved, prompts = solve(partial(budget_forcing, least=500), lambda prompt, request: "</think>")
    assert solved.answer.data["waits"] == 8


def test_a_model_without_thoughts_cannot_be_forced():
    declared = system(budget_forcing, ["3"])
    closing = declared.core.tokenizer.special.pop("</think>")
    try:
        with pytest.raises(KweekError, match="no thoughts"):
            declared.answer(TASK)
    finally:
        declared.core.tokenizer.special["</think>"] = closing


def test_a_debate_that_agrees_ends_and_one_that_does_not_goes_on():
    solved, prompts = solve(debate, ["3", "3", "3.0"])
    assert solved.answer.text == "3" and len(prompts) == 3
    assert solved.answer.data["team"]["disagreements"] == []
    solved, prompts = solve(debate, ["3", "3", "4", "3", "3", "3"])
    report = solved.answer.data["team"]
    assert len(prompts) == 6 and "- 4" in prompts[3] and "- 4" not in prompts[5]
    assert report["disagreements"] == [
        {
            "from_round": 0, "to_round": 1, "ended": "agreed", "changed": ["debater 3"], "towards": ["3"],
            "between": {"debater 1": "3", "debater 2": "3", "debater 3": "4"},
        }
    ]  # fmt: skip
    assert report["conformity"] == 1.0 and report["num_messages"] == 6


def test_a_debate_ends_outvoted_or_tied_with_models_of_its_own():
    solved, _ = solve(debate, ["3", "3", "4", "3", "3", "4"])
    assert solved.answer.data["team"]["disagreements"][0]["ended"] == "outvoted"
    assert solved.answer.data["team"]["conformity"] is None
    other = role(["4", "4"])
    solved, _ = solve(
        partial(debate, debaters=2, roles=["core", "other"]), ["3", "3"], roles={"other": other}
    )
    assert solved.answer.data["team"]["disagreements"][0]["ended"] == "tied" and len(other.model.prompts) == 2
    solved, prompts = solve(debate, ["", "", "", "3", "3", "3"])
    assert solved.answer.text == "3" and len(prompts) == 6


def test_a_writer_is_accepted_objected_to_or_stuck():
    solved, prompts = solve(writer_checker, ["3", "Yes, three."])
    assert solved.answer.text == "3" and solved.answer.data["accepted"] and len(prompts) == 2
    solved, prompts = solve(writer_checker, ["4", "No, count again.", "3", "yes"])
    assert solved.answer.text == "3" and "count again" in prompts[2]
    solved, _ = solve(writer_checker, ["4", "no", "4"])
    assert not solved.answer.data["accepted"] and "repeats" in solved.answer.data["team"]["deadlocks"][0]
    solved, prompts = solve(partial(writer_checker, rounds=1), ["4", "no", "5"])
    assert solved.answer.text == "5" and not solved.answer.data["accepted"] and len(prompts) == 3


def test_a_writer_is_accepted_by_a_mark():
    marks = iter([0.1, 0.9])
    scaffold = partial(writer_checker, mark=lambda context, task, samples: [next(marks)])
    solved, prompts = solve(scaffold, ["4", "One was counted twice.", "3"])
    assert solved.answer.text == "3" and solved.answer.data["accepted"] and len(prompts) == 3


def test_a_team_hands_its_work_over_and_ends_it():
    say = [
        "Count the cups.\nTo: Solver",
        "Two and one.\nAnswer: 3\nTo: Checker",
        "That is right.\nFinal: 3",
    ]
    solved, prompts = solve(team, say)
    report = solved.answer.data["team"]
    assert solved.answer.text == "3" and solved.answer.data["final"] and report["deadlocks"] == []
    assert [(one["sender"], one["to"]) for one in report["messages"]] == [
        ("Planner", "Solver"), ("Solver", "Checker"), ("Checker", "all"),
    ]  # fmt: skip
    assert "You are Solver" in prompts[1] and "Planner to Solver:\nCount the cups." in prompts[1]


def test_a_team_that_disagrees_votes_at_the_end():
    say = ["Answer: 3\nTo: Solver", "Answer: 4\nTo: Checker", "Answer: 3\nTo: Planner"]
    solved, _ = solve(partial(team, turns=3), say)
    assert solved.answer.text == "3" and not solved.answer.data["final"]
    assert solved.answer.data["team"]["disagreements"][0]["ended"] == "outvoted"


def test_a_team_that_comes_to_a_standstill_says_so():
    two = (Member("A", "ask B."), Member("B", "ask A."))
    say = ["over to you\nTo: B", "over to you\nTo: A"] * 3
    solved, prompts = solve(partial(team, members=two, turns=6), say)
    assert len(prompts) == 3 and "repeat themselves" in solved.answer.data["team"]["deadlocks"][0]
    three = (*two, Member("C", "answer."))
    say = ["over\nTo: B", "over\nTo: A", "over\nTo: B", "Final: 3"]
    solved, prompts = solve(partial(team, members=three), say)
    assert solved.answer.text == "3" and "You are C" in prompts[3]
    solved, _ = solve(partial(team, members=two, turns=1), ["who?\nTo: Zoe"])
    assert "nobody of the team" in solved.answer.data["team"]["deadlocks"][0]


def test_work_that_is_done_twice_is_found():
    work, same = Teamwork(), "first add the two cups and then add the other one"
    solved, _ = solve(lambda context, task: tell(context, work, same), [])
    assert solved.answer.data["duplicated_work"] == [("A", "B")]


def tell(context, work, same):
    work.say(context, "A", "B", same, 0)
    work.say(context, "A", "C", same, 1)  # one's own words are no work done twice
    work.say(context, "B", "A", same.replace("first", "First,"), 2)
    work.say(context, "C", "A", "I agree", 3)
    work.say(context, "B", "A", "I agree", 4)
    return Answer("", data={"duplicated_work": work.duplicated()})


def test_a_team_shares_one_budget():
    solved, prompts = solve(team, by_question([], "Answer: 3\nTo: Solver"), limits=Limits(tokens=400))
    assert not solved.answer.finished and solved.answer.text == "3" and solved.cost.tokens <= 400
    assert len(prompts) < 6


def test_a_cascade_asks_the_larger_model_only_in_doubt():
    large = system(cascade, ["4"], roles={"small": role(["3", "3", "3", "3"])})
    solved = large.answer(TASK)
    assert solved.answer.text == "3" and not large.core.model.prompts and solved.answer.confidence == 1.0
    doubtful = system(cascade, ["4"], roles={"small": role(["3", "5", "3", "6"])})
    solved = doubtful.answer(TASK)
    assert (
        solved.answer.text == "4" and solved.answer.data["first"] == "3" and solved.answer.data["passed_on"]
    )
    calibrated = partial(cascade, calibration=Calibration((0.0, 1.0), (0.1, 0.3)))
    strict = system(calibrated, ["4"], roles={"small": role(["3"] * 4)})
    assert strict.answer(TASK).answer.text == "4"


def test_doubt_is_calibrated_on_judged_answers():
    confidences = [0.25] * 10 + [0.5] * 10 + [1.0] * 20
    right = [False] * 9 + [True] + [True, False] * 5 + [True] * 19 + [False]
    found = Calibration.of(confidences, right)
    assert (
        found(0.3) == pytest.approx(0.1)
        and found(0.7) == 0.5
        and found(1.0) == 0.95
        and found(0.0) == found(0.25)
    )
    assert Calibration.from_dict(found.to_dict()) == found
    falling = Calibration.of([0.1] * 10 + [0.9] * 10, [True] * 10 + [False] * 10)
    assert falling(0.1) == falling(0.9) == 0.5  # more confidence never means less
    assert cascades.threshold(confidences, right, 0.7) == 1.0
    assert cascades.threshold(confidences, right, 0.99) is None
    with pytest.raises(DataError, match="too few"):
        Calibration.of([0.5], [True])


def test_a_way_may_take_another_role_and_an_instruction():
    other = role(["3"])
    scaffold = partial(revision, rounds=0, way=Way(role="other", instruction="Be brief."))
    solved, prompts = solve(scaffold, [], roles={"other": other})
    assert solved.answer.text == "3" and not prompts and "Be brief." in other.model.prompts[0]
    assert tokenizer().special
