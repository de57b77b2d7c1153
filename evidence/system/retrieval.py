"""Retrieval: 100,000 real passages, indexed and asked beside tantivy and bm25s in one run; then documents are
forgotten.

The passages are documentation and source of what is installed on this machine. Ours is timed from the files on the
disk to the sidecar, and from the words of a question to passages with text, place and checked hash; the others from
passages and words in memory to numbers of passages. All with one thread. Whether they find the same is measured on
20,000 passages and questions that were taken out of them (see kweek.system.memory.appraisal).
"""

from __future__ import annotations

import gc
import hashlib
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import evidence

from kweek.stats.intervals import bootstrap
from kweek.system.memory import analysis, bm25
from kweek.system.memory.appraisal import made_cases, question_of
from kweek.system.memory.chunks import spans
from kweek.system.memory.documents import WITH_HEADINGS
from kweek.system.memory.memory import Memory

PASSAGES, QUICK_PASSAGES = 100_000, 35_000
QUESTIONS, QUICK_QUESTIONS = 1000, 200
MOST_FILE_BYTES = 1 << 20
SUFFIXES = (".md", ".rst", ".txt", ".py")
MILLISECONDS, MB_PER_SECOND = 5.0, 3.0
FORGOTTEN = 5  # documents
OWN_LINES = 200  # of them that are sought by plain means, the longest; each is a search of all files

Search = Callable[[str, int], Sequence[int]]


def real_files() -> Iterator[Path]:
    """Text files of what is installed, in an order that mixes them and is the same every time."""
    folders = {sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib")} | {"/usr/share/doc"}
    found = {
        path
        for folder in folders
        for suffix in SUFFIXES
        for path in Path(folder).rglob(f"*{suffix}")
        if path.is_file()
    }
    yield from sorted(found, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())


def corpus(folder: Path, num_passages: int) -> dict[str, Any]:
    """Copy files until they make so many passages."""
    seen: set[bytes] = set()
    passages = size = 0
    for path in real_files():
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if not 200 < len(content) < MOST_FILE_BYTES or digest in seen:
            continue
        try:
            content.decode("utf-8")
        except UnicodeError:
            continue
        seen.add(digest)
        kind = "markdown" if path.suffix == ".md" else "text"
        passages += sum(1 for _ in spans(content, headings=kind in WITH_HEADINGS))
        size += len(content)
        (folder / f"{len(seen):06}{path.suffix}").write_bytes(content)
        if passages >= num_passages:
            break
    return {"files": len(seen), "bytes": size}


def questions(texts: Sequence[str], count: int) -> list[str]:
    """Sentences and headings of passages, and some words of passages as people type them; half of each."""
    draw = random.Random(0)
    found: list[str] = []
    for text in draw.sample(list(texts), len(texts)):
        words = analysis.asked(text)
        made = question_of(text)
        if made is None or len(words) < 12:
            continue
        found.append(made[0] if len(found) % 2 else " ".join(draw.sample(words, 3)))
        if len(found) == count:
            break
    return found


def tantivy_search(texts: Sequence[str], folder: Path) -> tuple[Search, float]:
    """tantivy on disk with its English stemmer; the question's words joined by OR."""
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", stored=False, tokenizer_name="en_stem")
    schema.add_integer_field("number", stored=True)
    began = time.perf_counter()
    index = tantivy.Index(schema.build(), path=str(folder))
    writer = index.writer(heap_size=256 << 20, num_threads=1)
    for number, text in enumerate(texts):
        writer.add_document(tantivy.Document(text=text, number=number))
    writer.commit()
    writer.wait_merging_threads()
    seconds = time.perf_counter() - began
    index.reload()
    searcher = index.searcher()

    def search(question: str, k: int) -> list[int]:
        query = index.parse_query(" ".join(analysis.asked(question)), ["text"])
        return [searcher.doc(place)["number"][0] for _, place in searcher.search(query, k).hits]

    return search, seconds


def bm25s_search(texts: Sequence[str]) -> tuple[Search, float]:
    """bm25s with Snowball stemming and its own English stop words."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    began = time.perf_counter()
    tokens = bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    seconds = time.perf_counter() - began

    def search(question: str, k: int) -> list[int]:
        asked = bm25s.tokenize(
            question, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
        )
        if not asked[0]:
            return []
        numbers, _ = index.retrieve(asked, k=k, show_progress=False, n_threads=0)
        return [int(number) for number in numbers[0]]

    return search, seconds


def database_alone(memory: Memory, question: str) -> list[int]:
    """What the sidecar replaces: the question asked of SQLite."""
    sought = " OR ".join(f'"{word}"' for word in analysis.asked(question))
    rows = memory.store.all("select rowid from words where words match ? order by rank limit 10", (sought,))
    return [chunk for (chunk,) in rows]


def timed(searches: dict[str, Callable[[str], Any]], asked: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds of every question with every engine, in turn."""
    took: dict[str, list[float]] = {name: [] for name in searches}
    names = list(searches)
    for question in asked[:20]:
        for search in searches.values():
            search(question)
    gc.disable()
    for number, question in enumerate(asked):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            searches[name](question)
            took[name].append(1000 * (time.perf_counter() - began))
    gc.enable()
    return took


def quality(memory: Memory, folder: Path, count: int) -> dict[str, Any]:
    """What each finds of questions that were taken out of their passages; ours by the sidecar too."""
    cases, place, _ = made_cases(memory.store, None, count, 20_000)
    rows = place.all("select id, text from chunks order by id")
    texts = [text.decode("utf-8") for _, text in rows]
    path = folder / "quality.bm25"
    bm25.build(place, path)
    sidecar = bm25.Sidecar(path, place.identity)
    theirs, _ = tantivy_search(texts, folder)
    numpy_based, _ = bm25s_search(texts)
    engines: dict[str, Search] = {
        "kweek": lambda q, k: [chunk for chunk, _ in sidecar.search(memory._terms(analysis.asked(q)), k)],
        "tantivy": lambda q, k: [number + 1 for number in theirs(q, k)],
        "bm25s": lambda q, k: [number + 1 for number in numpy_based(q, k)],
    }
    found: dict[str, Any] = {"passages": len(texts), "questions": len(cases)}
    for name, search in engines.items():
        ranks = []
        for case in cases:
            hits = [rank for rank, chunk in enumerate(search(case.text, 10), 1) if case.is_answer(chunk)]
            ranks.append(1 / hits[0] if hits else 0.0)
        found[name] = {
            "first": round(float(np.mean([rank == 1 for rank in ranks])), 4),
            "among_ten": round(float(np.mean([rank > 0 for rank in ranks])), 4),
            "mrr": round(float(np.mean(ranks)), 4),
        }
    return found


def forgetting(memory: Memory) -> dict[str, Any]:
    """Forget documents; then search the raw files by plain means for lines that only they had."""
    rows = memory.store.all("select d.id, d.name from documents d order by d.name limit ?", (FORGOTTEN,))
    lines = {line for number, _ in rows for line in memory.store.text(number).split(b"\n") if len(line) > 30}
    gone = {number for number, _ in rows}
    for (number,) in memory.store.all("select id from documents"):
        if number not in gone:
            lines -= set(memory.store.text(number).split(b"\n"))
    lines = set(sorted(lines, key=lambda line: (-len(line), line))[:OWN_LINES])

    def present() -> int:
        memory.store.rows.execute("pragma wal_checkpoint (full)")
        raw = [path.read_bytes() for path in memory.path.parent.glob(memory.path.name + "*")]
        return sum(any(line in content for content in raw) for line in lines)

    before = present()
    proof = memory.forget(*(name for _, name in rows))
    return {
        "documents": len(rows), "chunks": proof.chunks, "stretches_sought": proof.windows, "terms_sought": proof.terms,
        "proof_holds": proof.holds, "found": list(proof.found), "seconds": round(proof.seconds, 2),
        "own_lines": len(lines), "own_lines_in_raw_files_before": before, "own_lines_in_raw_files_after": present(),
        "files": proof.files,
    }  # fmt: skip


def percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3)}


