"""Splits: nothing that belongs together is divided, whatever the files look like."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kweek.data.document import Document
from kweek.data.split import SPLITS, Fractions, assign


def documents(num_files: int, per_file: int = 3, size: int = 400, source: str = "s") -> list[Document]:
    return [
        Document.of(f"{source} {f} {i} ".ljust(size, "z"), source=source, origin=f"{source}{f}")
        for f in range(num_files)
        for i in range(per_file)
    ]


def share(found: list[Document], sides: dict[str, str], side: str) -> float:
    return sum(d.num_bytes for d in found if sides[d.id] == side) / sum(d.num_bytes for d in found)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 500)), min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=20),
)
def test_links_and_small_files_are_never_divided(
    shapes: list[tuple[int, int]], joined: list[tuple[int, int]]
) -> None:
    found = [
        Document.of(f"{i} ".ljust(size, "q"), source=f"s{origin % 3}", origin=str(origin))
        for i, (origin, size) in enumerate(shapes)
    ]
    links = [(found[a % len(found)].id, found[b % len(found)].id) for a, b in joined]
    sides = assign(found, links, Fractions(0.1, 0.1))
    assert set(sides) == {d.id for d in found}
    for a, b in links:
        assert sides[a] == sides[b]
    limit = 0.1 * sum(d.num_bytes for d in found)
    for origin in {d.origin for d in found}:
        members = [d for d in found if d.origin == origin]
        if sum(d.num_bytes for d in members) <= limit:
            assert len({sides[d.id] for d in members}) == 1


def test_shares_of_every_source_are_near_those_asked_for() -> None:
    found = documents(400) + documents(60, 1, 3_000, "code")
    sides = assign(found)
    for source in ("s", "code"):
        part = [d for d in found if d.source == source]
        for side in ("validation", "test"):
            assert 0.04 <= share(part, sides, side) <= 0.08


def test_a_document_keeps_its_side_when_others_join() -> None:
    found = documents(400)
    before, after = assign(found), assign(found + documents(100, source="new"))
    moved = sum(before[d.id] != after[d.id] for d in found)
    assert moved <= 0.02 * len(found)  # only at the border of what a side takes


def test_the_order_of_documents_does_not_matter() -> None:
    found = documents(100)
    assert assign(found) == assign(random.Random(2).sample(found, len(found)))


def test_one_book_is_dealt_out_piece_by_piece() -> None:
    book = documents(1, 60, 2_000)
    sides = assign(book)
    assert {sides[d.id] for d in book} == set(SPLITS)


def test_a_web_of_links_goes_to_training() -> None:
    found = documents(100, 1)
    web = [(found[i].id, found[i + 1].id) for i in range(40)]
    sides = assign(found, web)
    assert {sides[d.id] for d in found[:41]} == {"train"}
    assert set(sides.values()) == set(SPLITS)
