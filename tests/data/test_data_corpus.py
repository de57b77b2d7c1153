"""The whole way from a folder to three splits, checked with means of our own."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import pytest

from kweek.data.corpus import Settings, build, read_documents, write_corpus
from kweek.data.dedup import REMOVE_AT
from kweek.data.docstrings import documentation, python_package
from kweek.data.document import Document
from kweek.data.readers import read_folder
from kweek.data.split import SPLITS, Fractions
from kweek.errors import DataError, Interrupted
from kweek.store.artifact import Artifact, ArtifactWriter

STEMS = ("bee", "wax", "hive", "comb", "honey", "queen")
WORDS = [f"{stem}{ending}" for stem in STEMS for ending in ("", "s", "like", "ful", "ing", "y")]


def text_of(number: int, length: int = 60) -> str:
    return " ".join(random.Random(f"corpus{number}").choices(WORDS, k=length)) + "."


def settings(**weights: float) -> Settings:
    return Settings(weights or {"folder": 1.0}, min_train_bytes=1000, fractions=Fractions(0.1, 0.1))


def plain_shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} if words else set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with exact and near duplicates, boilerplate, junk, and one file that holds a good part."""
    root = tmp_path / "documents"
    root.mkdir()
    footer = "\nThis footer stands in every single file of the folder."
    for number in range(100):
        (root / f"{number:03}.txt").write_text(text_of(number) + footer)
        if number % 10 == 0:
            (root / f"{number:03}_copy.txt").write_text(text_of(number) + footer)
            (root / f"{number:03}_near.md").write_text(f"Wasps {text_of(number)}{footer}")
    (root / "big.txt").write_text("\n\n".join(text_of(number) for number in range(1000, 1150)))
    (root / "short.txt").write_text("too short")
    (root / "binary.txt").write_bytes(bytes(range(256)))
    return root


def test_the_whole_way(folder: Path, tmp_path: Path) -> None:
    rejected: list[object] = []
    corpus = build({"folder": read_folder(folder, reject=rejected.append)}, settings(), seed=0)
    with ArtifactWriter(tmp_path / "corpus", kind="corpus", fingerprint="f") as out:
        write_corpus(out, corpus)
    artifact = Artifact.open(tmp_path / "corpus", verify="hash")
    splits = {side: list(read_documents(artifact.file(f"{side}.parquet"))) for side in SPLITS}
    assert splits == corpus.splits
    assert len(rejected) == 1
    assert not any("footer" in d.text for found in splits.values() for d in found)
    rows = json.loads(artifact.file("funnel.json").read_text())
    assert rows == corpus.funnel.rows
    after = {row["step"]: row["documents"] for row in rows if row["step"] != "dropped"}
    dropped = {row["rule"]: row["documents"] for row in rows if row["step"] == "dropped"}
    assert dropped["too short"] == 1
    assert dropped["exact duplicate"] == 10
    assert dropped["near duplicate"] == 10
    assert after["read"] - dropped["too short"] == after["cleaned"]
    assert after["cleaned"] - dropped["exact duplicate"] == after["unique"]
    assert after["unique"] - dropped["near duplicate"] == after["distinct"]
    assert after["mixed"] == after["distinct"] == sum(len(found) for found in splits.values())
    removed = [json.loads(line) for line in artifact.file("duplicates.jsonl").read_text().splitlines()]
    assert len(removed) == dropped["near duplicate"]
    assert all(entry["similarity"] >= REMOVE_AT for entry in removed)
    assert artifact.metrics["train_documents"] == len(splits["train"])
    for side in ("validation", "test"):
        assert 0.05 < artifact.metrics[f"{side}_bytes"] / artifact.metrics["mixed_bytes"] < 0.25


def _greatest_similarity(splits: dict[str, list[Document]]) -> float:
    """The greatest Jaccard similarity of two documents in different splits, over all pairs that share a shingle."""
    sets = {d.id: plain_shingles(d.text) for found in splits.values() for d in found}
    side = {d.id: name for name, found in splits.items() for d in found}
    holders: dict[tuple[str, ...], list[str]] = {}
    for name, shingles in sets.items():
        for shingle in shingles:
            holders.setdefault(shingle, []).append(name)
    seen = {
        pair
        for found in holders.values()
        for pair in itertools.combinations(sorted(found), 2)
        if side[pair[0]] != side[pair[1]]
    }
    return max((len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in seen), default=0.0)


