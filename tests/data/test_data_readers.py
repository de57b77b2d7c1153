"""Folders as people really have them: every format and encoding, and everything that can be wrong with a file."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kweek.data.document import Document
from kweek.data.readers import LONG_DOCUMENT_CHARS, PIECE_CHARS, Rejection, cut, read_folder
from kweek.errors import DataError

PROSE = "The bee leaves the hive in the morning and comes back with pollen on its legs. " * 3
GERMAN = "Die Bäuerin prüft früh die Stöcke, öffnet sie behutsam und zählt die Königinnen. " * 3
RUSSIAN = "Пчела вылетает из улья утром и возвращается с пыльцой на лапках. " * 4


def read(folder: Path) -> tuple[list[Document], dict[str, str]]:
    """Documents and reasons by path."""
    rejections: list[Rejection] = []
    documents = list(read_folder(folder, reject=rejections.append))
    return documents, {rejection.path: rejection.reason for rejection in rejections}


def texts(folder: Path) -> dict[str, str]:
    return {d.origin: d.text for d in read(folder)[0]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.txt").write_text(PROSE)
    return tmp_path


def reason(folder: Path, name: str) -> str:
    """Why `name` was rejected; the good file beside it must have been read."""
    documents, reasons = read(folder)
    assert [d.origin for d in documents] == ["good.txt"]
    return reasons[name]


# What is read


def test_every_format(tmp_path: Path) -> None:
    for suffix in ("txt", "md", "rst", "py"):
        (tmp_path / f"a.{suffix}").write_text(PROSE)
    (tmp_path / "a.html").write_text(f"<html><script>no</script><p>{PROSE}</p></html>")
    lines = [
        {"text": PROSE, "license": "MIT", "language": "en"},
        {"content": GERMAN},
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [{"text": "Hello"}]},
            ]
        },
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    pq.write_table(pa.table({"n": [1, 2], "text": [PROSE, RUSSIAN]}), tmp_path / "a.parquet")
    documents, reasons = read(tmp_path)
    assert not reasons
    by_origin: dict[str, list[Document]] = {}
    for d in documents:
        by_origin.setdefault(d.origin, []).append(d)
    assert sorted(by_origin) == ["a.html", "a.jsonl", "a.md", "a.parquet", "a.py", "a.rst", "a.txt"]
    assert by_origin["a.txt"][0].text == PROSE
    assert by_origin["a.py"][0].language == "python"
    assert by_origin["a.html"][0].text == PROSE.strip()
    chats = by_origin["a.jsonl"]
    assert [d.text for d in chats] == [PROSE, GERMAN, "User: Hi\n\nAssistant: Hello"]
    assert (chats[0].licence, chats[0].language) == ("MIT", "en")
    assert [d.text for d in by_origin["a.parquet"]] == [PROSE, RUSSIAN]


def test_every_format_packed(tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": [PROSE]}), table)
    contents = {
        "a.txt": PROSE.encode(),
        "b.html": f"<p>{PROSE}".encode(),
        "c.jsonl": json.dumps({"text": PROSE}).encode(),
        "d.parquet": table.getvalue(),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content[:50]) + gzip.compress(content[50:]))
        packer = zstandard.ZstdCompressor()
        (tmp_path / f"{name}.zst").write_bytes(packer.compress(content[:50]) + packer.compress(content[50:]))
    documents, reasons = read(tmp_path)
    assert not reasons
    assert len(documents) == 8
    assert {d.text.strip() for d in documents} == {PROSE.strip()}


def test_mixed_encodings(tmp_path: Path) -> None:
    cases = {
        "utf8.txt": RUSSIAN.encode(),
        "mark.txt": GERMAN.encode("utf-8-sig"),
        "little.txt": b"\xff\xfe" + RUSSIAN.encode("utf-16-le"),
        "big.txt": b"\xfe\xff" + RUSSIAN.encode("utf-16-be"),
        "windows.txt": f"“{GERMAN}”".encode("cp1252"),
        "latin.txt": GERMAN.encode("latin-1"),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    found = texts(tmp_path)
    assert {found[name] for name in ("utf8.txt", "little.txt", "big.txt")} == {RUSSIAN}
    assert {found[name] for name in ("mark.txt", "latin.txt")} == {GERMAN}
    assert found["windows.txt"] == f"“{GERMAN}”"


def test_utf8_with_a_few_damaged_bytes_is_not_taken_for_western(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(GERMAN.encode()[:100] + b"\xff\xc3" + GERMAN.encode()[100:])
    (text,) = texts(tmp_path).values()
    assert "prüft" in text
    assert "Ã" not in text


def test_the_order_on_disk_does_not_matter(tmp_path: Path) -> None:
    names = [f"{group}/{number}.txt" for group in "ba" for number in (3, 1, 2)]
    for tree, ordered in (("one", names), ("two", names[::-1])):
        for name in ordered:
            path = tmp_path / tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {PROSE}")
    assert read(tmp_path / "one") == read(tmp_path / "two")
    assert [d.origin for d in read(tmp_path / "one")[0]] == sorted(names)


def test_deep_folders_and_odd_names(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(150):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x.txt").write_text(PROSE)
    with open(os.fsencode(tmp_path) + b"/caf\xe9 \n.txt", "w") as file:
        file.write(PROSE)
    found = texts(tmp_path)
    assert len(found) == 2
    assert "caf\\xe9 \n.txt" in found


# Long texts


@given(st.text(alphabet="ab \n", max_size=300), st.integers(1, 400), st.integers(1, 40))
def test_cutting_loses_nothing(text: str, times: int, block: int) -> None:
    whole = text * times
    step = max(1, len(whole) // block)
    pieces = list(cut(whole[i : i + step] for i in range(0, len(whole), step)))
    assert "".join(pieces).rstrip() == whole.rstrip()
    if len(whole) > LONG_DOCUMENT_CHARS:
        assert all(PIECE_CHARS <= len(piece) <= 2 * PIECE_CHARS for piece in pieces[:-1])
    elif whole.strip():
        assert pieces == [whole]


def test_long_texts_are_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"{number}. {PROSE}" for number in range(1000)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    documents, _ = read(tmp_path)
    assert {d.origin for d in documents} == {"book.txt"}
    assert [d.metadata["part"] for d in documents] == list(range(len(documents)))
    assert [part for d in documents for part in d.text.rstrip("\n").split("\n\n")] == paragraphs


# What is wrong with files


def test_a_missing_or_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "none")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"no file that can be read.*\.parquet"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl"])
@pytest.mark.parametrize(
    "content", [bytes(range(256)) * 40, b"\x7fELF\x02\x01" + os.urandom(4000), b"\x01\x02\x03\x04text" * 50]
)
def test_binary_content(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert reason(folder, name).startswith(("binary content", "in no known encoding"))


def test_an_unknown_encoding(folder: Path) -> None:
    (folder / "a.txt").write_bytes(RUSSIAN.encode("koi8-r"))
    assert "no known encoding" in reason(folder, "a.txt")


def test_an_empty_file(folder: Path) -> None:
    (folder / "a.txt").touch()
    assert reason(folder, "a.txt") == "the file is empty"


def _zst(content: bytes) -> bytes:
    """With a checksum, as the command line tool writes it."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


