"""Any function as a verifier: its faults are counted, never a reward of 0 in silence."""

import random
import re
import threading
import time

import numpy as np
import pytest

from kweek.align.verifier import whole_number
from kweek.align.verifiers.function import FunctionVerifier, as_verifier
from kweek.errors import ConfigError
from kweek.protocols import Score

SECONDS = 0.4


def equal(answer, gold):
    return answer == gold


@pytest.mark.parametrize(
    ("result", "value"),
    [(True, 1.0), (False, 0.0), (0.25, 0.25), (1, 1.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0)],
)
def test_truths_and_numbers_are_judgements(result, value):
    verifier = as_verifier(lambda answer, gold: result)
    assert verifier("a", "b") == Score(value, parsed=True) and not verifier.faults


def test_scores_pass_through():
    score = Score(0.5, False, parts={"half": 0.5})
    assert as_verifier(lambda answer, gold: score)("a", "b") == score
    assert as_verifier(equal)("a", "a").value == 1.0


@pytest.mark.parametrize(
    ("function", "fault", "said"),
    [
        (lambda a, g: int(a), "raised", "ValueError"),
        (lambda a, g: None, "raised", "NoneType"),
        (lambda a, g: "1", "raised", "str"),
        (lambda a, g: float("nan"), "returned nonsense", "nan"),
        (lambda a, g: float("inf"), "returned nonsense", "inf"),
        (lambda a, g: 5, "returned nonsense", "outside 0 to 1"),
        (lambda a, g: -0.1, "returned nonsense", "outside 0 to 1"),
        (lambda a, g: Score(0.0, False, error="no server"), "own error", "no server"),
        (lambda a, g: time.sleep(60), "hung", "took over"),
        (lambda a, g: re.fullmatch("(a+)+", "a" * 60 + "!"), "hung", "took over"),
        (lambda a, g: __import__("os")._exit(1), "died", "died"),
    ],
)
def test_faults_are_errors_and_counted(function, fault, said):
    verifier = as_verifier(function, seconds=SECONDS)
    score = verifier("a", "b")
    assert score.value == 0.0 and said in score.error
    assert verifier.faults == {fault: 1} and verifier.calls == 1


def test_a_function_that_changes_its_mind_is_found():
    verifier = as_verifier(lambda answer, gold: random.random())
    scores = [verifier(str(i), "1") for i in range(64)]
    assert verifier.faults["changed its mind"] == sum(score.error is not None for score in scores) > 0


def test_own_verifiers_are_taken_as_they_are():
    assert as_verifier(whole_number) is whole_number
    with pytest.raises(ConfigError, match="must be a function"):
        FunctionVerifier("equal")


def test_counting_holds_among_threads():
    verifier = as_verifier(lambda answer, gold: 2)
    threads = [threading.Thread(target=lambda: [verifier("a", str(i)) for i in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verifier.calls == 80 and verifier.faults == {"returned nonsense": 80}


def test_whole_numbers_never_raise():
    assert whole_number("12", "12").value == 1.0
    score = whole_number("12", "twelve")
    assert score.value == 0.0 and score.error is not None
