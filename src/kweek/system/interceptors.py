"""Which tool answers in the middle of a model's answers: the one its folder names, else the one its vocabulary has."""

from __future__ import annotations

from pathlib import Path

from kweek.protocols import TokenInterceptor
from kweek.store.files import read_json
from kweek.store.target import Target, write_json_in
from kweek.system.calculator import Calculator
from kweek.system.inline_calculator import InlineCalculator
from kweek.tokenize.chat import CALL, END_RESULT, RESULT
from kweek.tokenize.tokenizer import Tokenizer

FILE = "tools.json"
_INLINE = {"calculator": "inline"}


def say_inline_calculator(out: Target) -> None:
    """Note in a model's folder that it calls the calculator in its answers, as in <<48/2=24>>."""
    write_json_in(out, FILE, _INLINE)


def interceptor_of(model: Path, tokenizer: Tokenizer) -> TokenInterceptor | None:
    """The calculator that a model was taught to call, None for one that was taught none.

    Args:
        model: its folder, or a file without one.
    """
    if (model / FILE).is_file() and read_json(model / FILE) == _INLINE:
        return InlineCalculator(tokenizer)
    return Calculator(tokenizer) if {CALL, RESULT, END_RESULT} <= set(tokenizer.special) else None
