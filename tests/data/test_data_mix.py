"""Mixing: by weight, by content, and honest about sources that are too small."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kweek.data.document import Document
from kweek.data.mix import Reservoir, keyed_order, mix, repeated
from kweek.errors import DataError


def documents(source: str, count: int, size: int = 100) -> list[Document]:
    return [
        Document.of(f"{source} {i} ".ljust(size, "x"), source=source, origin=str(i)) for i in range(count)
    ]


def bytes_of(found: list[Document], source: str) -> int:
    return sum(d.num_bytes for d in found if d.source == source)


def test_shares_are_those_of_the_weights() -> None:
    sources = {"a": documents("a", 500), "b": documents("b", 500)}
    mixed = mix(sources, {"a": 3.0, "b": 1.0}, budget=20_000, seed=0)
    assert bytes_of(mixed.documents, "a") == 15_000
    assert bytes_of(mixed.documents, "b") == 5_000
    assert not any(share.note for share in mixed.shares)


def test_without_a_budget_the_smallest_source_decides() -> None:
    sources = {"a": documents("a", 500), "b": documents("b", 100)}
    mixed = mix(sources, {"a": 1.0, "b": 1.0}, budget=None, seed=0)
    assert bytes_of(mixed.documents, "a") == bytes_of(mixed.documents, "b") == 10_000


def test_the_choice_depends_on_content_and_seed_only() -> None:
    source = documents("a", 300)
    shuffled = random.Random(3).sample(source, len(source))
    first = mix({"a": source}, {"a": 1.0}, budget=10_000, seed=5).documents
    assert first == mix({"a": shuffled}, {"a": 1.0}, budget=10_000, seed=5).documents
    assert first != mix({"a": source}, {"a": 1.0}, budget=10_000, seed=6).documents
    larger = mix({"a": source}, {"a": 1.0}, budget=15_000, seed=5).documents
    assert larger[: len(first)] == first


def test_an_endless_source_is_taken_in_its_own_order() -> None:
    def tasks() -> Iterator[Document]:
        for i in itertools.count():
            yield Document.of(f"{i}+{i}={2 * i}".ljust(50), source="tasks", origin="generated")

    mixed = mix({"a": documents("a", 100), "tasks": tasks()}, {"a": 0.4, "tasks": 0.6}, budget=10_000, seed=0)
    made = [d for d in mixed.documents if d.source == "tasks"]
    assert bytes_of(mixed.documents, "tasks") == 6_000
    assert made[7].text.strip() == "7+7=14"
    with pytest.raises(DataError, match="need a budget"):
        mix({"tasks": tasks()}, {"tasks": 1.0}, budget=None, seed=0)


def test_a_small_source_falls_short_or_is_repeated_and_says_so() -> None:
    sources = {"a": documents("a", 20), "b": documents("b", 500)}
    weights = {"a": 1.0, "b": 1.0}
    short = next(s for s in mix(sources, weights, budget=10_000, seed=0).shares if s.source == "a")
    assert (short.taken, short.repeats) == (2_000, 1.0)
    assert short.note == "source 'a' falls short: 2,000 of 5,000 bytes"
    often = next(
        s for s in mix(sources, weights, budget=10_000, seed=0, max_repeats=4).shares if s.source == "a"
    )
    assert often.repeats == 2.5
    assert often.note == "source 'a' is repeated 2.5 times"
    found = repeated(sources["a"], often.repeats, seed=0)
    assert len(found) == 50
    counts = [found.count(d) for d in sources["a"]]
    assert sorted(set(counts)) == [2, 3]


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": float("nan")}])
def test_weights_that_cannot_be_meant(weights: dict[str, float]) -> None:
    with pytest.raises(DataError):
        mix({"a": documents("a", 5), "b": documents("b", 5)}, weights, budget=100, seed=0)


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 900), st.randoms())
def test_a_reservoir_holds_the_first_in_keyed_order(
    numbers: list[int], room: int, rng: random.Random
) -> None:
    """Against the plain definition: unique texts, sorted by key, the longest beginning that fits."""
    offered = [Document.of(f"{n}".ljust(n, "y"), source="s", origin=f"{n}") for n in numbers]
    ordered = sorted({d.id: d for d in offered}.values(), key=lambda d: keyed_order(d.id, 7))
    expected, size = [], 0
    for d in ordered:
        size += d.num_bytes
        if size > room:
            break
        expected.append(d)
    rng.shuffle(offered)
    reservoir = Reservoir(room, 7)
    for d in offered:
        reservoir.add(d)
    assert {d.id for d in reservoir.documents()} == {d.id for d in expected}
    assert len(expected) + reservoir.num_duplicates + reservoir.num_over == len(offered)
