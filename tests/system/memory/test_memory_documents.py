"""Files as documents: every kind, and what is wrong with them. Bombs and loops end, with a reason."""

import hashlib
import json
import time
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_files import SPACE, docx, pdf, word_xml

from kweek.data.streams import BadFile
from kweek.system.memory import docx as docx_module
from kweek.system.memory.documents import Reader, file_hash, shown_source
from kweek.system.memory.docx import MAX_XML_BYTES, read_docx
from kweek.system.memory.pdf import read_pdf


@pytest.fixture
def reader():
    reader = Reader()
    yield reader
    reader.close()


def read(reader, path):
    return reader.read(path, file_hash(path))


@pytest.mark.parametrize(
    ("name", "content", "kind", "own"),
    [
        ("a.txt", "Zürich lies on a lake.\r\n", "text", True),
        ("a.md", "# Title\n\ntext", "markdown", True),
        ("a.rst", "Title\n=====\n\ntext", "text", True),
        ("a.py", '"""What it does."""\n', "text", True),
        ("a.html", "<html><body><p>One &amp; two</p><script>no</script></body></html>", "html", False),
    ],
)
def test_text_is_read_as_it_stands(reader, tmp_path, name, content, kind, own):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    found = read(reader, path)
    assert (found.kind, found.about["own_bytes"]) == (kind, own)
    assert found.text.decode() == (content if own else "One & two")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_other_encodings_become_utf8_and_say_so(reader, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("naïve café".encode("utf-16"))
    found = read(reader, path)
    assert found.text.decode() == "naïve café" and not found.about["own_bytes"]


def test_pages_of_a_pdf_are_known(reader, tmp_path):
    pytest.importorskip("pypdfium2")
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(["First page of it.", "Second page of it.", "Third (last) page."]))
    found = read(reader, path)
    assert found.text.decode().split("\n\n")[:3] == [
        "First page of it.",
        "Second page of it.",
        "Third (last) page.",
    ]
    at = found.text.index(b"Second")
    about = json.dumps(found.about)
    assert shown_source("a.pdf", about, at) == "a.pdf#page=2"
    assert shown_source("a.pdf", about, 0) == "a.pdf#page=1" and shown_source("a.txt", "{}", 5) == "a.txt"


@pytest.mark.parametrize("content", [b"", b"%PDF-1.4\nnothing", b"no pdf at all", pdf(["   "])])
def test_a_pdf_that_is_none_or_has_no_text_gets_a_reason(reader, tmp_path, content):
    pytest.importorskip("pypdfium2")
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"no valid PDF|holds no text"):
        read(reader, path)


def test_a_reading_that_does_not_end_is_ended(tmp_path):
    pytest.importorskip("pypdfium2")
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(["Words."] * 40, extra=b"q Q " * 400_000))  # some minutes of work
    reader = Reader(seconds=0.2)
    began = time.monotonic()
    with pytest.raises(BadFile, match="does not end"):
        read(reader, path)
    assert time.monotonic() - began < 60
    path.write_bytes(pdf(["Now it is short."]))
    slow = Reader()
    assert b"Now it is short." in read(slow, path).text  # the next one is read
    reader.close()
    slow.close()


def test_word_documents_keep_headings_tables_and_notes(reader, tmp_path):
    path = tmp_path / "a.docx"
    xml = word_xml(
        ("Heading1", "Opening hours"),
        (None, "From nine."),
        ("berschrift2", "Sundays"),
        (None, "Closed &amp; quiet."),
    )
    table = (
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t><w:tab/><w:t>two</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    )
    fallback = (
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"><mc:Fallback>'
        "<w:p><w:r><w:t>twice</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>"
    )
    xml = xml.replace("</w:body>", f"{table}{fallback}</w:body>")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", xml)
        archive.writestr("word/footnotes.xml", word_xml((None, "A note.")))
    text = read(reader, path).text.decode()
    assert text.startswith("# Opening hours\n\nFrom nine.\n\n## Sundays\n\nClosed & quiet.\n\ncell\ttwo")
    assert "A note." in text and "twice" not in text


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (word_xml((None, "x"), head='<!DOCTYPE d [<!ENTITY a "aaaa">]>'), "document type"),
        (f'<w:document xmlns:w="{SPACE}">' + "<w:p>" * 5000, "nests deeper"),
        (word_xml((None, "x")) + "<more/>", "damaged"),
        (word_xml(), "holds no text"),
        (b"\x00\x01", "damaged"),
    ],
)
def test_xml_that_attacks_is_refused(tmp_path, xml, reason):
    assert reason in read_docx(str(docx(tmp_path / "a.docx", xml)))["bad"]


def test_a_zip_bomb_is_met_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(docx_module, "MAX_XML_BYTES", 1 << 20)
    body = f'<w:document xmlns:w="{SPACE}"><w:body><w:p><w:r><w:t>' + "a" * (8 << 20)
    path = docx(tmp_path / "a.docx", body)
    assert path.stat().st_size < 100_000 < MAX_XML_BYTES
    assert "unpacks to over" in read_docx(str(path))["bad"]


@given(st.binary(max_size=300))
def test_any_bytes_get_an_answer(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("files")
    for name, function in (("a.docx", read_docx), ("a.pdf", read_pdf)):
        path = folder / name
        path.write_bytes(content)
        assert "bad" in function(str(path))
    assert "bad" in read_docx(str(docx(folder / "b.docx", content)))


def test_a_password_or_another_archive_is_no_word_document(tmp_path):
    assert "no .docx" in read_docx(str(docx(tmp_path / "a.docx", "<x/>", part="other.xml")))["bad"]
    (tmp_path / "b.docx").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    assert "password" in read_docx(str(tmp_path / "b.docx"))["bad"]
