"""Near duplicates against an implementation that shares nothing with ours: sets of strings, all pairs."""

from __future__ import annotations

import itertools
import random
import re
import sysconfig

import numpy as np
import pytest

from kweek.data.dedup import (
    LINK_AT,
    REMOVE_AT,
    candidate_pairs,
    deduplicate,
    jaccard,
    shingles,
    signatures,
)
from kweek.data.docstrings import Package, documentation
from kweek.data.document import Document

WORDS = [f"word{number}" for number in range(4000)]


def plain_shingles(text: str) -> set[tuple[str, ...]]:
    """Five-word shingles without hashing or vectors."""
    words = re.findall(r"[^\W_]+", text.lower())
    if not words:
        return set()
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def plain_jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    return len(a & b) / len(a | b) if a and b else 0.0


def text_of(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(f"text{seed}").choices(WORDS, k=length))


def edited(text: str, share: float, seed: int) -> str:
    """The text with a share of its words replaced."""
    rng = random.Random(f"edit{seed}")
    return " ".join(rng.choice(WORDS) if rng.random() < share else word for word in text.split())


def document(text: str, name: str = "") -> Document:
    return Document.of(text, source="s", origin=name or text[:20])


@pytest.fixture(scope="module")
def real() -> list[Document]:
    """Documentation of some packages of the standard library, where near duplicates abound."""
    from pathlib import Path

    package = Package("python", Path(sysconfig.get_path("stdlib")) / "asyncio", "PSF-2.0", "")
    other = Package("python", Path(sysconfig.get_path("stdlib")) / "email", "PSF-2.0", "")
    texts = {d.id: d for p in (package, other) for d in documentation(p, 10**9)}
    return list(texts.values())


def test_similarity_is_that_of_plain_sets(real: list[Document]) -> None:
    texts = [d.text for d in real[:150]]
    ours, plain = shingles(texts), [plain_shingles(text) for text in texts]
    for a, b in itertools.combinations(range(len(texts)), 2):
        assert jaccard(ours[a], ours[b]) == pytest.approx(plain_jaccard(plain[a], plain[b]))


def test_nothing_alike_remains_and_nothing_unlike_goes(real: list[Document]) -> None:
    documents = [*real, *(document(edited(d.text, 0.03, i), d.origin) for i, d in enumerate(real[:100]))]
    result = deduplicate(documents)
    assert len(result.kept) + len(result.removed) == len(documents)
    assert len(result.removed) > 40
    sets = {d.id: plain_shingles(d.text) for d in documents}
    kept = {d.id for d in result.kept}
    for removal in result.removed:
        assert removal.kept_id in kept
        assert plain_jaccard(sets[removal.id], sets[removal.kept_id]) >= REMOVE_AT
    for a, b in itertools.combinations(sorted(kept), 2):
        assert plain_jaccard(sets[a], sets[b]) < REMOVE_AT


def test_recall_of_candidates() -> None:
    texts = [text_of(number) for number in range(300)]
    copies = [edited(text, 0.04, number) for number, text in enumerate(texts)]
    sets = shingles(texts + copies)
    pairs = {tuple(pair) for pair in candidate_pairs(signatures(sets)).tolist()}
    alike = [i for i in range(300) if jaccard(sets[i], sets[300 + i]) >= REMOVE_AT]
    assert len(alike) > 100
    assert sum((i, 300 + i) in pairs for i in alike) >= 0.99 * len(alike)


def test_a_chain_does_not_take_the_far_end_along() -> None:
    words = WORDS[:400]
    a, b, c = (" ".join(words[start : start + 200 + extra]) for start, extra in ((0, 2), (25, 1), (50, 0)))
    sets = [plain_shingles(text) for text in (a, b, c)]
    assert plain_jaccard(sets[0], sets[1]) > REMOVE_AT < plain_jaccard(sets[1], sets[2])
    assert LINK_AT < plain_jaccard(sets[0], sets[2]) < REMOVE_AT
    result = deduplicate([document(text, text[:30]) for text in (c, b, a)])
    assert {d.text for d in result.kept} == {a, c}
    assert {frozenset(link) for link in result.links} == {frozenset(d.id for d in result.kept)}


def test_the_order_of_documents_does_not_matter(real: list[Document]) -> None:
    shuffled = random.Random(1).sample(real, len(real))
    first, second = deduplicate(real), deduplicate(shuffled)
    assert {d.id for d in first.kept} == {d.id for d in second.kept}
    assert first.removed == second.removed
    assert first.links == second.links


@pytest.mark.parametrize(
    "text",
    [
        "Москва столица России и крупнейший по численности населения город страны и её субъект",
        "東京は日本の首都であり世界最大の都市圏を形成している関東地方に位置する都市である",
        "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας και η μεγαλύτερη πόλη της χώρας σήμερα",
        "نص عربي طويل بما يكفي ليحتوي على أكثر من خمس كلمات في جملة واحدة مفيدة",
    ],
)
def test_every_script_has_shingles(text: str) -> None:
    original, other = shingles([text, text[len(text) // 2 :] + " " + text[: len(text) // 3]])
    assert len(original) >= 5
    assert jaccard(original, shingles([text.upper() + "!!!"])[0]) == 1.0
    assert jaccard(original, other) < 1.0


def test_texts_without_words_are_no_duplicates_of_each_other() -> None:
    result = deduplicate([document(text, text) for text in ("", "...", "!?!", "--- ---", "a", "b", "a b c")])
    assert not result.removed


def test_boilerplate_does_not_make_the_work_quadratic() -> None:
    common = text_of(0, 40)
    documents = [document(f"{common} {text_of(number + 1, 30)}", str(number)) for number in range(2000)]
    result = deduplicate(documents)
    assert result.num_candidates < 2000 * 24 * 10
    assert len(result.kept) > 1900


def test_similarity_of_empty_sets_is_nothing() -> None:
    empty = np.empty(0, np.uint64)
    assert jaccard(empty, empty) == 0.0
