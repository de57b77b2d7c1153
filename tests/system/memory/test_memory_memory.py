"""The memory as a whole: adding, finding, bringing up to date, notes, sidecar, damage."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from memory_files import docx, folder_of, pdf, word_xml

from kweek.data.document import Document
from kweek.errors import ConfigError, DataError, Interrupted, StoreError
from kweek.system.memory import bm25
from kweek.system.memory import memory as memory_module
from kweek.system.memory.memory import Memory

TEXTS = {
    "bridge__md": "# The bridge\n\nThe bridge over the Vltava was finished in 1402. It is made of sandstone.\n",
    "tower__txt": "The tower has 280 steps. From its top one sees the river and the bridge.\n",
    "code__py": '"""Settings."""\n\nmax_new_tokens = 128  # the longest answer\n',
}


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "notes", **TEXTS)


@pytest.fixture
def memory(tmp_path, folder):
    with Memory(tmp_path / "memory.db") as memory:
        memory.add(folder)
        yield memory


def sources(memory, question, **options):
    return [passage.source for passage in memory.search(question, **options)]


def test_what_is_found_says_where_it_stands(memory, folder):
    found = memory.search("When was the bridge finished?")
    assert [passage.source for passage in found] == ["bridge.md", "tower.txt"]
    best = found[0]
    assert best.score > found[1].score > 0 and not best.trusted
    own = (folder / "bridge.md").read_bytes()
    assert own[best.start : best.end].decode() == best.text
    assert hashlib.sha256(best.text.encode()).hexdigest() == best.sha256
    assert memory.text(best.document) == TEXTS["bridge__md"]


def test_names_are_found_in_every_spelling_and_stop_words_find_nothing_by_themselves(memory):
    for spelling in ("maxNewTokens", "max_new_tokens", "new tokens"):
        assert sources(memory, spelling)[0] == "code.py"
    assert sources(memory, "zebra") == [] and sources(memory, "") == [] and sources(memory, '"* OR (') == []
    assert len(sources(memory, "river bridge", k=1)) == 1


def test_a_folder_is_followed_by_content(memory, folder):
    assert memory.add(folder).unchanged == 3
    os.utime(folder / "tower.txt", (1, 1))
    assert memory.add(folder).unchanged == 3  # the clock says nothing
    stat = (folder / "tower.txt").stat()
    (folder / "tower.txt").write_text(TEXTS["tower__txt"].replace("280", "281"))
    os.utime(
        folder / "tower.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns)
    )  # same size, same clock, other content
    (folder / "code.py").unlink()
    (folder / "new.md").write_text("A heron stands in the reeds.")
    added = memory.add(folder)
    assert (added.new, added.updated, added.unchanged, added.removed) == (1, 1, 1, 1)
    assert sources(memory, "heron") == ["new.md"] and sources(memory, "maxNewTokens") == []
    assert "281" in memory.search("steps")[0].text and sources(memory, "280") == []
    assert memory.check().sound


def test_equal_files_are_one_document_until_the_last_is_gone(memory, folder):
    (folder / "copy.md").write_text(TEXTS["bridge__md"])
    assert memory.add(folder).new == 1
    assert len(memory.search("sandstone")) == 1
    (folder / "bridge.md").unlink()
    memory.add(folder)
    assert sources(memory, "sandstone") == ["copy.md"]
    (folder / "copy.md").unlink()
    memory.add(folder)
    assert sources(memory, "sandstone") == []


def test_a_file_that_can_no_longer_be_read_stays_as_it_was(memory, folder):
    (folder / "tower.txt").write_bytes(b"\x00\x01\x02" * 100)
    added = memory.add(folder)
    assert [rejection.path for rejection in added.rejected] == ["tower.txt"] and added.removed == 0
    assert sources(memory, "280 steps") == ["tower.txt"]


def test_pdf_and_word_files_beside_text(memory, folder):
    pytest.importorskip("pypdfium2")
    (folder / "report.pdf").write_bytes(pdf(["An introduction.", "The heron ate eleven fishes."]))
    docx(folder / "letter.docx", word_xml(("Heading1", "Complaint"), (None, "The heron is too loud.")))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    added = memory.add(folder)
    assert set(sources(memory, "heron")) == {"report.pdf#page=1", "letter.docx"} or set(sources(memory, "heron")) == {
        "report.pdf#page=2", "letter.docx",
    }  # fmt: skip
    assert [rejection.path for rejection in added.rejected] == ["broken.pdf"]


def test_documents_that_are_no_files(memory):
    first = Document.of("The ferry leaves at ten.", source="web", origin="timetable")
    assert memory.add([first], trusted=True).new == 1
    assert memory.add([first]).unchanged == 1
    (passage,) = memory.search("ferry")
    assert (passage.source, passage.trusted) == ("web/timetable", True)
    assert (
        memory.add([Document.of("The ferry leaves at eleven.", source="web", origin="timetable")]).updated
        == 1
    )
    assert [p.text for p in memory.search("ferry")] == ["The ferry leaves at eleven."]


def test_a_folder_that_is_none_is_an_error_and_nothing_is_removed(memory, tmp_path, folder):
    with pytest.raises(DataError, match="no such folder"):
        memory.add(tmp_path / "elsewhere")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no file that can be read"):
        memory.add(folder)
    assert memory.store.num_chunks == 3


def test_notes_are_found_and_end(memory):
    name = memory.remember("The user prefers trams to cars.", source="chat of 2 May", seconds=0.5, trace="t1")
    assert sources(memory, "trams") == ["chat of 2 May"]
    assert memory.remember("The user prefers trams to cars.", source="chat of 3 May", seconds=1000) == name
    time.sleep(0.6)
    assert sources(memory, "trams") == ["chat of 3 May"]  # the later end counts
    short = memory.remember("Buses are green.", source="chat", seconds=0.05)
    time.sleep(0.1)
    assert sources(memory, "buses") == [] and memory.store.one(
        "select 1 from documents where name = ?", (short,)
    )
    memory.remember("Anything.", source="chat")
    assert (
        memory.store.one("select 1 from documents where name = ?", (short,)) is None
    )  # gone at the next change
    about = memory.store.one("select about from documents where name = ?", (name,))
    assert '"trace": "t1"' in about
    with pytest.raises(DataError, match="nothing to remember"):
        memory.remember(" ", source="x")


# -- the sidecar


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A memory that has a sidecar, of 300 passages."""
    monkeypatch.setattr(memory_module, "SIDECAR_CHUNKS", 100)
    texts = {
        f"d{n}__txt": f"Passage {n} speaks of word{n % 7} and thing{n % 31} "
        + "again " * (n % 5)
        + "running ponies."
        for n in range(300)
    }
    folder = folder_of(tmp_path / "many", **texts)
    with Memory(tmp_path / "memory.db") as memory:
        memory.add(folder)
        yield memory


