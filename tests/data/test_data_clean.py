"""Cleaning changes nothing for a reader, twice is once, and every rule for leaving out has its case."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data.clean import MIN_CHARS, Boilerplate, clean_text, fault
from kweek.data.document import Document

PROSE = (
    "The bee leaves the hive in the morning and returns with pollen on both of its legs.\n\n"
    "It dances for its sisters, and they learn from the dance where the flowers stand."
)


@given(st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    once.encode("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "Ångström saß in der Öde — «naïve»",
        "Москва: съешь ещё",
        "東京は夜の七時。",
        "नमस्ते दुनिया",
        "👩‍👩‍👧 ok",
    ],
)
def test_prose_of_any_script_is_left_alone(text: str) -> None:
    assert clean_text(text) == text


def test_what_is_not_text_goes() -> None:
    dirty = "\ufeffone\r\ntwo\rthree\u2028four \t\nfi\x00ve\x1b[0m\n\n\n\n\n\nsix\ud800\u00a0\n\n"
    assert clean_text(dirty) == "one\ntwo\nthree\nfour\nfive[0m\n\n\nsix"
    assert clean_text("cafe\u0301") == "café"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * (MIN_CHARS - 1), "too short"),
        ("+---+---+\n| = | = |\n" * 9, "mostly not text"),
        ("key " + "QUJD" * 60, "encoded or minified"),
        ("the same log line again\n" * 20 + "and another", "repeats itself"),
    ],
)
def test_every_rule_has_its_reason(text: str, reason: str) -> None:
    assert fault(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "def f(x):\n    return {k: v for k, v in x.items() if k not in ('a', 'b')}\n\n\nprint(f({'a': 1}))\n"
        * 2,
        "Москва — столица России, город федерального значения, административный центр области.",
        "東京は日本の首都である。" * 8,
        "ทุกคนเกิดมามีอิสระและเสมอภาคกันในศักดิ์ศรีและสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์",
        "See https://example.org/" + "page/" * 32 + " for more on this.",
    ],
)
def test_real_text_passes(text: str) -> None:
    assert fault(text) is None


def _page(number: int, words: list[str], footer: str) -> Document:
    body = " ".join(random.Random(number).choices(words, k=40))
    return Document.of(f"{body}\n{footer}\nshort line", source="s", origin=f"page{number}")


def test_lines_in_very_many_files_are_boilerplate() -> None:
    words = [
        "bee",
        "hive",
        "wax",
        "honey",
        "queen",
        "drone",
        "comb",
        "pollen",
        "nectar",
        "flower",
        "dance",
        "sting",
    ]
    footer = "Copyright the beekeepers of the valley, all rights are reserved."
    pages = [_page(number, words, footer if number < 30 else "") for number in range(60)]
    found = Boilerplate.find(pages)
    assert footer not in found.remove(pages[0]).text
    assert "short line" in found.remove(pages[0]).text
    assert found.remove(pages[40]) is pages[40]
    few = Boilerplate.find([_page(number, words, footer if number < 5 else "") for number in range(60)])
    assert footer in few.remove(pages[0]).text


def test_a_file_that_says_it_often_is_not_many_files() -> None:
    line = "a line of more than forty characters that one file repeats in every part"
    parts = [Document.of(f"{line}\npart {number}", source="s", origin="one.txt") for number in range(50)]
    assert Boilerplate.find(parts).remove(parts[0]) is parts[0]


def test_programs_keep_all_their_lines() -> None:
    line = "from collections.abc import Iterable, Iterator, Sequence"
    files = [
        Document.of(f"{line}\nx = {number}", source="s", origin=f"{number}.py", language="python")
        for number in range(50)
    ]
    assert Boilerplate.find(files).remove(files[0]) is files[0]