@pytest.mark.parametrize(("packing", "pack"), [("gz", gzip.compress), ("zst", _zst)])
@pytest.mark.parametrize("suffix", ["txt", "jsonl", "html"])
def test_nothing_of_a_damaged_archive_is_used(
    folder: Path, packing: str, pack: Callable[[bytes], bytes], suffix: str
) -> None:
    rng_lines = [json.dumps({"text": f"{i} {os.urandom(30).hex()} {PROSE}"}) for i in range(3000)]
    packed = pack("\n".join(rng_lines).encode())
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    for name, content in (
        ("cut", packed[: len(packed) * 2 // 3]),
        ("broken", bytes(broken)),
        ("no", b"text" * 9),
    ):
        (folder / f"{name}.{suffix}.{packing}").write_bytes(content)
        assert "archive is" in reason(folder, f"{name}.{suffix}.{packing}")


@pytest.mark.parametrize(("packing", "why"), [("gz", "line of over"), ("zst", "over 1100 times its size")])
def test_a_bomb_is_stopped(folder: Path, packing: str, why: str) -> None:
    """Many blanks in little; deflate cannot pack tighter than its limit, so there the line is what ends it."""
    chunk = b" " * (1 << 20)
    path = folder / f"a.txt.{packing}"
    opener = gzip.open if packing == "gz" else zstandard.open
    with opener(path, "wb") as file:
        for _ in range(256):
            file.write(chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert why in reason(folder, path.name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_zst_without_its_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.txt.zst").write_bytes(zstandard.compress(PROSE.encode()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "pip install 'kweek[zst]'" in reason(folder, "a.txt.zst")


def test_a_line_without_end(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"a " * (1 << 20))
    (folder / "b.html").write_bytes(b"a " * (5 << 20))
    (folder / "c.jsonl").write_bytes(b'{"text": "' + b"a " * (5 << 20) + b'"}\n{"text": "b"}')
    documents, reasons = read(folder)
    assert "line of over 1,048,576" in reasons["a.txt"]
    assert "a page of 10,485,760" in reasons["b.html"]
    assert "record of over" in reasons["c.jsonl:1"]
    assert [d.text for d in documents] == ["b", PROSE]


def test_broken_records_are_named_by_line(folder: Path) -> None:
    lines = [
        '{"text": "one"}',
        "{",
        "[1]",
        '{"text": 5}',
        '{"other": "x"}',
        "",
        '{"messages": ["x"]}',
        '{"text": "two"}',
    ]
    (folder / "a.jsonl").write_text("\n".join(lines))
    documents, reasons = read(folder)
    assert [d.text for d in documents] == ["one", "two", PROSE]
    assert list(reasons) == [f"a.jsonl:{n}" for n in (2, 3, 4, 5, 7)]
    assert "not valid JSON" in reasons["a.jsonl:2"]


def test_bad_tables(folder: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), folder / "columns.parquet")
    pq.write_table(pa.table({"text": [PROSE * 20] * 200}), folder / "whole.parquet", compression="none")
    whole = (folder / "whole.parquet").read_bytes()
    (folder / "whole.parquet").unlink()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.parquet").write_bytes(PROSE.encode())
    _, reasons = read(folder)
    assert "no column 'text'" in reasons["columns.parquet"]
    assert "not a readable Parquet" in reasons["cut.parquet"]
    assert "not a readable Parquet" in reasons["noise.parquet"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")  # opening it would wait for ever
    with socket.socket(socket.AF_UNIX) as endpoint:
        here = Path.cwd()
        os.chdir(folder)  # socket paths are short
        try:
            endpoint.bind("s.txt")
        finally:
            os.chdir(here)
        _, reasons = read(folder)
    (folder / "null.txt").symlink_to("/dev/zero")
    assert reasons["pipe.txt"] == reasons["s.txt"] == "not a file (a pipe, socket or device)"
    assert read(folder)[1]["null.txt"] == "not a file (a pipe, socket or device)"


def test_symbolic_links(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    (folder / "gone.txt").symlink_to(folder / "nothing.txt")
    (folder / "sub" / "also.txt").symlink_to(folder / "good.txt")
    documents, reasons = read(folder)
    assert sorted(d.origin for d in documents) == ["good.txt", "sub/also.txt"]
    assert "not followed" in reasons["sub/loop"]
    assert "in a circle" in reasons["self.txt"]
    assert "in a circle" in reasons["gone.txt"]


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Permissions do not bind the superuser, so the test steps down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of another kind here")
def test_what_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "good.txt").write_text(PROSE)
        (folder / "secret.txt").write_text(PROSE)
        (folder / "closed").mkdir()
        (folder / "closed" / "x.txt").write_text(PROSE)
        (folder / "secret.txt").chmod(0)
        (folder / "closed").chmod(0)
        with _as_nobody():
            documents, reasons = read(folder)
        assert [d.origin for d in documents] == ["good.txt"]
        assert reasons["secret.txt"] == "cannot be read (Permission denied)"
        assert reasons["closed"] == "the folder cannot be listed (Permission denied)"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that gives an I/O error")
def test_an_input_error_in_the_middle(folder: Path) -> None:
    (folder / "a.txt").symlink_to("/proc/self/mem")  # a regular file whose first page cannot be read
    assert "cannot be read" in reason(folder, "a.txt")


def test_hidden_folders_are_passed_over(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "x.txt").write_text(PROSE)
    assert reason(folder, ".git") == "a hidden folder"
