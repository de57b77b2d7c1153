"""Runs through a context: budgets that cut, crashes that resume, replays, tools called once, systems in systems."""

import math

import pytest
from scripted_systems import role, scripted, system, tokenizer

from kweek.errors import ConfigError, DataError, Interrupted, KweekError
from kweek.protocols import Request, Score
from kweek.system.budget import Limits
from kweek.system.cost import total
from kweek.system.roles import Judge, Role
from kweek.system.scripted import Line, UniformCounts
from kweek.system.task import Answer, Task
from kweek.system.tools.tool import ToolResult, tool
from kweek.system.tools.toolbox import Toolbox
from kweek.system.trace import TraceError, read_trace
from kweek.tokenize.chat import encode_prompt

TASK = Task.of("How many cups are there?", gold="3")


def ask_twice(context, task):
    first = context.generate("core", task.messages, n=2)
    context.offer(Answer(first[0].text))
    second = context.generate("core", task.messages)[0]
    return Answer(f"{first[0].text} {first[1].text} {second.text}")


def test_an_answer_with_its_cost_and_its_trace(tmp_path):
    solved = system(ask_twice, ["one", "two", "three"]).answer(TASK, trace=tmp_path / "trace.jsonl")
    assert solved.answer.text == "one two three" and solved.answer.finished
    events = read_trace(tmp_path / "trace.jsonl")
    assert [one.kind for one in events] == ["branch", "generate", "generate", "answer"]
    assert solved.cost == total(one.cost for one in events)
    sample = events[1].data["samples"][0]
    assert tokenizer().decode(sample["token_ids"], skip_special=True) == "one"
    assert len(sample["logprobs"]) == len(sample["token_ids"]) == len(sample["sampled"])
    assert events[1].data["prompt_ids"] == encode_prompt(tokenizer(), TASK.messages)
    assert events[1].data["gen_ai.usage.output_tokens"] == events[1].cost.tokens_out


def test_seeds_differ_by_sample_by_call_and_by_seed():
    seen = []

    def say(prompt, request):
        seen.append(request.seed)
        return "x"

    for seed in (0, 1):
        system(ask_twice, say).answer(TASK, seed=seed)
    assert len(set(seen)) == 6
    system(ask_twice, say).answer(TASK, seed=1)
    assert seen[6:] == seen[3:6]


def test_a_budget_gives_fewer_samples_then_a_cut_one_then_the_best_so_far():
    def many(context, task):
        samples = context.generate("core", task.messages, n=4, max_new_tokens=10)
        context.offer(Answer(f"{len(samples)} samples"))
        cut = context.generate("core", task.messages, max_new_tokens=1000)[0]
        assert cut.stop_reason in ("budget", "length") and 0 < len(cut.token_ids) < 10
        context.generate("core", task.messages)
        raise AssertionError("the budget has ended")

    num_prompt = len(encode_prompt(tokenizer(), TASK.messages))
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 9
    limits = Limits(flop=2.0 * (num_prompt + 9) + num_prompt + 3)
    solved = system(many, lambda prompt, request: long, limits=limits).answer(TASK)
    assert solved.answer.text == "2 samples" and not solved.answer.finished
    assert "budget system" in solved.answer.data["stopped_by"] and solved.cost.flop <= limits.flop


def test_the_last_generation_is_stopped_within_the_budget_of_tokens():
    def one(context, task):
        sample = context.generate("core", task.messages, max_new_tokens=1000)[0]
        return Answer(sample.text, finished=sample.finished)

    num_prompt = len(encode_prompt(tokenizer(), TASK.messages))
    say = lambda prompt, request: "word " * 200  # noqa: E731
    solved = system(one, say, limits=Limits(tokens=num_prompt + 20)).answer(TASK)
    assert solved.cost.tokens == num_prompt + 20 and not solved.answer.finished and solved.answer.text
    solved = system(one, say, limits=Limits(tokens=num_prompt)).answer(TASK)
    assert solved.answer == Answer("", finished=False, data=solved.answer.data) and solved.cost.tokens == 0


def test_a_model_of_unknown_size_costs_unknown_flop_and_cannot_be_limited_by_them():
    unknown = Role(scripted(["x"] * 9, math.nan), tokenizer(), None, 512)
    declared = system(ask_twice, [])
    declared.roles["core"] = unknown
    solved = declared.answer(TASK)
    assert solved.cost.num_unknown == 3 and solved.cost.flop == 0 and "unknown" in solved.cost.flop_said
    declared.limits = Limits(flop=1e9)
    with pytest.raises(KweekError, match="not known"):
        declared.answer(TASK)