QUESTIONS = ["word3 thing5", "passage 17", "ponies", "run again", "thing30 word1 again", "nothing here"]


def by_database(memory, question, k=20):
    sidecar, memory._sidecar = memory._sidecar, None
    try:
        return memory.search(question, k)
    finally:
        memory._sidecar = sidecar


def test_the_sidecar_ranks_as_the_database_does(large):
    assert bm25.path_of(large.path).exists() and large._current_sidecar() is not None
    for question in QUESTIONS:
        fast, slow = large.search(question, 400), by_database(large, question, 400)
        assert {p.document for p in fast} == {p.document for p in slow}
        assert [p.score for p in fast] == pytest.approx([p.score for p in slow], rel=1e-4, abs=1e-5)
    assert large.search("passage 17", 1)[0].source == "d17.txt"
    assert large.check().sidecar == "current"


@pytest.mark.parametrize("damage", ["flip", "cut", "head", "other", "gone", "empty"])
def test_a_damaged_sidecar_is_found_out_and_made_anew(large, damage):
    path = bm25.path_of(large.path)
    before = [p.document for p in large.search("word3 thing5", 20)]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "cut":
        content = content[:-100]
    elif damage == "head":
        content[20:60] = b"x" * 40
    elif damage == "other":
        content = content.replace(large.store.identity.encode(), b"0" * 32)
    elif damage == "empty":
        content = bytearray()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content)
        with pytest.raises(bm25.Stale):
            bm25.Sidecar(path, large.store.identity)
    with Memory(large.path) as again:
        assert [p.document for p in again.search("word3 thing5", 20)] == before
        assert again._sidecar is not None and again.check().sidecar == "current"


