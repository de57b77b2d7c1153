"""reasoning-gym: its known faults are real, and they are not ours."""

import pytest

gym = pytest.importorskip("reasoning_gym", reason="the extra `gym` has reasoning-gym")

from kweek.align.audit.audit import known_answer, question  # noqa: E402
from kweek.align.audit.finding import exploitability, require_sound  # noqa: E402
from kweek.align.environments.gym import Gym, seed_of, task_names  # noqa: E402
from kweek.align.environments.gym_tasks import TASKS  # noqa: E402
from kweek.align.verifier import audit  # noqa: E402
from kweek.errors import ConfigError, GuardError  # noqa: E402

SPLITS = ("train", "validation", "test")
SLOW = {"takes long (median, seconds)": 1.0}  # a busy machine is no fault of a scorer


def findings(made, count=60):
    """The audit of the scorer itself, without the process that protects training from it."""
    items = made.items("audit", count, "train")
    golds = [item.gold for item in items]
    questions, references = [question(item) for item in items], [known_answer(item) for item in items]
    found = audit(made.verifier, questions, golds, references=references, limits=SLOW)
    return {f.attack: f for f in found}


def test_neighbouring_seeds_of_the_suite_overlap():
    """Item 1 of seed 42 is item 0 of seed 43."""
    one, other = (
        gym.create_dataset("chain_sum", seed=42, size=9),
        gym.create_dataset("chain_sum", seed=43, size=9),
    )
    assert [one[i + 1]["question"] for i in range(8)] == [other[i]["question"] for i in range(8)]


def test_seeds_and_splits_of_ours_share_nothing():
    assert len({seed_of("chain_sum", split, "k", i) for split in SPLITS for i in range(2000)}) > 5990
    made = Gym("chain_sum")
    asked = {split: {item.id for item in made.items("k", 40, split)} for split in SPLITS}
    assert all(len(group) == 40 for group in asked.values())
    more = {split: {item.id for key in "abc" for item in made.items(key, 40, split)} for split in SPLITS}
    for split in SPLITS:
        for other in set(SPLITS) - {split}:
            assert not (asked[split] | more[split]) & (asked[other] | more[other])
    assert made.items("k", 40, "train") == made.items("k", 40, "train")


@pytest.mark.parametrize("task", TASKS)
def test_tasks_of_the_list_are_small_and_pass_the_audit(task):
    made = Gym(task)
    items = made.items("audit", 60, "train")
    assert len(items) == 60 and len({item.id for item in items}) == 60
    assert all(made.item(item.data["seed"]) == item for item in items)
    for item in items[:5]:  # some draw from their seed when they are made
        fresh = gym.create_dataset(task, seed=item.data["seed"], size=1, **TASKS[task].settings)[0]
        assert (
            item.messages[0]["content"].startswith(fresh["question"].strip()) and item.gold == fresh["answer"]
        )
    lengths = sorted(len(item.messages[0]["content"]) for item in items)
    assert lengths[30] <= 260 and max(len(item.gold) for item in items) <= 40
    assert TASKS[task].form in items[0].messages[0]["content"]
    require_sound(list(findings(made).values()))


@pytest.mark.parametrize(
    ("task", "least"),
    [
        ("game_of_life_halting", 0.99),
        ("coin_flip", 0.9),
        ("game_of_life", 0.9),
        ("isomorphic_strings", 0.4),
        ("syllogism", 0.5),
    ],
)
def test_exploitable_tasks_are_refused_with_the_numbers(task, least):
    """A constant earns this much under the suite's own scorer."""
    found = findings(Gym(task, suite_scorer=True), count=30)
    assert not found["best constant"].passed and found["best constant"].score >= least
    assert exploitability(list(found.values())) >= least
    with pytest.raises(GuardError, match="Mend the verifier"):
        require_sound(list(found.values()))


@pytest.mark.parametrize("task", ["prime_factorization", "boxnet"])
def test_scorers_that_raise_are_counted_and_refused(task):
    made = Gym(task, suite_scorer=True)
    item = made.items("k", 1, "train")[0]
    episode = made.begin(item)
    episode.step({"role": "assistant", "content": "3" if task == "boxnet" else "two times three"})
    score = episode.score()
    assert score.value == 0.0 and score.error is not None and made.verifier.faults["raised"] == 1
    assert findings(made, count=12)["raises"].score > 0.1


def test_what_is_not_there_is_said():
    assert len(task_names()) > 100
    with pytest.raises(ConfigError, match="Write 'chain_sum'"):
        Gym("chain_sums")
    with pytest.raises(ConfigError, match="settings cannot be meant"):
        Gym("chain_sum", {"min_terms": 0})
    with pytest.raises(ConfigError, match="settings cannot be meant"):
        Gym("chain_sum", {"terms": 3})
