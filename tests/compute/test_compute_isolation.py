"""Functions apart: whatever they do ends with them, and the next call works."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from kweek.compute.isolation import Failure, Isolated, importable_name

SECONDS = 0.4


def double(value):
    return 2 * value


def where(value):
    return os.getpid()


def test_functions_with_and_without_a_name_give_their_results():
    assert importable_name(json.loads) == "json:loads"
    assert importable_name(lambda x: x) is None and importable_name([].append) is None
    factor = 3
    assert Isolated(json.loads)('[1, {"a": null}]') == [1, {"a": None}]  # a fresh process
    closure = Isolated(lambda value: factor * value)  # a fork
    assert [closure(2), closure(5)] == [6, 15]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda value: 1 // 0, "raised"),
        (lambda value: {1, 2}, "raised"),  # no JSON
        (lambda value: sys.exit(0), "raised"),
        (lambda value: time.sleep(60), "hung"),
        (lambda value: os._exit(0), "died"),
        (lambda value: os.kill(os.getpid(), signal.SIGSEGV), "died"),
        (lambda value: bytearray(4 << 30), "raised"),  # the kernel refuses the memory
    ],
)
def test_what_goes_wrong_is_said(function, kind):
    apart = Isolated(lambda value: function(value) if value else "well", seconds=SECONDS)
    with pytest.raises(Failure) as caught:
        apart(1)
    assert caught.value.kind == kind
    assert apart(0) == "well"


def test_a_regular_expression_that_never_returns_is_ended_in_any_thread():
    import re

    apart = Isolated(lambda value: bool(re.fullmatch("(a+)+", value)), seconds=SECONDS)
    said = []

    def work():
        try:
            apart("a" * 60 + "!")
        except Failure as error:
            said.append(error.kind)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert said == ["hung"]


def test_calls_from_many_threads_do_not_mix():
    apart = Isolated(lambda value: [value, value * value])
    found = {}

    def work(start):
        for value in range(start, start + 50):
            found[value] = apart(value)

    threads = [threading.Thread(target=work, args=(50 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {value: [value, value * value] for value in range(200)}


def test_what_a_function_prints_is_no_answer(capfd):
    assert Isolated(lambda value: print("noise", flush=True) or value)(7) == 7
    assert capfd.readouterr().out == ""


def test_a_fork_of_the_user_starts_workers_of_its_own():
    inner = Isolated(where)
    mine = inner(0)
    theirs = Isolated(lambda value: inner(value))(0)
    assert theirs not in (mine, os.getpid()) and inner(0) == mine


def test_workers_end_with_a_parent_that_was_killed():
    script = (
        "import os, sys, time\n"
        "from kweek.compute.isolation import Isolated\n"
        "apart = Isolated(lambda value: os.getpid() if value else time.sleep(600), seconds=600)\n"
        "print(apart(1), flush=True)\n"
        "apart(0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(300):
        if not _alive(worker):
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent")


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # a zombie that nobody waits for is dead
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"
