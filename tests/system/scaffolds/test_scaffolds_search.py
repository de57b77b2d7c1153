"""Beam and tree over steps with a process reward, on a scripted model and a judge that counts what is right."""

from functools import partial

from scripted_systems import role, system, tokenizer

from kweek.system.roles import Judge
from kweek.system.scaffolds.search import Stepping, beam_search, tree_search
from kweek.system.scripted import UniformCounts
from kweek.system.task import Task
from kweek.tokenize.chat import encode_prompt

TASK = Task.of("Count to three.", gold="3")


def judged():
    """Counts good steps, and bad ones against them."""

    def judge(sequences):
        texts = [tokenizer().decode(one, skip_special=True) for one in sequences]
        return [float(text.count("good") - text.count("bad")) for text in texts]

    return Judge(judge, tokenizer(), UniformCounts(9.0))


def steps(prompt, request):
    """Every other sample begins with a good step; after two steps of any kind comes the answer."""
    done = prompt.count("good") + prompt.count("bad")
    if done < 2:
        return "good\nnever said" if request.seed % 2 else "bad\nnever said"
    return "Answer: 3" if prompt.count("good") == 2 else "Answer: 4"


def solve(scaffold, say=steps, **more):
    declared = system(scaffold, say, roles={"process": judged()}, **more)
    return declared.answer(TASK), declared.core.model.prompts


def test_a_beam_keeps_the_better_steps():
    solved, _ = solve(partial(beam_search, width=2, expand=6))
    assert solved.answer.text == "3" and solved.answer.finished and solved.answer.data["value"] == 2.0


def test_a_tree_finds_the_better_steps_and_counts_its_judge():
    solved, _ = solve(partial(tree_search, rounds=10, expand=6))
    assert solved.answer.text == "3" and solved.answer.finished
    read = sum(one.cost.flop for one in solved.events if one.kind == "verify")
    assert read > sum(one.cost.flop for one in solved.events if one.kind == "generate")


def test_a_search_that_never_ends_gives_its_best_as_it_is():
    say = lambda prompt, request: "good\nmore"  # noqa: E731
    for scaffold in (partial(beam_search, max_steps=3), partial(tree_search, rounds=3)):
        solved, _ = solve(scaffold, say)
        assert not solved.answer.finished and solved.answer.text.startswith("good")
        assert solved.answer.data["solutions"] >= 1


def test_a_tree_whose_leaves_are_all_solutions_stops():
    solved, prompts = solve(partial(tree_search, rounds=50, expand=3), lambda prompt, request: "Answer: 3")
    assert len(prompts) == 3 and solved.answer.text == "3"


def test_a_full_context_ends_a_search():
    room = len(encode_prompt(tokenizer(), TASK.messages)) + 12
    for scaffold in (partial(beam_search, max_steps=99), partial(tree_search, rounds=99, expand=1)):
        declared = system(scaffold, lambda prompt, request: "good\nmore", roles={"process": judged()})
        declared.roles["core"] = role(lambda prompt, request: "good\nmore", positions=room)
        assert "good" in declared.answer(TASK).answer.text


def test_a_step_may_end_with_a_control_token():
    seen = []

    def say(prompt, request):
        seen.append(request.stop_ids)
        return "3" if "</result>" in prompt else "good</result>more"

    _, prompts = solve(partial(beam_search, width=1, expand=1, stepping=Stepping(step="</result>")), say)
    assert prompts[1].endswith("good</result>") and tokenizer().special["</result>"] in seen[0]
