"""The audit: a sound verifier passes, each way of being fooled is found."""

import pytest

from kweek.align.verifier import audit, require_sound, whole_number
from kweek.data import stories
from kweek.errors import GuardError
from kweek.protocols import Score

ITEMS = stories.problems("audit", 100, "train")
QUESTIONS, GOLDS = [p.question for p in ITEMS], [p.answer for p in ITEMS]


def test_whole_number_is_sound():
    findings = audit(whole_number, QUESTIONS, GOLDS)
    require_sound(findings)
    assert len(findings) >= 12 and all(f.passed for f in findings)


@pytest.mark.parametrize(
    ("name", "verifier", "attack"),
    [
        ("substring", lambda a, g: Score(float(g in a), True), "every number in turn"),
        ("prefix", lambda a, g: Score(float(g.startswith(a)), True), "empty"),
        ("anything", lambda a, g: Score(1.0 if a else 0.0, True), "best constant"),
        ("nothing", lambda a, g: Score(0.0, True), "gold"),
        (
            "near enough",
            lambda a, g: Score(float(a[:9].isdigit() and abs(int(a[:9]) - int(g)) < 2), True),
            "off by one",
        ),
        ("last number", lambda a, g: Score(float(a.split()[-1:] == [g]), True), None),
    ],
)
def test_verifiers_that_can_be_fooled_are_refused(name, verifier, attack):
    findings = audit(verifier, QUESTIONS, GOLDS)
    failed = {f.attack for f in findings if not f.passed}
    if attack is None:
        # Taking the last number is fooled by nothing in the list: the gold is never last there.
        assert not failed
        return
    assert attack in failed
    with pytest.raises(GuardError, match="Mend the verifier"):
        require_sound(findings)


def test_verifiers_that_misbehave_are_refused():
    def raising(answer, gold):
        return Score(float(int(answer) == int(gold)), True)

    with pytest.raises(GuardError, match="raised ValueError"):
        audit(raising, QUESTIONS, GOLDS)
    state = iter(range(10**9))
    with pytest.raises(GuardError, match="twice differently"):
        audit(lambda a, g: Score(float(next(state) % 2), True), QUESTIONS, GOLDS)
    with pytest.raises(GuardError, match="outside 0 to 1"):
        audit(lambda a, g: Score(5.0, True), QUESTIONS, GOLDS)
