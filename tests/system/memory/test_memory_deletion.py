"""Deletion with proof: raw files are searched, by the memory itself and by plain means here."""

import pytest
from memory_files import folder_of

from kweek.errors import DataError
from kweek.system.memory import bm25, deletion
from kweek.system.memory import memory as memory_module
from kweek.system.memory.memory import Memory

SECRET = "Quixotically, agent Zyzzogeton hid the vermilion samovar beneath Przybyszewo; codeword TangerineObelisk_77."
NEEDLES = ["zyzzogeton", "samovar", "przybyszewo", "tangerineobelisk", "quixot", "vermilion"]


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_module, "SIDECAR_CHUNKS", 50)
    texts = {
        f"d{n}__txt": f"Ordinary passage {n} about rivers and bridges number {n * 7}." for n in range(80)
    }
    texts["secret__txt"] = f"{SECRET} Ordinary passage about rivers."
    texts["long__md"] = "\n\n".join(f"Paragraph {n} of the long one, with Xanthippe{n}." for n in range(400))
    folder_of(tmp_path / "notes", **texts)
    with Memory(tmp_path / "memory.db") as memory:
        memory.add(tmp_path / "notes")
        yield memory


def raw(memory):
    return b"".join(path.read_bytes() for path in memory.path.parent.glob("memory.db*")).lower()


def test_no_byte_is_left(memory):
    memory.search("samovar")
    before = raw(memory)
    assert all(needle.encode() in before for needle in NEEDLES)
    assert bm25.path_of(memory.path).exists()
    proof = memory.forget("secret.txt")
    assert proof.holds and proof.chunks == 1 and proof.windows > 50 and proof.terms >= 6
    assert {"memory.db", "memory.db.bm25"} <= set(proof.files)
    after = raw(memory)
    assert [needle for needle in NEEDLES if needle.encode() in after] == []
    assert b"ordinary passage" in after  # what others say as well stays
    assert memory.search("samovar") == [] and len(memory.search("rivers", 100)) == 80
    assert memory.check().sound and memory.check().sidecar == "current"


def test_many_documents_and_earlier_leftovers(memory, tmp_path):
    (tmp_path / "notes" / "secret.txt").write_text("Nothing here any more.")
    memory.add(tmp_path / "notes")
    assert memory.check().unpurged == 1
    assert memory.forget().documents == ()  # purges what the update left
    assert not any(needle.encode() in raw(memory) for needle in NEEDLES)
    assert memory.check().unpurged == 0
    proof = memory.forget("long.md", "d1.txt")
    assert proof.holds and proof.chunks > 10 and b"xanthippe" not in raw(memory)
    assert memory.forget(str(tmp_path / "notes")).holds  # a folder
    assert memory.store.num_chunks == 0 and b"ordinary" not in raw(memory)


def test_a_proof_can_fail(memory):
    """Whatever is left in a raw file is found: the search is not blind."""
    text = SECRET.encode()
    for content, kind in ((text[20:60], "stretches"), (b"xx zyzzogeton yy", "zyzzogeton")):
        stray = memory.path.with_name("memory.db-copy")
        stray.write_bytes(b"\0" * 3333 + content + b"\0" * 10)
        with Memory(memory.path) as other:
            other.add(memory.path.parent / "notes")
            proof = other.forget("secret.txt")
        assert not proof.holds and kind in " ".join(proof.found) and "memory.db-copy" in " ".join(proof.found)
        stray.unlink()


def test_windows_are_found_wherever_they_stand(tmp_path):
    import numpy as np

    generator = np.random.default_rng(0)
    data = generator.integers(0, 256, 9 << 20, dtype=np.uint8).tobytes()  # more than two blocks
    path = tmp_path / "raw"
    path.write_bytes(data)
    places = [0, 5, (4 << 20) - 8, (4 << 20) + 1, (8 << 20) - 15, len(data) - 16]
    wanted = np.unique([deletion.windows(data[place : place + 16])[0] for place in places])
    assert len(wanted) == len(places)
    absent = deletion.windows(generator.integers(0, 256, 1000, dtype=np.uint8).tobytes())
    found = deletion._matching(deletion._blocks(path), np.unique(np.concatenate([wanted, absent])))
    assert set(found) == set(wanted)
    assert len(deletion.windows(b"fifteen bytes..")) == 0


def test_names_that_stand_for_nothing(memory):
    with pytest.raises(DataError, match="nothing of that name"):
        memory.forget("absent.txt")
    document = memory.search("samovar")[0].document
    assert memory.forget(document[:12]).sources[0].endswith("secret.txt")


def test_notes_are_forgotten_too(memory):
    name = memory.remember("The samovar is under the stairs.", source="chat")
    assert memory.forget(name).holds
    memory.forget("secret.txt")
    assert b"samovar" not in raw(memory)
