"""When to retrieve: the decision, and the decision against always and never."""

import pytest
from memory_files import folder_of

from kweek.system.memory.memory import Memory
from kweek.system.memory.need import Need, measure

TEXTS = {
    f"d{n}__txt": f"The {animal} lives in the {place} and eats {food} in the {time}."
    for n, (animal, place, food, time) in enumerate(
        (animal, place, food, time)
        for animal in ("heron", "otter", "badger", "lynx")
        for place, food in (("reeds", "fish"), ("forest", "berries"), ("hills", "worms"))
        for time in ("morning", "evening")
    )
}


@pytest.fixture
def memory(tmp_path):
    with Memory(tmp_path / "m.db") as memory:
        memory.add(folder_of(tmp_path / "animals", **TEXTS))
        yield memory


ABOUT = [
    "What does the heron eat in the reeds?",
    "Where does the otter live?",
    "Who eats berries in the evening?",
]
NOT_ABOUT = [
    "12 * 7",
    "Thank you!",
    "What is it?",
    "Who composed the opera Rusalka?",
    "How fast is an engine that pulls wagons over the hills?",
    "42",
]


def test_questions_that_the_folder_speaks_of_are_told_from_others(memory):
    need = Need(memory.store)
    decisions = {question: need.decide(question, memory.search(question)) for question in ABOUT + NOT_ABOUT}
    assert [question for question, found in decisions.items() if found.retrieve] == ABOUT
    assert decisions[ABOUT[0]].coverage == 1 and decisions["12 * 7"].coverage == 0
    assert set(decisions[NOT_ABOUT[3]].unknown) == {"composed", "opera", "rusalka"}
    assert "nowhere: composed" in decisions[NOT_ABOUT[3]].reason
    memory.remember("Rusalka is an opera composed by Dvořák.", source="chat")
    assert need.decide(
        NOT_ABOUT[3], memory.search(NOT_ABOUT[3])
    ).retrieve  # what it knows of the memory is renewed


def test_the_decision_is_held_against_always_and_never(memory):
    def read(question, passages):
        """A reader that needs passages for what is about the folder and is led astray by them elsewhere."""
        right = bool(passages) == (question in ABOUT)
        return float(right), 10 + 100 * len(passages)

    found = measure(ABOUT + NOT_ABOUT, Need(memory.store), lambda q: memory.search(q, 2), read)
    policies = {policy.name: policy for policy in found.policies}
    assert policies["decided"].score == 1 and found.questions == 9
    assert policies["never"].score == pytest.approx(6 / 9) and policies["never"].tokens == 10
    assert policies["always"].tokens >= policies["decided"].tokens > policies["never"].tokens
    assert found.over_never.difference == pytest.approx(3 / 9) and found.over_always.won > 0
    assert policies["decided"].retrieved.mid == pytest.approx(3 / 9)