def test_a_crash_resumes_from_the_trace_and_asks_nothing_twice(tmp_path):
    path = tmp_path / "trace.jsonl"

    def dies(prompt, request):
        if len(model.prompts) == 3:
            raise RuntimeError("killed")
        return f"answer {len(model.prompts)}"

    model = scripted(dies)
    declared = system(ask_twice, [])
    declared.roles["core"] = Role(model, tokenizer(), model.counts, 512)
    with pytest.raises(RuntimeError):
        declared.answer(TASK, trace=path)
    solved = declared.answer(TASK, trace=path)
    assert solved.answer.text == "answer 1 answer 2 answer 4" and len(model.prompts) == 4
    assert solved.cost == total(one.cost for one in read_trace(path))
    again = declared.answer(TASK, trace=path)
    assert again.answer.text == solved.answer.text and len(model.prompts) == 4
    assert len(read_trace(path)) == 4


def test_a_trace_of_something_else_is_refused(tmp_path):
    path = tmp_path / "trace.jsonl"
    system(ask_twice, ["a", "b", "c"]).answer(TASK, trace=path)
    with pytest.raises(TraceError, match="another task or seed"):
        system(ask_twice, []).answer(Task.of("Another?"), trace=path)
    with pytest.raises(TraceError, match="another task or seed"):
        system(ask_twice, []).answer(TASK, trace=path, seed=1)
    with pytest.raises(TraceError, match=r"here the run did generate core before"):
        system(
            lambda context, task: Answer(context.generate("core", "Other"[:0] or [1, 2])[0].text), []
        ).answer(TASK, trace=path)


def test_a_replay_asks_nobody_and_comes_to_the_same_answer(tmp_path):
    path = tmp_path / "trace.jsonl"
    limits = Limits(tokens=120)
    long = ["word " * 30] * 3
    solved = system(ask_twice, long, limits=limits).answer(TASK, trace=path)
    assert not solved.answer.finished  # the limit is in the trace and met again
    replayed = system(ask_twice, [], limits=limits).replay(path)
    assert replayed.answer.text == solved.answer.text and replayed.cost == solved.cost
    with pytest.raises(TraceError, match="another answer"):
        system(lambda context, task: Answer("else"), []).replay(path)
    path.unlink()
    system(ask_twice, ["a", "b", "c"]).answer(TASK, trace=path)
    with pytest.raises(TraceError, match="the trace ends here"):
        system(twice, [], limits=Limits()).replay(path)


def twice(context, task):
    ask_twice(context, task)
    return ask_twice(context, task)


def counted(effects):
    calls = []

    @tool(effects=effects)
    def post(text: str) -> str:
        """Post a text.

        Args:
            text: what to post.
        """
        calls.append(text)
        if len(calls) == 1 and text == "dies":
            raise SystemExit("killed")
        return f"posted {text}"

    return post, calls


def posting(context, task):
    one = context.call("post", {"text": "first"})
    said = context.generate("core", task.messages)[0].text
    two = context.call("post", {"text": "second"})
    return Answer(f"{one.content}, {said}, {two.content or two.error}", data={"unknown": context.unknown})


def test_every_effect_happens_once_however_often_the_run_dies(tmp_path):
    path = tmp_path / "trace.jsonl"
    post, calls = counted({"write"})

    def dies(prompt, request):
        if len(calls) == 1 and not path.read_text().count("generate"):
            if model.prompts[1:]:
                return "said"
            raise RuntimeError("killed")
        return "said"

    model = scripted(dies)
    declared = system(posting, [], tools=Toolbox([post], {"write": "allow"}))
    declared.roles["core"] = Role(model, tokenizer(), model.counts, 512)
    with pytest.raises(RuntimeError):
        declared.answer(TASK, trace=path)
    solved = declared.answer(TASK, trace=path)
    assert solved.answer.text == "posted first, said, posted second" and calls == ["first", "second"]
    begun = [one for one in read_trace(path) if one.phase == "begun"]
    assert [one.data["gen_ai.tool.call.arguments"]["text"] for one in begun] == ["first", "second"]


