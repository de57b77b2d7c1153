"""Rollouts: token in, token out, over one turn and several; what was not sampled is never trained on."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from policy_world import Letters, LettersEpisode, small_policy, small_tokenizer

from kweek.align.environment import Item
from kweek.align.environments.prompts import read_prompts
from kweek.align.lessons import full_logprobs
from kweek.align.sampling import Drawing, given, sample, sample_seed
from kweek.align.turns import answer_of, continuation, turn_end
from kweek.align.verifier import whole_number
from kweek.align.word_problems import WordProblems, as_item
from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.errors import DataError, KweekError
from kweek.evaluate.problems import Asker, attempt
from kweek.protocols import Completion, Score
from kweek.system.calculator import Calculator
from kweek.tokenize.chat import encode_chat, encode_prompt
from kweek.tokenize.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def engine():
    return Engine(small_policy())


class Script:
    """A LanguageModel that says what it is told to, token by token."""

    def __init__(self, answers):
        self.answers, self.asked = list(answers), []

    def generate(self, requests, on_token=None):
        found = []
        for request in requests:
            self.asked.append(list(request.prompt_ids))
            ids = self.answers.pop(0)
            size = len(ids)
            found.append(
                Completion(ids, [True] * size, [-1.0] * size, "stop", len(request.prompt_ids), 1.0, [-1.0] * size)
            )  # fmt: skip
        return found

    def score(self, sequences):
        return [[0.0] * len(s) for s in sequences]


def one_of(model, world):
    """One attempt at one item."""
    items = world.items("a", 1, "train")
    return sample(model, small_tokenizer(), world, items, samples=1, key="k", drawing=Drawing())[0][0]


def test_what_is_asked_wears_the_chat_template_and_a_bare_text_is_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "What is 2+2?", "gold": "4", "verifier": "number"}')
    (item,) = read_prompts(tmp_path / "p.jsonl").pool.draw("k", 1, "train")
    said = encode_prompt(small_tokenizer(), item.messages)
    assert small_tokenizer().decode(said).endswith("What is 2+2?<|im_end|>\n<|im_start|>assistant\n")
    for wrong in ("What is 2+2?", ["What is 2+2?"], ()):
        with pytest.raises(DataError, match="asks in messages"):
            Item(wrong, "4")


def test_groups_hold_what_the_engine_drew(engine):
    tokenizer, world = small_tokenizer(), Letters()
    items = world.items("a", 3, "train")
    groups = sample(engine, tokenizer, world, items, samples=4, key="k", drawing=Drawing(), version=7)
    assert [len(group) for group in groups] == [4, 4, 4]
    for item, group in zip(items, groups, strict=True):
        prompt = encode_prompt(tokenizer, item.messages)
        for rollout in group:
            assert rollout.token_ids[: rollout.num_prompt_tokens] == prompt
            assert not any(rollout.sampled[: len(prompt)]) and all(rollout.sampled[len(prompt) :])
            assert rollout.version == 7 and rollout.num_sampled <= world.max_new_tokens
            said = tokenizer.decode(
                [t for t in rollout.token_ids[len(prompt) :] if t not in tokenizer.stop_ids]
            )
            assert rollout.messages[-1]["content"] == said
    scored = engine.score([r.token_ids for group in groups for r in group])
    for rollout, values in zip([r for group in groups for r in group], scored, strict=True):
        own = np.asarray(rollout.sampled)
        assert np.asarray(rollout.logprobs)[own] == pytest.approx(np.asarray(values)[own], abs=1e-4)


def test_seeds_depend_on_content_and_nothing_else(engine):
    tokenizer, world = small_tokenizer(), Letters()
    items = world.items("a", 4, "train")

    def draw(some, key="k"):
        groups = sample(engine, tokenizer, world, some, samples=2, key=key, drawing=Drawing())
        return {group[0].item.id: [r.token_ids for r in group] for group in groups}

    whole, part = draw(items), draw(items[2:])
    assert all(whole[name] == ids for name, ids in part.items())
    assert draw(items, "other") != whole
    assert any(a != b for a, b in whole.values()), "two attempts at one item are two drawings"
    assert sample_seed("k", items[0], 0) != sample_seed("k", items[0], 0, 1)


def test_a_word_problem_is_sampled_as_evaluation_samples_it(engine):
    tokenizer = small_tokenizer()
    problems = stories.problems("same", 3, "train")
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    theirs = attempt(engine, asker, problems, samples=2, temperature=1.0, key="k")
    ours = sample(
        engine,
        tokenizer,
        WordProblems(),
        [as_item(p) for p in problems],
        samples=2,
        key="k",
        drawing=Drawing(),
    )
    for old, new in zip(theirs, ours, strict=True):
        for outcome, rollout in zip(old, new, strict=True):
            new_ids = [
                t for t in rollout.token_ids[rollout.num_prompt_tokens :] if t not in tokenizer.stop_ids
            ]
            assert tokenizer.decode(new_ids) == outcome.transcript
            assert (rollout.score.value == 1.0, rollout.score.parsed) == (outcome.correct, outcome.parsed)


def test_a_later_turn_is_appended_after_the_very_tokens_sampled():
    """Ids that no encoder would give stand in the rollout as they were sampled."""
    tokenizer, world = small_tokenizer(), Letters(max_turns=2)
    end = turn_end(tokenizer, [{"role": "user", "content": "A"}])
    odd = [tokenizer.encode(c)[0] for c in "marbles"]
    assert odd != tokenizer.encode("marbles"), "spelt in letters"
    model = Script([[*odd, end], [*tokenizer.encode("a"), end]])
    rollout = one_of(model, world)
    first = rollout.num_prompt_tokens
    assert rollout.token_ids[first : first + len(odd) + 1] == [*odd, end]
    told = encode_prompt(tokenizer, [{"role": "user", "content": "Again."}])
    between = rollout.token_ids[first + len(odd) + 1 : len(rollout.token_ids) - 2]
    assert tokenizer.decode(between).endswith(tokenizer.decode(told)), "the turn as the template opens it"
    assert model.asked[1] == rollout.token_ids[:-2]
    own = [t for t, s in zip(rollout.token_ids, rollout.sampled, strict=True) if s]
    assert own == [*odd, end, *tokenizer.encode("a"), end]
    assert [m["role"] for m in rollout.messages] == ["user", "assistant", "user", "assistant"]
    assert rollout.score.value == 1.0 and rollout.flop == 2.0


def test_an_answer_that_ran_into_the_limit_has_its_turn_closed_for_it():
    tokenizer, world = small_tokenizer(), Letters(max_turns=2)
    messages = list(world.items("a", 1, "train")[0].messages)
    end = turn_end(tokenizer, messages)
    told = [{"role": "user", "content": "Again."}]
    open_ids = continuation(tokenizer, messages, told, tokenizer.encode("a")[-1])
    closed = continuation(tokenizer, messages, told, end)
    assert open_ids == [end, *closed]
    model = Script([tokenizer.encode("a"), [*tokenizer.encode("e"), end]])
    rollout = one_of(model, world)
    place = rollout.num_prompt_tokens + len(tokenizer.encode("a"))
    assert rollout.token_ids[place] == end and not rollout.sampled[place], "nobody sampled it"


def test_the_whole_chat_rendered_anew_would_have_lost_the_thinking():
    """Why nothing is rendered anew: the template drops what an earlier turn thought."""
    tokenizer, world = small_tokenizer(), Letters(max_turns=2)
    special, end = tokenizer.special, turn_end(tokenizer, [{"role": "user", "content": "A"}])
    first = [special["<think>"], *tokenizer.encode("1+1=2"), special["</think>"], *tokenizer.encode("2"), end]
    model = Script([first, [*tokenizer.encode("3"), end]])
    rollout = one_of(model, world)
    assert rollout.messages[1] == {"role": "assistant", "content": "2", "reasoning_content": "1+1=2"}
    anew = encode_chat(tokenizer, rollout.messages).token_ids
    assert special["<think>"] not in anew and special["<think>"] in rollout.token_ids


def test_assistant_turns_of_the_prompt_are_never_trained_on(engine):
    tokenizer = small_tokenizer()
    chat = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "What is 2+2?"},
    )

    @dataclass(frozen=True)
    class Dialogue(Letters):
        def items(self, key, count, split):
            return [Item(chat)]

    world = Dialogue()
    rollout = one_of(engine, world)
    assert rollout.num_prompt_tokens == len(encode_prompt(tokenizer, chat))
    assert not any(rollout.sampled[: rollout.num_prompt_tokens])


def test_an_episode_without_room_for_another_answer_ends_with_its_length(engine):
    tokenizer, world = small_tokenizer(), Letters(max_turns=4)
    items = world.items("a", 2, "train")
    longest = max(len(encode_prompt(tokenizer, item.messages)) for item in items)
    limit = longest + 2 * world.max_new_tokens
    groups = sample(
        engine, tokenizer, world, items, samples=2, key="k", drawing=Drawing(), max_positions=limit
    )
    for rollout in (r for group in groups for r in group):
        assert rollout.stop_reason == "length" and len(rollout.token_ids) <= limit
    with pytest.raises(KweekError, match="positions"):
        sample(
            engine,
            tokenizer,
            replace(world, max_new_tokens=250),
            items,
            samples=1,
            key="k",
            drawing=Drawing(),
        )


def test_a_tempered_and_truncated_drawing_says_what_it_drew_from(engine):
    tokenizer, world = small_tokenizer(), Letters()
    drawing = Drawing(temperature=0.7, top_k=20)
    groups = sample(
        engine, tokenizer, world, world.items("a", 3, "train"), samples=3, key="k", drawing=drawing
    )
    network = engine.network
    for rollout in (r for group in groups for r in group):
        with torch.no_grad():
            ids = torch.as_tensor(rollout.token_ids)[None]
            table = (network.logits(network(ids))[0, :-1] / 0.7).log_softmax(-1)
        for place, own in enumerate(rollout.sampled):
            if own:
                row = table[place - 1]
                exact = float(row[rollout.token_ids[place]])
                kept = float(row.exp().topk(20).values.sum())
                assert rollout.kept_mass[place] == pytest.approx(kept, abs=1e-4)
                assert rollout.logprobs[place] == pytest.approx(exact - math.log(kept), abs=1e-4)
                assert full_logprobs(rollout)[place] == pytest.approx(exact, abs=1e-4)


class Broken(LettersEpisode):
    """Fails as `how` says."""

    how = ""

    def step(self, message):
        if self.how == "step":
            raise RuntimeError("no")
        return super().step(message)

    def score(self):
        if self.how == "score":
            raise ValueError("what is this")
        return Score({"nan": math.nan, "large": 2.0}[self.how], True)


@pytest.mark.parametrize(
    ("how", "said"), [("step", "RuntimeError"), ("score", "ValueError"), ("nan", "nan"), ("large", "2.0")]
)
def test_a_judge_that_fails_is_an_error_and_never_a_reward_of_nothing(engine, how, said):
    class World(Letters):
        def begin(self, item):
            episode = Broken([], 1)
            episode.how = how
            return episode

    world = World()
    rollout = one_of(engine, world)
    assert said in rollout.score.error and rollout.score.value == 0.0


def test_a_generation_that_failed_is_no_wrong_answer():
    class Failing(Script):
        def generate(self, requests, on_token=None):
            return [Completion([], [], [], "error", 1, 0.0, error="the tool fell over") for _ in requests]

    world = Letters()
    with pytest.raises(KweekError, match="fell over"):
        sample(Failing([]), small_tokenizer(), world, world.items("a", 1, ""), samples=1, key="k")


def test_a_given_answer_stands_as_the_model_would_have_written_it(engine):
    tokenizer, world = small_tokenizer(), WordProblems()
    item = world.items("g", 1, "train")[0]
    (rollout,) = given(engine, tokenizer, world, [(item, item.gold)])
    assert rollout.score.value == 1.0
    chat = [*item.messages, {"role": "assistant", "content": item.gold, "trusted": True}]
    assert rollout.token_ids == encode_chat(tokenizer, chat).token_ids[: len(rollout.token_ids)]
    assert rollout.token_ids[-1] in tokenizer.stop_ids
    values = engine.score([rollout.token_ids])[0]
    assert rollout.logprobs[rollout.num_prompt_tokens :] == values[rollout.num_prompt_tokens :]
    (wrong,) = given(engine, tokenizer, world, [(item, "7 or 8")])
    assert wrong.score.value == 0.0


def test_thinking_that_the_prompt_has_opened_is_thinking():
    tokenizer = small_tokenizer()
    opening, closing = tokenizer.special["<think>"], tokenizer.special["</think>"]
    body = tokenizer.encode("2+2=4")
    assert answer_of(tokenizer, body, [1, opening]) == {
        "role": "assistant", "content": "", "reasoning_content": "2+2=4"
    }  # fmt: skip
    assert answer_of(tokenizer, body, [opening, closing])["content"] == "2+2=4"
    assert answer_of(tokenizer, [*body, closing, *tokenizer.encode("4")], [])["content"] == "4"


def test_a_template_that_does_not_end_turns_is_refused():
    whole = small_tokenizer()
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    source = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    plain = Tokenizer(whole.definition, whole.config, source)
    with pytest.raises(DataError, match="does not end an assistant's turn"):
        continuation(plain, [{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}], 5)
