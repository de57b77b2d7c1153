"""Artifacts: the manifest, what readers verify, and readers and writers at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writer_faults import UnsyncedOps

from kweek.errors import StoreError
from kweek.store.artifact import MANIFEST, Artifact, ArtifactWriter, fingerprint
from kweek.store.files import use_file_ops


def make(place: Path, text: str = "hello", mark: str = "f1") -> None:
    with ArtifactWriter(place, kind="corpus", fingerprint=mark, lineage={"base": "b1"}) as out:
        out.write_text("data/text.txt", text)
        out.path("plain.bin").write_bytes(b"\x00" * 10)  # as a library would, by path
        out.write_json("info.json", {"n": 1})
        out.metrics["documents"] = 3
        out.ledger["seconds"] = 0.5


def test_an_artifact_comes_back_whole(tmp_path: Path) -> None:
    make(tmp_path / "new" / "corpus")
    artifact = Artifact.open(tmp_path / "new" / "corpus", verify="hash")
    assert (artifact.kind, artifact.fingerprint, artifact.lineage) == ("corpus", "f1", {"base": "b1"})
    assert artifact.metrics == {"documents": 3}
    assert artifact.ledger == {"seconds": 0.5}
    assert {"python", "torch", "platform", "cpu", "threads", "kweek"} <= set(artifact.environment)
    assert sorted(artifact.files) == ["data/text.txt", "info.json", "plain.bin"]
    assert artifact.file("data/text.txt").read_text() == "hello"
    assert artifact.files["plain.bin"]["bytes"] == 10
    with pytest.raises(StoreError, match=r'no file "weights" \(it has data/text.txt'):
        artifact.file("weights")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["corpus"]


def test_the_same_work_writes_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_a_block_that_raises_leaves_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(ZeroDivisionError), ArtifactWriter(tmp_path / "a", kind="x", fingerprint="f2") as out:
        out.write_text("data/text.txt", "half")
        raise ZeroDivisionError
    assert Artifact.open(tmp_path / "a", verify="hash").fingerprint == "f1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_no_artifact_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"not an artifact.*Choose another folder"):
        make(tmp_path / "documents")
    assert (tmp_path / "documents" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="not an artifact"):
        make(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents", "empty", "file"]


def test_a_place_behind_a_link_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    make(tmp_path / "link", mark="f2")
    assert (tmp_path / "link").is_symlink()
    assert Artifact.open(tmp_path / "real").fingerprint == "f2"


@pytest.mark.parametrize(
    "name", ["../out", "/etc/passwd", "", ".", "a/../../b", "a\\b", "c:x", MANIFEST, "a\0"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    writer = ArtifactWriter(tmp_path / "a", kind="x", fingerprint="f")
    with pytest.raises(StoreError, match="cannot be the name"), writer as out:
        out.write_text(name, "x")
    make(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="cannot be the name"):
        Artifact.open(tmp_path / "b")


def test_links_do_not_enter_an_artifact(tmp_path: Path) -> None:
    writer = ArtifactWriter(tmp_path / "a", kind="x", fingerprint="f")
    with pytest.raises(StoreError, match="plain files"), writer as out:
        out.path("link").symlink_to(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    file = tmp_path / "a" / "data" / "text.txt"
    file.write_text("jello")  # same size
    assert Artifact.open(tmp_path / "a").fingerprint == "f1"
    with pytest.raises(StoreError, match=r"text\.txt: its content differs"):
        Artifact.open(tmp_path / "a", verify="hash")
    file.write_text("hell")
    with pytest.raises(StoreError, match="has 4 bytes where the manifest says 5"):
        Artifact.open(tmp_path / "a")
    file.unlink()
    with pytest.raises(StoreError, match="missing, though the manifest names it"):
        Artifact.open(tmp_path / "a")
    with pytest.raises(StoreError, match="no finished artifact"):
        Artifact.open(tmp_path / "nothing")


def test_any_change_of_a_byte_of_the_manifest_is_an_error_or_harmless(tmp_path: Path) -> None:
    make(tmp_path / "a")
    manifest = tmp_path / "a" / MANIFEST
    whole, artifact = manifest.read_bytes(), Artifact.open(tmp_path / "a")
    start = whole.index(b'"files"')
    for position in range(start, len(whole) - 1, 2):
        manifest.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            changed = Artifact.open(tmp_path / "a", verify="hash")
        except StoreError:
            continue
        assert changed.files == artifact.files, position  # white space may change
    for length in range(0, len(whole) - 2, 5):
        manifest.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            Artifact.open(tmp_path / "a")


def test_eight_readers_recover_a_crash_at_once(tmp_path: Path) -> None:
    make(tmp_path / "a")
    for _ in range(20):
        (tmp_path / "a").rename(tmp_path / ".a.old")
        found: list[str] = []
        barrier = threading.Barrier(8)

        def read(found: list[str] = found, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            found.append(Artifact.open(tmp_path / "a", verify="hash").fingerprint)

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["f1"] * 8
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_readers_of_an_artifact_that_is_being_replaced(tmp_path: Path) -> None:
    make(tmp_path / "a", "text 0", "0")
    done, failures, reads = threading.Event(), list[BaseException](), list[str]()

    def read() -> None:
        while not done.is_set():
            try:
                reads.append(Artifact.open(tmp_path / "a", verify="hash").fingerprint)
            except BaseException as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    with use_file_ops(UnsyncedOps()):
        for number in range(1, 60):
            make(tmp_path / "a", f"text {number}", str(number))
            while number % 12 == 0 and str(number) not in reads:  # a slow machine's readers must get a turn
                assert not failures
                time.sleep(0.001)
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert {"12", "24", "36", "48"} <= set(reads)


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from kweek.store.artifact import ArtifactWriter\n"
        "with ArtifactWriter(Path(sys.argv[1]), kind='x', fingerprint='f'):\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with pytest.raises(StoreError, match=f"being written by process {other.pid}"):
                make(tmp_path / "a")
        finally:
            other.kill()
    make(tmp_path / "a")  # the dead writer's lock and folder are no obstacle
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_fingerprint_depends_on_everything_and_on_nothing_else() -> None:
    base = fingerprint("sft", {"a": 1, "b": [1, 2]}, {"x": "1"}, "v1")
    assert base == fingerprint("sft", {"b": (1, 2), "a": 1}, {"x": "1"}, "v1")
    assert len(base) == 64
    others = [
        fingerprint("rl", {"a": 1, "b": [1, 2]}, {"x": "1"}, "v1"),
        fingerprint("sft", {"a": 2, "b": [1, 2]}, {"x": "1"}, "v1"),
        fingerprint("sft", {"a": 1, "b": [2, 1]}, {"x": "1"}, "v1"),
        fingerprint("sft", {"a": 1, "b": [1, 2]}, {"x": "2"}, "v1"),
        fingerprint("sft", {"a": 1, "b": [1, 2]}, {"x": "1"}, "v2"),
        fingerprint("sft", {"a": "1", "b": [1, 2]}, {"x": "1"}, "v1"),
    ]
    assert len({base, *others}) == 7
    with pytest.raises(TypeError):
        fingerprint("sft", {"a": object()}, {}, "v1")


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_a_fingerprint_ignores_the_order_of_keys(config: dict[str, int | str]) -> None:
    turned = dict(reversed(list(config.items())))
    assert fingerprint("k", config, {}, "v") == fingerprint("k", turned, {}, "v")