def test_a_call_that_was_cut_off_is_not_made_again_and_the_scaffold_is_told(tmp_path):
    path = tmp_path / "trace.jsonl"
    for effects, again in (({"write"}, False), ({"read"}, True), ((), True)):
        path.unlink(missing_ok=True)
        post, calls = counted(effects)
        declared = system(
            posting,
            lambda prompt, request: "said",
            tools=Toolbox([post], {"write": "allow", "read": "allow"}),
        )
        declared.answer(TASK, trace=path)
        lines = path.read_bytes().splitlines(keepends=True)
        cut = next(at for at, line in enumerate(lines) if b'"begun"' in line and b"second" in line)
        path.write_bytes(b"".join(lines[: cut + 1]))  # the crash came after it had begun
        calls.clear()
        solved = declared.answer(TASK, trace=path)
        assert calls == (["second"] if again else [])
        assert bool(solved.unknown) is not again and bool(solved.answer.data["unknown"]) is not again
        replayed = declared.replay(path)
        assert replayed.answer == solved.answer and replayed.unknown == solved.unknown
        if not again:
            assert "not known" in solved.answer.text and "post" in solved.unknown[0]


def test_a_call_that_the_budget_refused_was_not_begun(tmp_path):
    path = tmp_path / "trace.jsonl"
    post, calls = counted({"write"})
    scaffold = lambda context, task: Answer(context.call("post", {"text": "x"}).content)  # noqa: E731
    tools = Toolbox([post], {"write": "allow"})
    short = system(scaffold, [], tools=tools, limits=Limits(tool_cpu_seconds=0)).answer(TASK, trace=path)
    assert not short.answer.finished and not calls
    solved = system(scaffold, [], tools=tools).answer(TASK, trace=path)
    assert solved.answer.text == "posted x" and calls == ["x"] and not solved.unknown
    assert system(scaffold, [], tools=tools).replay(path).answer.text == "posted x" and calls == ["x"]


def test_a_tool_that_fails_is_an_answer_and_one_that_is_not_there_too():
    post, _ = counted(())

    def scaffold(context, task):
        return Answer(f"{context.call('post', {'wrong': 1}).error} | {context.call('nothing', {}).error}")

    text = system(scaffold, [], tools=Toolbox([post])).answer(TASK).answer.text
    assert "arguments" in text and "there is no tool 'nothing'" in text
    with pytest.raises(KweekError, match="no tools"):
        system(scaffold, []).answer(TASK)


def test_tools_have_no_processor_time_left():
    post, calls = counted(())
    declared = system(
        lambda context, task: Answer(context.call("post", {"text": "x"}).content),
        [], tools=Toolbox([post]), limits=Limits(tool_cpu_seconds=0),
    )  # fmt: skip
    solved = declared.answer(TASK)
    assert not solved.answer.finished and not calls and "CPU-seconds" in solved.answer.data["stopped_by"]


def test_checks_judges_and_scores_are_counted_and_replayed(tmp_path):
    asked = []

    def check(task, answer):
        asked.append(answer)
        return Score(0.5, True, parts={"form": 1.0})

    def judge(sequences):
        asked.append(len(sequences))
        return [float(len(one)) for one in sequences]

    def scaffold(context, task):
        score = context.verify("form", task, "3")
        marks = context.judge("reward", [[1, 2], [1, 2, 3]])
        logs = context.score("core", task.messages, [[5, 6], [7]])
        return Answer(f"{score.value} {score.parts} {marks} {logs}")

    path = tmp_path / "trace.jsonl"
    roles = {"reward": Judge(judge, tokenizer(), UniformCounts(2.0))}
    declared = system(scaffold, [], roles=roles, checks={"form": check})
    solved = declared.answer(TASK, trace=path)
    assert solved.answer.text == "0.5 {'form': 1.0} [2.0, 3.0] [[-1.0, -1.0], [-1.0]]"
    num_prompt = len(encode_prompt(tokenizer(), TASK.messages))
    assert solved.cost.flop == 2.0 * 5 + 2 * num_prompt + 3
    assert declared.replay(path).answer.text == solved.answer.text and asked == ["3", 2]
    with pytest.raises(KweekError, match="no check 'else'"):
        system(lambda context, task: context.verify("else", task, ""), []).answer(TASK)
    with pytest.raises(KweekError, match="no judge in the role 'core'"):
        system(lambda context, task: context.judge("core", [[1]]), []).answer(TASK)
    with pytest.raises(KweekError, match="no language model in the role 'big'"):
        system(lambda context, task: context.generate("big", [1]), []).answer(TASK)


def test_a_request_to_stop_ends_the_run_before_its_next_effect():
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 1

    with pytest.raises(Interrupted):
        system(ask_twice, ["a", "b", "c"]).answer(TASK, should_stop=stop)