def test_no_near_duplicate_crosses_the_splits_of_real_text() -> None:
    """On the documentation of the standard library, where thousands of texts resemble each other."""
    found = list(documentation(python_package(), 700_000))
    assert _greatest_similarity({"a": found[::2], "b": found[1::2]}) >= REMOVE_AT  # else nothing is tested
    corpus = build({"python-docs": found}, settings(**{"python-docs": 1.0}), seed=0)
    assert _greatest_similarity(dict(corpus.splits)) < REMOVE_AT
    origins = [{d.origin for d in corpus.splits[side]} for side in SPLITS]
    assert not any(a & b for a, b in itertools.combinations(origins, 2))


def test_the_order_of_the_stream_does_not_matter(folder: Path) -> None:
    found = list(read_folder(folder, reject=lambda rejection: None))
    ids = {d.id for d in found}
    unique = [next(d for d in found if d.id == name) for name in sorted(ids)]
    first = build({"folder": unique}, settings(), seed=3)
    second = build({"folder": random.Random(1).sample(unique, len(unique))}, settings(), seed=3)
    assert first.splits == second.splits
    assert first.funnel.rows == second.funnel.rows


def test_another_seed_takes_other_documents_of_a_larger_choice(folder: Path) -> None:
    found = list(read_folder(folder, reject=lambda rejection: None))
    some = Settings({"folder": 1.0}, mix_bytes=20_000, min_train_bytes=1000, fractions=Fractions(0.1, 0.1))
    chosen = [
        {d.id for part in build({"folder": found}, some, seed=seed).splits.values() for d in part}
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_two_sources_are_mixed_by_weight_and_a_short_one_is_repeated(folder: Path) -> None:
    notes = [Document.of(text_of(5000 + i), source="notes", origin=f"n{i}") for i in range(40)]
    mixed = Settings(
        {"folder": 1.0, "notes": 1.0},
        mix_bytes=60_000,
        min_train_bytes=1000,
        max_repeats=8.0,
        fractions=Fractions(0.1, 0.1),
    )
    corpus = build(
        {"folder": read_folder(folder, reject=lambda rejection: None), "notes": notes}, mixed, seed=0
    )
    train = corpus.splits["train"]
    sizes = {name: sum(d.num_bytes for d in train if d.source == name) for name in ("folder", "notes")}
    assert sizes["notes"] == pytest.approx(sizes["folder"], rel=0.15)
    assert any("repeated" in note for note in corpus.notes)
    for side in ("validation", "test"):
        held_out = [d.id for d in corpus.splits[side]]
        assert len(held_out) == len(set(held_out))


def test_memory_is_bounded_and_what_is_over_is_counted() -> None:
    stream = (Document.of(text_of(i, 200), source="folder", origin=str(i)) for i in range(3000))
    held = Settings({"folder": 1.0}, hold_bytes=200_000, min_train_bytes=1000)
    corpus = build({"folder": stream}, held, seed=0)
    rows = {row.get("rule", row["step"]): row for row in corpus.funnel.rows}
    assert rows["read"]["documents"] == 3000
    assert rows["unique"]["bytes"] <= 200_000
    assert rows["over the limit of bytes held"]["documents"] == 3000 - rows["unique"]["documents"]


def test_too_little_says_how_much(folder: Path) -> None:
    stream = read_folder(folder, reject=lambda rejection: None)
    with pytest.raises(
        DataError, match=r"too small: [\d,]+ bytes .* of [\d,]+ read .*at least 9,000,000"
    ) as caught:
        build({"folder": stream}, Settings({"folder": 1.0}, min_train_bytes=9_000_000), seed=0)
    assert "Add documents" in str(caught.value)
    with pytest.raises(DataError, match="no usable document"):
        build({"folder": [Document.of("x", source="folder", origin="o")]}, settings(), seed=0)


def test_a_stop_is_heard_while_reading() -> None:
    endless = (Document.of(f"{i}", source="folder", origin="o") for i in itertools.count())
    answers = iter([False, False, True])
    with pytest.raises(Interrupted):
        build({"folder": endless}, settings(), seed=0, should_stop=lambda: next(answers))


def test_a_damaged_table_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read"):
        list(read_documents(tmp_path / "train.parquet"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_documents(tmp_path / "none.parquet"))