def test_a_stale_sidecar_never_answers(large, tmp_path):
    large.remember("A single zebra.", source="chat")  # 1 of 301: the database answers
    assert sources(large, "zebra") == ["chat"] and large._sidecar is None
    assert large.check().sidecar == "stale"
    large.add([Document.of(f"Zebra number {n}.", source="zoo", origin=str(n)) for n in range(20)])
    assert large._sidecar is not None and len(large.search("zebra", 50)) == 21
    with Memory(large.path) as other:
        other.add([Document.of(f"Okapi {n}.", source="zoo", origin=f"o{n}") for n in range(20)])
    assert len(large.search("okapi", 50)) == 20  # changed by another process


# -- damage


def test_a_file_that_is_no_memory_is_refused(tmp_path):
    (tmp_path / "a.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="damaged"):
        Memory(tmp_path / "a.db")
    rows = sqlite3.connect(tmp_path / "b.db")
    rows.execute("create table x (y)")
    rows.commit()
    rows.close()
    with pytest.raises(StoreError, match="no memory of Kweek"):
        Memory(tmp_path / "b.db")
    with pytest.raises(StoreError, match="there is no memory"):
        Memory(tmp_path / "c.db", create=False)
    assert not (tmp_path / "c.db").exists()


def test_a_damaged_index_of_words_is_made_anew_from_the_chunks(memory):
    before = sources(memory, "bridge river")
    memory.store.rows.execute("update words_data set block = x'00ff00ff' where id > 10")
    memory.close()
    with Memory(memory.path) as again:
        assert again.check().faults
        assert sources(again, "bridge river") == before
        assert again.check().sound


def test_an_index_of_words_that_has_lost_its_head_is_made_anew(memory):
    before = sources(memory, "bridge river")
    memory.store.rows.execute("update words_data set block = x'00' where id = 10")
    memory.close()
    with Memory(memory.path) as again:
        assert "holds 0 of" in again.check().faults[0]
        assert sources(again, "bridge river") == before and again.check().sound


def test_a_passage_that_is_not_what_was_stored_is_not_shown(memory):
    memory.store.rows.execute("update chunks set text = cast(replace(text, '1402', '1302') as blob)")
    with pytest.raises(StoreError, match="not what was stored"):
        memory.search("bridge finished")
    assert any("not what was stored" in fault for fault in memory.check().faults)


def test_rules_of_words_that_changed_make_the_index_anew(memory):
    memory.store.set_fact("analysis", "0")
    memory.store.rows.execute("insert into words (words) values ('delete-all')")
    for (chunk,) in memory.store.all("select id from chunks"):
        memory.store.rows.execute("insert into words (rowid, text) values (?, 'as was')", (chunk,))
    assert sources(memory, "sandstone") == []
    memory.close()
    with Memory(memory.path) as again:
        assert sources(again, "sandstone") == ["bridge.md"]


def test_searching_by_meaning_without_an_encoder_says_so(memory):
    with pytest.raises(ConfigError, match="needs an encoder"):
        memory.search("x", mode="dense")


def test_stopping_keeps_what_is_done(tmp_path, folder):
    calls = []

    def after_two():
        calls.append(1)
        return len(calls) > 2

    with Memory(tmp_path / "m.db") as memory:
        with pytest.raises(Interrupted):
            memory.add(folder, should_stop=after_two)
        assert memory.store.one("select count(*) from documents") == 2
        added = memory.add(folder)
        assert (added.unchanged, added.new) == (2, 1)


def test_a_kill_in_the_middle_leaves_whole_documents_and_the_work_goes_on(tmp_path):
    texts = {f"d{n}__txt": f"Document {n} holds word{n}. " * 200 for n in range(60)}
    folder = folder_of(tmp_path / "many", **texts)
    program = (
        "import sys\nfrom pathlib import Path\nfrom kweek.system.memory import adding, memory\n"
        "adding.BATCH_FILES = 4\n"
        "def told(done, total, note='', **v):\n    print(done, flush=True)\n"
        "memory.Memory(sys.argv[1]).add(Path(sys.argv[2]), progress=told)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "m.db"), str(folder)], stdout=subprocess.PIPE
    )
    for _ in range(21):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Memory(tmp_path / "m.db") as memory:
        health = memory.check()
        assert health.sound and 20 <= health.documents < 60
        added = memory.add(folder)
        assert added.unchanged == health.documents and added.new == 60 - health.documents
        assert memory.check().sound and sources(memory, "word59", k=1) == ["d59.txt"]
