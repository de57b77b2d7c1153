"""The audit: sound verifiers pass, each way of being fooled or broken is found."""

import random
import re
import time

import pytest

from kweek.align.audit.finding import Finding, exploitability
from kweek.align.verifier import audit, require_sound, whole_number
from kweek.align.verifiers.choice import Choice
from kweek.align.verifiers.function import as_verifier
from kweek.align.verifiers.numbers import Number
from kweek.align.verifiers.regex import Regex
from kweek.align.verifiers.text import Text
from kweek.data import stories
from kweek.errors import ConfigError, DataError, GuardError
from kweek.protocols import Score

ITEMS = stories.problems("audit", 40, "train")
QUESTIONS, GOLDS = [p.question for p in ITEMS], [p.answer for p in ITEMS]


def failures(verifier, questions=QUESTIONS, golds=GOLDS, **options):
    return {f.attack for f in audit(verifier, questions, golds, **options) if not f.passed}


@pytest.mark.parametrize(
    "verifier", [whole_number, Number(), Text(), as_verifier(lambda a, g: a.strip() == g)]
)
def test_sound_verifiers_pass(verifier):
    findings = audit(verifier, QUESTIONS, GOLDS)
    require_sound(findings)
    assert exploitability(findings) <= 0.2
    assert {f.group for f in findings} == {"right", "ignorant", "hedged", "behaviour", "format"}


def test_what_is_accepted_beside_the_gold_is_told():
    told = {f.attack: f.score for f in audit(Number(), QUESTIONS, GOLDS) if f.group == "format"}
    assert told["gold as 12.0"] == told["gold as  12 "] == 1.0
    assert told["gold as The answer is 12"] == told["gold as \\boxed{12}"] == told["gold as (12)"] == 0.0


@pytest.mark.parametrize(
    ("name", "verifier", "attack"),
    [
        ("substring", lambda a, g: g in a, "lists of all answers"),
        ("substring", lambda a, g: g in a, "gold among others"),
        ("prefix", lambda a, g: g.startswith(a), "empty"),
        ("prefix the other way", lambda a, g: a.startswith(g), "gold run on"),
        ("anything", lambda a, g: 1.0 if a else 0.0, "best constant"),
        ("truth of a text", lambda a, g: bool(a) == bool(g), "best constant"),
        ("nothing", lambda a, g: 0, "gold"),
        ("near enough", lambda a, g: a.isdecimal() and len(a) < 9 and abs(int(a) - int(g)) < 2, "off by one"),
        ("first digits", lambda a, g: a[:1] == g[:1] and len(a) < 4, "gold cut short"),
        ("any number of it", lambda a, g: g in re.findall(r"\d+", a), "gold and an afterthought"),
        ("length", lambda a, g: min(1.0, len(a) / 1000), "very long"),
        ("two of three", lambda a, g: 1.0 if a == g else 0.6, "best constant"),
    ],
)
def test_verifiers_that_can_be_fooled_are_refused(name, verifier, attack):
    findings = audit(verifier, QUESTIONS, GOLDS)
    assert attack in {f.attack for f in findings if not f.passed}
    with pytest.raises(GuardError, match="Mend the verifier"):
        require_sound(findings)


def test_reading_the_last_number_pays_for_an_echo():
    # A question that ends with its answer pays whoever repeats it; nothing else fools this reading.
    questions = [f"{question} Say {gold}." for question, gold in zip(QUESTIONS, GOLDS, strict=True)]
    assert failures(Number("last")) <= {"the question itself"}
    assert failures(Number("last"), questions) == {"the question itself"}


state = []
shared = {}


def remembers(answer, gold):
    state.append(answer)
    return answer == gold and len(state) % 7 != 0


def shares(answer, gold):
    shared["answer"] = answer
    time.sleep(0.001)  # long enough for another thread to write there too
    return shared["answer"] == gold


@pytest.mark.parametrize(
    ("verifier", "attack"),
    [
        (lambda a, g: int(a) == int(g), "raises"),
        (lambda a, g: float("nan"), "returns what is no number from 0 to 1"),
        (lambda a, g: 5.0 * (a == g), "returns what is no number from 0 to 1"),
        (
            lambda a, g: Score(0.0, False, error="down") if a[:1] == "1" else a == g,
            "reports errors of its own",
        ),
        (lambda a, g: random.random() < 0.5, "changes its mind about the same answer"),
        (remembers, "judges otherwise in another order"),
        (shares, "judges otherwise among threads"),
        (lambda a, g: time.sleep(0.06) or a == g, "takes long (median, seconds)"),
        (lambda a, g: time.sleep(600) if a == "0" else a == g, "hangs or dies"),
        (lambda a, g: a == g or bool(re.fullmatch(r"(\d+)+!", a[:40] + "x")), "fails on hostile texts"),
        (lambda a, g: a == g if len(a) < 1000 else 1 // 0, "fails on hostile texts"),
    ],
)
def test_verifiers_that_misbehave_are_refused(verifier, attack):
    # A machine that does something else too makes every verifier slow; that is tried apart.
    limits = {} if "long" in attack else {"takes long (median, seconds)": 60.0}
    findings = audit(verifier, QUESTIONS[:12], GOLDS[:12], limits=limits, seconds=0.5)
    assert attack in {f.attack for f in findings if not f.passed}
    with pytest.raises(GuardError, match="the verifier"):
        require_sound(findings)


def test_time_that_grows_with_the_square_is_found():
    def quadratic(answer, gold):
        return answer == gold or (answer[:1] == "(" and sum(answer.count("#") for _ in answer[::4]) < 0)

    found = failures(quadratic, QUESTIONS[:12], GOLDS[:12], seconds=20.0)
    assert found == {"takes longer than lengths grow (exponent)"}


def test_few_answers_need_a_stated_limit():
    questions = [f"Question {i}?" for i in range(40)]
    golds = ["ABCD"[i % 4] for i in range(40)]
    assert "best constant" in failures(Choice(num_options=4), questions, golds)
    assert not failures(Choice(num_options=4), questions, golds, limits={"best constant": 0.3})


def test_a_reference_stands_in_for_a_gold_that_is_no_answer():
    questions = [f"Write {n} times a." for n in range(5, 25)]
    golds = [f"a{{{n}}}" for n in range(5, 25)]
    assert "gold" in failures(Regex(), questions, golds)
    assert not failures(Regex(), questions, golds, references=["a" * n for n in range(5, 25)])


def test_what_cannot_be_audited():
    with pytest.raises(DataError, match="too few"):
        audit(whole_number, QUESTIONS[:9], GOLDS[:9])
    with pytest.raises(ConfigError, match="Write 'best constant'"):
        audit(whole_number, QUESTIONS, GOLDS, limits={"best constnt": 0.5})
    with pytest.raises(ConfigError, match="no limit"):
        audit(whole_number, QUESTIONS, GOLDS, limits={"empty": float("nan")})


def test_the_refusal_names_the_cause_before_its_effects():
    effect = Finding("gold", 0.0, 1.0, True, "12", "right")
    cause = Finding("raises", 1.0, 0.0, False, "ValueError: no", "behaviour")
    with pytest.raises(GuardError, match=r"raises: 1 .*ValueError: no.*1 more findings"):
        require_sound([effect, cause])
    require_sound([])