def test_a_branch_has_limits_of_its_own():
    def scaffold(context, task):
        inner = context.branch("part", tokens=5)
        with pytest.raises(KweekError, match="budget part"):
            inner.generate("core", task.messages)
        return Answer(context.generate("core", task.messages)[0].text)

    assert system(scaffold, ["whole"]).answer(TASK).answer.text == "whole"


def test_a_system_is_a_tool_of_another_and_spends_its_budget(tmp_path):
    inner = system(ask_twice, ["a", "b", "c"], name="expert")

    def outer(context, task):
        found = context.call("expert", {"question": "Who knows?"})
        return Answer(f"{found.content}: {context.generate('core', task.messages)[0].text}")

    declared = system(outer, ["done"], tools=Toolbox([inner]))
    solved = declared.answer(TASK, trace=tmp_path / "trace.jsonl")
    assert solved.answer.text == "a b c: done"
    events = read_trace(tmp_path / "trace.jsonl")
    assert [(one.kind, one.id) for one in events[1:4]] == [
        ("branch", "0.0"), ("generate", "0.0.0"), ("generate", "0.0.1"),
    ]  # fmt: skip
    assert solved.cost.flop == sum(one.cost.flop for one in events)
    assert declared.replay(tmp_path / "trace.jsonl").answer.text == solved.answer.text
    alone = system(ask_twice, ["a", "b", "c"], limits=Limits(tokens=1))
    assert alone({"question": "Who?"}) == ToolResult("", True, "cut short by its budget")


def test_a_system_of_a_tool_that_is_not_granted_is_refused():
    post, calls = counted({"write"})
    inner = system(posting, ["x"], name="poster", tools=Toolbox([post], {"write": "allow"}))
    assert inner.effects == {"write"}

    def outer(context, task):
        return Answer(str(context.call("poster", {"question": "?"}).error))

    assert (
        "does not grant the tool 'poster'"
        in system(outer, [], tools=Toolbox([inner])).answer(TASK).answer.text
    )
    assert not calls


def test_a_system_is_a_language_model():
    nested = system(ask_twice, ["a", "b", "c"] * 3)
    prompt = encode_prompt(tokenizer(), [{"role": "system", "content": "Be brief."}, *TASK.messages])
    seen = []
    done = nested.generate(
        [Request(prompt, 50, stop_ids=tokenizer().stop_ids)], lambda *told: seen.append(told)
    )[0]
    assert tokenizer().decode(done.token_ids, skip_special=True) == "a b c"
    assert done.stop_reason == "stop" and not any(done.sampled) and done.flop > len(prompt) * 2
    assert [token for _, token in seen] == done.token_ids
    cut = nested.generate([Request(prompt, 2, stop_ids=tokenizer().stop_ids)])[0]
    assert cut.stop_reason == "length" and len(cut.token_ids) == 2
    short = nested.generate([Request(prompt, 50, stop_ids=tokenizer().stop_ids, max_flop=10.0)])[0]
    assert short.stop_reason == "budget"
    assert nested.score([[1, 2, 3]]) == [[0.0, -1.0, -1.0]]
    with pytest.raises(DataError, match="answers chats"):
        nested.generate([Request([5, 6, 7], 5)])
    outer = system(ask_twice, [])
    outer.roles["core"] = Role(system(ask_twice, ["a", "b", "c"] * 3), tokenizer(), None, 512)
    solved = outer.answer(TASK)
    assert solved.answer.text == "a b c a b c a b c" and not math.isnan(solved.cost.flop)


def test_a_system_without_a_core_is_none_and_a_prompt_must_fit():
    with pytest.raises(ConfigError, match="role core"):
        type(system(ask_twice, []))({}, ask_twice)
    tight = system(ask_twice, [])
    tight.roles["core"] = role(["x"], positions=8)
    with pytest.raises(KweekError, match="8 positions"):
        tight.answer(TASK)


def test_stop_texts_and_stop_ids_end_a_sample():
    def scaffold(context, task):
        one = context.generate("core", task.messages, stop_texts=["three"])[0]
        closing = tokenizer().special["</think>"]
        two = context.generate("core", task.messages, stop_ids=[closing])[0]
        assert two.token_ids[-1] == closing and one.stop_reason == two.stop_reason == "stop"
        return Answer(one.text)

    say = [Line("one two three four"), "a thought</think>not this"]
    assert system(scaffold, say).answer(TASK).answer.text.endswith("three")