def run(quick: bool) -> dict[str, Any]:
    """Index, ask, compare, forget."""
    with tempfile.TemporaryDirectory(prefix="kweek-retrieval-") as name:
        folder = Path(name)
        for inner in ("files", "tantivy", "quality"):
            (folder / inner).mkdir()
        made = corpus(folder / "files", QUICK_PASSAGES if quick else PASSAGES)
        began = time.perf_counter()
        memory = Memory(folder / "memory.db")
        added = memory.add(folder / "files")
        seconds = time.perf_counter() - began
        count = memory.store.num_chunks
        texts = [text.decode("utf-8") for (text,) in memory.store.all("select text from chunks order by id")]
        speed = added.text_bytes / seconds / 1e6
        print(f"indexed {count:,} passages, {speed:.1f} MB/s", file=sys.stderr)
        theirs, theirs_seconds = tantivy_search(texts, folder / "tantivy")
        numpy_based, numpy_seconds = bm25s_search(texts)
        asked = questions(texts, QUICK_QUESTIONS if quick else QUESTIONS)
        took = timed(
            {
                "kweek": lambda question: memory.search(question, 10),
                "tantivy": lambda question: theirs(question, 10),
                "bm25s": lambda question: numpy_based(question, 10),
                "kweek, without its sidecar": lambda question: database_alone(memory, question),
            },
            asked,
        )
        found = quality(memory, folder / "quality", 200 if quick else 1000)
        sizes = {path.name: path.stat().st_size for path in folder.glob("memory.db*")}
        forgotten = forgetting(memory)
        memory.close()
    median = bootstrap(took["kweek"], lambda values: float(np.median(values)))
    mega = added.text_bytes / 1e6
    return {
        "ours": {"median_ms": round(median.mid, 3), "index_mb_per_second": round(speed, 2)},
        "reference": {
            "tantivy": {"median_ms": round(statistics.median(took["tantivy"]), 3),
                        "index_mb_per_second": round(mega / theirs_seconds, 2)},
            "bm25s": {"median_ms": round(statistics.median(took["bm25s"]), 3),
                      "index_mb_per_second": round(mega / numpy_seconds, 2)},
        },
        "unit": "ms of a question for ten passages, MB of text indexed per second",
        "ratio": round(statistics.median(took["tantivy"]) / median.mid, 3),
        "interval": [round(median.lo, 3), round(median.hi, 3)],
        "n": len(asked),
        "seeds": [0],
        "passed": count >= (QUICK_PASSAGES if quick else PASSAGES)
        and median.mid < MILLISECONDS
        and speed >= MB_PER_SECOND
        and forgotten["proof_holds"]
        and forgotten["own_lines_in_raw_files_before"] > 0  # a line cut by a passage's end stands in two places
        and forgotten["own_lines_in_raw_files_after"] == 0,
        "details": {
            "passages": count, **made, "index_seconds": round(seconds, 1), "bytes_of_files": sizes,
            "milliseconds": {name: percentiles(values) for name, values in took.items()},
            "quality": found, "forgetting": forgotten,
        },
    }  # fmt: skip


evidence(
    "system/retrieval",
    claim="over 100,000 passages a question takes under 5 ms (median), indexing runs at 3 MB/s or more, beside "
    "tantivy and bm25s in one run; deletion leaves no byte of the document in database, log or sidecar",
    run=run,
)
