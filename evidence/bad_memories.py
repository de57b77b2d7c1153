"""Memories and documents that are broken: an index that is damaged, files that are no memory, PDFs that loop."""

from __future__ import annotations

import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import ROOT

sys.path.insert(0, str(ROOT / "tests" / "system" / "memory"))

from memory_files import assemble, pdf

from kweek.errors import StoreError
from kweek.system.memory import bm25
from kweek.system.memory.documents import BadFile, Reader, file_hash
from kweek.system.memory.memory import Memory

SECONDS = 2.0  # that a PDF may take here
PATIENCE = 60.0  # more than that, and it was not held to it, on a busy machine too
FLIPS = 40
WORDS = ("bridge", "river", "lamp", "harbour", "stone")


def memory_cases() -> dict[str, str]:
    """What was wrong with each case, empty where nothing was."""
    cases: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        documents = place / "documents"
        documents.mkdir()
        for number in range(60):
            text = f"{WORDS[number % 5]} number {number} stands in town {number // 5}.\n"
            (documents / f"{number}.txt").write_text(text * 20)
        with Memory(place / "whole.db") as memory:
            memory.add(documents)
            expected = _found(memory)
        whole = (place / "whole.db").read_bytes()
        for name, spoil in SPOILT.items():
            cases[f"index: {name}"] = _rebuilt(place / f"{len(cases)}.db", whole, spoil, expected)
        cases[f"index: {FLIPS} single bytes"] = _flipped(place / "flip.db", whole, expected)
        cases["index: no database"] = _refused(place / "none.db", b"no database at all" * 1000)
        cases["index: cut in half"] = _refused(place / "half.db", whole[: len(whole) // 2])
        for name, content in PDFS.items():
            cases[f"PDF: {name}"] = _ended(place / "loop.pdf", content)
    return cases


#: What is done to the index behind the memory's back.
SPOILT = {
    "words overwritten": "update words_data set block = x'00ff00ff' where id > 10",
    "words emptied": "delete from words_data where id > 10",
    "words without their head": "update words_data set block = x'00' where id = 10",
}


def _pages_within_pages() -> bytes:
    """A tree of pages whose branch is itself."""
    return assemble([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 9/Kids[2 0 R 2 0 R]>>"])


def _form_within_itself() -> bytes:
    """A page that draws a form that draws itself, twice."""
    form = b"/F Do /F Do"
    return assemble(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 5 0 R/Resources<</XObject<</F 4 0 R>>>>>>",
            b"<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F 4 0 R>>>>/Length %d>>"
            b"stream\n%s\nendstream" % (len(form), form),
            b"<</Length 5>>stream\n/F Do\nendstream",
        ]
    )


PDFS = {
    "minutes of work": pdf(["Words."] * 40, extra=b"q Q " * 400_000),
    "pages within pages": _pages_within_pages(),
    "a form within itself": _form_within_itself(),
}


def _found(memory: Memory) -> list[list[str]]:
    return [[passage.text for passage in memory.search(f"{word} town", 20)] for word in WORDS]


def _rebuilt(path: Path, whole: bytes, spoil: str, expected: list[list[str]]) -> str:
    """What is wrong with a memory whose index was damaged: it must be noticed, and made anew from its documents."""
    path.write_bytes(whole)
    rows = sqlite3.connect(path)
    rows.execute(spoil)
    rows.commit()
    rows.close()
    bm25.path_of(path).unlink(missing_ok=True)
    try:
        with Memory(path) as memory:
            noticed = bool(memory.check().faults)
            found = _found(memory)
            sound = memory.check(repair=True).sound
    except StoreError as error:
        return f"refused: {error}"
    if not noticed:
        return "not noticed"
    return "" if found == expected and sound else f"sound {sound}, as before {found == expected}"


def _flipped(path: Path, whole: bytes, expected: list[list[str]]) -> str:
    """What is wrong where single bytes of the file are others: it must say so, or give what was stored."""
    rng, wrong = random.Random(0), []
    stored = {text for texts in expected for text in texts}
    for _ in range(FLIPS):
        content, place = bytearray(whole), rng.randrange(len(whole))
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            with Memory(path) as memory:
                strange = {text for texts in _found(memory) for text in texts} - stored
        except StoreError:
            continue
        except Exception as error:
            wrong.append(f"byte {place}: {type(error).__name__}: {error}")
            continue
        if strange:
            wrong.append(f"byte {place}: gave {next(iter(strange))[:60]!r}")
    return "; ".join(wrong[:5])


def _refused(path: Path, content: bytes) -> str:
    """What is wrong with a file that had to be refused."""
    path.write_bytes(content)

    def use() -> None:
        with Memory(path) as memory:
            if memory.check().sound:
                raise AssertionError
            _found(memory)

    return _one_line(use, StoreError)


def _ended(path: Path, content: bytes) -> str:
    """What is wrong with a PDF that had to end in time, in a reason or in text."""
    path.write_bytes(content)
    reader, started = Reader(seconds=SECONDS), time.monotonic()
    try:
        wrong = _one_line(lambda: reader.read(path, file_hash(path)), BadFile)
    finally:
        reader.close()
    took = time.monotonic() - started
    return wrong or ("" if took < SECONDS + PATIENCE else f"took {took:.0f} s")


def _one_line(use: Callable[[], object], expected: type[Exception]) -> str:
    try:
        use()
    except expected as error:
        return "" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken as good"
