"""Environments: items that follow from their key, splits that follow from content, episodes that never raise."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.align.audit.environment import ODD_MESSAGES, audit_environment
from kweek.align.audit.finding import require_sound
from kweek.align.environment import Item
from kweek.align.environments.corrected import Corrected
from kweek.align.environments.fitting import Fitting
from kweek.align.environments.guessing import Guessing, game, num_guesses
from kweek.align.environments.named import environment
from kweek.align.environments.pool import Pool, split_of
from kweek.align.environments.single_turn import SingleTurn, answer_of
from kweek.align.environments.tool_using import ToolUsing
from kweek.align.environments.tools import CALCULATOR
from kweek.align.sampling import sample
from kweek.align.turns import answer_of as message_of
from kweek.align.verifier import whole_number
from kweek.align.word_problems import WordProblems
from kweek.data import stories
from kweek.errors import ConfigError, DataError, GuardError
from kweek.evaluate.problems import Asker
from kweek.protocols import Completion, Score
from kweek.system.calculator import Calculator
from kweek.tokenize import bpe
from kweek.tokenize.chat import encode_prompt, encode_trusted

SPLITS = ("train", "validation", "test")


def sums(count):
    return [Item(({"role": "user", "content": f"What is {i}+{i}?"},), str(2 * i)) for i in range(count)]


def said(text):
    return {"role": "assistant", "content": text}


ENVIRONMENTS = {
    "single": SingleTurn("sums", sums(400), whole_number),
    "stories": WordProblems(share_sums=0.2),
    "guessing": Guessing(),
    "corrected": Corrected(WordProblems()),
    "tools": ToolUsing(WordProblems(), [CALCULATOR]),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_items_follow_from_the_key_and_splits_share_nothing(name):
    made = ENVIRONMENTS[name]
    found = {split: made.items("key", 15, split) for split in SPLITS}
    assert all(found[split] == made.items("key", 15, split) for split in SPLITS)
    ids = [{item.id for item in items} for items in found.values()]
    assert [len(group) for group in ids] == [15, 15, 15]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    # Whatever the key, what is asked in one split is asked in no other.
    for key in ("key/1", "another"):
        for split, group in zip(SPLITS, ids, strict=True):
            others = {
                item.id for other in SPLITS if other != split for item in made.items(key, 60, other)[:15]
            }
            assert not group & others


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_pass_the_audit(name):
    require_sound(audit_environment(ENVIRONMENTS[name], count=30))


@pytest.mark.parametrize("wrap", [lambda made: made, Corrected, lambda made: ToolUsing(made, [CALCULATOR])])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda: 1 // 0, "raises"),
        (lambda: os._exit(1), "hangs or dies"),
        (lambda: float("nan"), "returns what is no number from 0 to 1"),
        (lambda: Score(0.0, False, "out of order"), "reports errors of its own"),
    ],
)
def test_an_audit_sees_the_faults_of_the_function_itself(wrap, fault, said):
    """Not those that training would see of it, through the process that keeps them from it."""

    def judge(answer, gold):
        return float(answer == gold) if answer.isdigit() else fault()

    found = audit_environment(wrap(SingleTurn("sums", sums(60), judge)), count=12)
    failed = [finding.attack for finding in found if finding.group == "behaviour" and not finding.passed]
    assert said in failed
    with pytest.raises(GuardError, match=f"the verifier {said}"):
        require_sound([finding for finding in found if finding.attack == said])


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("message", [*ODD_MESSAGES, said("x" * 10_000), said("\ud800")])
def test_episodes_end_and_never_raise(name, message):
    made = ENVIRONMENTS[name]
    episode = made.begin(made.items("odd", 1, "train")[0])
    assert episode.score().value == 0.0
    turns = 0
    while episode.step(message):
        turns += 1
        assert turns <= made.max_turns
    assert episode.score().value == 0.0 and episode.score().error is None
    assert not episode.step(said("12"))  # what has ended stays so


def test_single_turns_are_judged_by_any_function():
    items = sums(50)
    own = SingleTurn("sums", items, lambda answer, gold: float(answer == gold) / 2)
    episode = own.begin(items[3])
    assert episode.step(said("<think>hm</think> 6 ")) == () and episode.score().value == 0.5
    assert SingleTurn("sums", items, lambda answer, gold: 1 // 0).begin(items[0]).score().parsed is False
    broken = SingleTurn("sums", items, lambda answer, gold: 1 // 0).begin(items[0])
    broken.step(said("0"))
    assert "ZeroDivisionError" in broken.score().error


def test_pools_hold_each_question_once():
    items = sums(300)
    pool = Pool([*items, *items[:7]])
    assert len(pool) == 300 and pool.num_repeated == 7
    counts = [pool.count(split) for split in SPLITS]
    assert sum(counts) == 300 and all(5 <= count <= 40 for count in counts[1:])
    assert len(pool.draw("key", 1000, "test")) == counts[2]
    with pytest.raises(DataError, match="asked twice with different answers, '6' and '7'"):
        Pool([*items, Item(items[3].messages, "7")])
    with pytest.raises(DataError, match="no items"):
        Pool([])
    with pytest.raises(DataError, match="falls into the split test"):
        Pool([next(item for item in items if split_of(item) == "train")]).draw("key", 1, "test")


def test_given_splits_hold_and_what_is_held_out_stays_out():
    items = sums(30)
    pool = Pool({"train": items[:20], "test": items[15:]})
    assert pool.count("train") == 15 and pool.count("test") == 15 and pool.num_repeated == 5
    assert {item.id for item in pool.draw("key", 99, "test")} == {item.id for item in items[15:]}


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.train(stories.sample_texts("environments", 300, "train"), 416)


def said_by_a_model(ids):
    return Completion(ids, [True] * len(ids), [-1.0] * len(ids), "stop", 1, 1.0)


class Script:
    """A model that says one text after another, whatever it is asked."""

    def __init__(self, tokenizer, texts):
        end = tokenizer.special["<|im_end|>"]
        self._answers = [[*tokenizer.encode(text), end] for text in texts]

    def generate(self, requests, on_token=None):
        return [said_by_a_model(self._answers.pop(0)) for _ in requests]

    def score(self, sequences):
        raise NotImplementedError


CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "6*7"}}</tool_call>'


@pytest.mark.parametrize(
    ("name", "texts", "roles", "value"),
    [
        ("stories", ["{gold}"], "ua", 1.0),
        ("corrected", ["no", "{gold}"], "uaua", 0.5),
        ("tools", [CALL, "<tool_call>?</tool_call>", "{gold}"], "suatata", 1.0),
        ("guessing", ["{gold}"], "ua", 1.0),
    ],
)
def test_environments_are_played_by_rollouts(tokenizer, name, texts, roles, value):
    made = ENVIRONMENTS[name]
    item = made.items("play", 1, "train")[0]
    model = Script(tokenizer, [text.replace("{gold}", item.gold) for text in texts])
    rollout = sample(model, tokenizer, made, [item], samples=1, key="k")[0][0]
    assert rollout.score.value == value and rollout.score.error is None
    assert "".join(message["role"][0] for message in rollout.messages) == roles
    own = [index for index, mine in zip(rollout.token_ids, rollout.sampled, strict=True) if mine]
    assert tokenizer.decode(own).startswith(texts[0].replace("{gold}", item.gold))
    if name == "tools":
        assert next(m["content"] for m in rollout.messages if m["role"] == "tool") == "42"
        assert rollout.score.parts["unreadable calls"] == 1.0


ANSWERS = (
    "{gold}", "<think>1+1=2</think>{gold}", "<think><tool>1+1<result>2</result></think>\n{gold} ", "<think>1+1=2",
    "<think></think>{gold} or so", "</think>{gold}", "<think>1</think>5</think>{gold}", "", "<tool>", "0{gold}",
)  # fmt: skip


def test_stories_are_those_of_the_recipe(tokenizer):
    made = WordProblems(share_sums=0.1)
    asker = Asker(tokenizer, whole_number, Calculator(tokenizer))
    problems = stories.problems("rl/0/3", 12, "train", share_sums=0.1)
    items = made.items("rl/0/3", 12, "train")
    assert isinstance(made.interceptor(tokenizer), Calculator)
    for problem, item in zip(problems, items, strict=True):
        assert encode_prompt(tokenizer, item.messages) == asker.prompt(problem.question)
        assert item.level == str(problem.level)
        for form in ANSWERS:
            ids = [
                *encode_trusted(tokenizer, form.format(gold=problem.answer)),
                tokenizer.special["<|im_end|>"],
            ]
            outcome = asker.read(problem, said_by_a_model(ids))
            episode = made.begin(item)
            episode.step(message_of(tokenizer, ids, []))
            score = episode.score()
            assert (score.value == 1.0, score.parsed) == (outcome.correct, outcome.parsed), form


@given(st.integers(0, 900), st.sampled_from([16, 32, 64]), st.data())
def test_halving_finds_the_number_in_time(start, size, data):
    item = game(start, size)
    assert start <= int(item.gold) < start + size
    episode = Guessing().begin(item)
    low, high = start, start + size - 1
    for _ in range(num_guesses(size)):
        guess = (low + high) // 2
        told = episode.step(said(str(guess)))
        if not told:
            break
        low, high = (guess + 1, high) if told[0]["content"] == "Higher." else (low, guess - 1)
    assert episode.score().value == 1.0


def test_a_game_tells_what_is_no_guess():
    item = game(10, 16)
    episode = Guessing().begin(item)
    assert "no" not in str(item.gold) and "not one whole number" in episode.step(said("1 2 3"))[0]["content"]
    assert episode.score().parsed is False and episode.score().parts["unreadable"] == 1.0
    with pytest.raises(ConfigError):
        Guessing(sizes=())


def test_prompts_that_leave_no_room_are_left_out(tokenizer):
    """They are many tokens in few, so that what fits follows from the tokenizer."""
    items = [
        Item(
            ({"role": "user", "content": f"What is {i}+{i}?" + " Think." * (40 * (i % 3 == 0))},), str(2 * i)
        )
        for i in range(90)
    ]
    made = Fitting(SingleTurn("sums", items, whole_number, max_new_tokens=20), tokenizer, 90)
    found = made.items("k", 30, "train")
    assert len(found) == 30 and found == made.items("k", 60, "train")[:30]
    assert all(len(encode_prompt(tokenizer, item.messages)) <= 70 for item in found)
    assert 20 <= len(made.too_long) <= 30 and not made.too_long & {item.id for item in found}
    assert len(made.items("k", 1000, "train")) < 62
    assert made.begin(found[0]).step(said(found[0].gold)) == () and made.max_turns == 1
    with pytest.raises(DataError, match="no prompt leaves room for an answer of 20 tokens in 24 positions"):
        Fitting(made.inner, tokenizer, 24).items("k", 3, "train")


def test_second_thoughts_are_worth_less():
    made = Corrected(SingleTurn("sums", sums(40), whole_number), max_turns=3)
    item = sums(40)[6]
    episode = made.begin(item)
    assert "cannot be read" in episode.step(said("twelve"))[0]["content"]
    assert "not right" in episode.step(said("13"))[0]["content"]
    assert episode.step(said("12")) == ()
    assert episode.score().value == 0.25 and episode.score().parts == {"turns": 3.0, "first": 0.0}
    first = made.begin(item)
    assert first.step(said("12")) == () and first.score().value == 1.0
    with pytest.raises(ConfigError, match="several turns already"):
        Corrected(Guessing())
    with pytest.raises(ConfigError, match="at least two turns"):
        Corrected(WordProblems(), max_turns=1)


def test_a_verifier_that_fails_ends_the_attempt_with_its_error():
    made = Corrected(SingleTurn("sums", sums(40), lambda answer, gold: 1 // 0))
    episode = made.begin(sums(40)[6])
    assert episode.step(said("12")) == () and "ZeroDivisionError" in episode.score().error


def test_answers_are_what_follows_the_thinking():
    assert answer_of({"content": "<think>a</think> b "}) == "b" and answer_of({"content": None}) == ""
    assert answer_of({}) == "" and answer_of({"content": [{"text": "b"}]}) == ""


def test_environments_by_name(tmp_path, monkeypatch):
    assert environment("stories").name == "stories" and environment("guessing").max_turns == 7
    (tmp_path / "mine.py").write_text(
        "from kweek.align.environments.guessing import Guessing\nclass Game(Guessing):\n    pass\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert environment("mine:Game").max_new_tokens == 16
    for name, words in (
        ("storys", "Write 'stories'"),
        ("mine:number", "it has no name"),
        ("mine:nothing", "check module and name|Check module and name"),
        ("nomodule:x", "No module named"),
    ):
        with pytest.raises(ConfigError, match=words):
            environment(name)
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "1+1?", "gold": 2, "verifier": "number"}))
    assert environment(str(tmp_path / "p.jsonl")).name == "p"
