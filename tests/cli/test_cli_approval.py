"""A person at a terminal is asked, and sees what is asked."""

import pytest

from kweek.cli.approval import ask
from kweek.system.tools import Question


def asked(*lines, text="a\x1b[2Jb\u202ec"):
    given = iter(lines)

    def read(prompt):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    question = Question("note", {"text": text}, frozenset({"write"}), "this system asks before write")
    return ask(question, read)


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (["y"], "once"),
        (["A"], "always"),
        (["n"], "deny"),
        ([""], "deny"),
        ([], "deny"),
        (["what", "y"], "once"),
    ],
)
def test_answers(lines, verdict):
    assert asked(*lines) == verdict


def test_what_is_shown_cannot_hide_anything(capsys):
    asked("n")
    shown = capsys.readouterr().err
    assert "note (write): this system asks before write." in shown
    assert "\x1b" not in shown and "\u202e" not in shown and "\\u001b" in shown and "\\u202e" in shown
    asked("n", text="x" * 5000)
    assert "more characters not shown" in capsys.readouterr().err
