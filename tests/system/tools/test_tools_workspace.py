"""Documents: what the tools do to them, that it can be undone, and that no path leads out."""

import difflib
import os
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kweek.errors import DataError, KweekError
from kweek.system.tools import Toolbox
from kweek.system.tools.documents import document_tools
from kweek.system.tools.patches import apply_patch
from kweek.system.tools.paths import checked_path
from kweek.system.tools.workspace import Workspace, WorkspaceLimits


@pytest.fixture
def place(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("CANARY")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def box(place):
    return Toolbox(document_tools(Workspace(place)), {"read": "allow", "write": "allow"})


def test_the_life_of_a_document(place, box):
    assert box.call("list_documents", {}).content == "(no documents)"
    assert box.call("create_document", {"path": "a/b.md", "text": "one\ntwo\nthree\n"}).error is None
    assert (place / "a" / "b.md").read_text() == "one\ntwo\nthree\n"
    assert box.call("edit_document", {"path": "a/b.md", "old": "two", "new": "2"}).error is None
    patch = "@@ -1,2 +1,3 @@\n one\n-2\n+zwei\n+drei\n"
    assert box.call("patch_document", {"path": "a/b.md", "patch": patch}).error is None
    assert (place / "a" / "b.md").read_text() == "one\nzwei\ndrei\nthree\n"
    read = box.call("read_document", {"path": "a/b.md", "first_line": 2, "num_lines": 1})
    assert read.content == "zwei\n[3 more lines, from line 3]" and not read.trusted
    assert box.call("list_documents", {}).content == "a/b.md"
    undone = [box.call("undo_document", {"path": "a/b.md"}) for _ in range(4)]
    assert [u.content for u in undone[:3]] == [
        f"undid: {what} of a/b.md" for what in ("patch", "edit", "create")
    ]
    assert "no change to undo" in (undone[3].error or "") and not (place / "a" / "b.md").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("create_document", {"path": "there.txt", "text": ""}, "there is a document of this name"),
        ("edit_document", {"path": "there.txt", "old": "x", "new": "y"}, "2 times, not once"),
        ("edit_document", {"path": "there.txt", "old": "z", "new": "y"}, "0 times, not once"),
        ("edit_document", {"path": "there.txt", "old": "", "new": "y"}, "empty"),
        ("edit_document", {"path": "none.txt", "old": "x", "new": "y"}, "There are: bytes.bin, there.txt"),
        (
            "patch_document",
            {"path": "there.txt", "patch": "@@ -1 +1 @@\n-q\n+r\n"},
            "nowhere in the document",
        ),
        ("patch_document", {"path": "there.txt", "patch": "rm -rf"}, "no patch"),
        ("read_document", {"path": "bytes.bin"}, "not UTF-8"),
        ("create_document", {"path": "large.txt", "text": "x" * 200}, "more than 100"),
        ("create_document", {"path": "x.txt", "text": "\ud800"}, "hex escape"),
        ("undo_document", {"path": "there.txt"}, "no change to undo"),
    ],
)
def test_what_cannot_be_done(place, name, arguments, said):
    (place / "there.txt").write_text("x x")
    (place / "bytes.bin").write_bytes(b"\xff\xfe\x00")
    tools = document_tools(Workspace(place, WorkspaceLimits(document_bytes=100)))
    result = Toolbox(tools, {"read": "allow", "write": "allow"}).call(name, arguments)
    assert said in (result.error or "")
    assert (place / "there.txt").read_text() == "x x"


BAD_PATHS = [
    "/etc/passwd", "../outside/secret.txt", "a/../../outside/secret.txt", "..", ".", "", "a//b", "./a", "a/.", "a/",
    ".history/changes.jsonl", ".env", "a/.git/config", "C:\\x", "C:x", "a\\..\\b", "nul", "NUL.txt", "com1",
    "aux.md", "LPT¹", "a\x00b", "a\nb", "a\u202eb", " a", "a ", "a.", "cafe\u0301", "x" * 300, "/".join("a" * 20), "a*",
    "a?b", "~/\x7f",
    "//etc/passwd", "file:///etc/passwd", "/proc/self/environ", "/dev/zero", "\\\\server\\share", "a|b",
]  # fmt: skip


@pytest.mark.parametrize("path", BAD_PATHS, ids=ascii)
def test_paths_that_are_refused(place, box, path):
    for name, more in (("read_document", {}), ("create_document", {"text": "x"}), ("undo_document", {})):
        result = box.call(name, {"path": path, **more})
        assert result.error is not None and "CANARY" not in result.error
    assert sorted(os.listdir(place.parent)) == ["outside", "work"] and os.listdir(place) == []


def test_links_devices_and_other_names_of_a_file_are_refused(place, box, tmp_path):
    outside = tmp_path / "outside"
    (place / "link.txt").symlink_to(outside / "secret.txt")
    (place / "folder").symlink_to(outside)
    (place / "dangling.txt").symlink_to(tmp_path / "outside" / "new.txt")
    os.link(outside / "secret.txt", place / "hard.txt")
    os.mkfifo(place / "pipe")
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(place)  # names of sockets are short
    server.bind("socket")
    os.chdir(here)
    (place / "Real.txt").write_text("mine")
    names = [
        "link.txt",
        "folder/secret.txt",
        "dangling.txt",
        "hard.txt",
        "pipe",
        "socket",
        "real.txt",
        "REAL.TXT",
    ]
    for path in names:
        for name, more in (
            ("read_document", {}),
            ("create_document", {"text": "gone"}),
            ("edit_document", {"old": "CANARY", "new": "gone"}),
            ("undo_document", {}),
        ):
            result = box.call(name, {"path": path, **more})
            assert result.error is not None and "CANARY" not in result.content + result.error, (name, path)
    server.close()
    assert (outside / "secret.txt").read_text() == "CANARY" and os.listdir(outside) == ["secret.txt"]
    assert (place / "Real.txt").read_text() == "mine"


def test_a_folder_that_becomes_a_link_leads_nowhere(place, box, tmp_path):
    assert box.call("create_document", {"path": "notes/a.txt", "text": "one"}).error is None
    (place / "notes").rename(place / "moved")
    (place / "notes").symlink_to(tmp_path / "outside")
    for name, more in (("create_document", {"text": "x"}), ("undo_document", {}), ("read_document", {})):
        assert box.call(name, {"path": "notes/a.txt", **more}).error is not None
    assert os.listdir(tmp_path / "outside") == ["secret.txt"]


def test_the_place_of_versions_may_be_no_link(place, box, tmp_path):
    (place / ".history").symlink_to(tmp_path / "outside")
    assert "a link" in (box.call("create_document", {"path": "a.txt", "text": "x"}).error or "")
    assert os.listdir(tmp_path / "outside") == ["secret.txt"] and not (place / "a.txt").exists()


def test_undo_leaves_the_changes_of_others_alone(place):
    workspace = Workspace(place)
    workspace.create("a.txt", "one")
    (place / "a.txt").write_text("somebody else's")
    with pytest.raises(DataError, match="somebody else"):
        workspace.undo("a.txt")
    assert (place / "a.txt").read_text() == "somebody else's"


def test_a_change_that_a_crash_cut_off_is_passed_over(place):
    workspace = Workspace(place)
    workspace.create("a.txt", "one")
    workspace.edit("a.txt", "one", "two")
    (place / "a.txt").write_text("one")  # the edit was noted and not made
    assert Workspace(place).undo("a.txt") == "create"


def test_damaged_versions_are_not_brought_back(place):
    workspace = Workspace(place)
    workspace.create("a.txt", "one")
    workspace.edit("a.txt", "one", "two")
    for kept in (place / ".history").iterdir():
        if kept.read_bytes() == b"one":
            kept.write_bytes(b"evil")
    with pytest.raises(KweekError, match="damaged"):
        workspace.undo("a.txt")
    assert (place / "a.txt").read_text() == "two"


def test_the_room_is_bounded(place):
    workspace = Workspace(place, WorkspaceLimits(num_documents=2, history_bytes=2000))
    workspace.create("a.txt", "x")
    workspace.create("b.txt", "x")
    with pytest.raises(DataError, match="2 documents already"):
        workspace.create("c.txt", "x")
    with pytest.raises(DataError, match="no room"):
        for number in range(100):
            workspace.edit("a.txt", "x", "y" * (number + 100) + "x")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "", "nul", ".x", "~"])).map("/".join))
@example("a/b.txt")
def test_what_is_let_through_stays_inside(path):
    try:
        found = checked_path(path)
    except DataError:
        return
    assert not found.is_absolute() and str(found) == path
    assert os.path.normpath(os.path.join("/root/x", path)).startswith("/root/x/")
    assert not any(part.startswith(".") for part in found.parts)


LINES = st.lists(st.sampled_from(["", "a", "b", "c\x0b", "é", "-d", "+e", "@@ -1 +1 @@"]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(LINES, LINES, st.booleans(), st.booleans())
def test_patches_do_what_they_say(old, new, old_ends, new_ends):
    before = "\n".join(old) + ("\n" if old and old_ends else "")
    after = "\n".join(new) + ("\n" if new and new_ends else "")

    def lines(text):
        return [line + "\n" for line in text.split("\n")[:-1]] + (
            [text.split("\n")[-1]] if text.split("\n")[-1] else []
        )

    made = []
    for line in difflib.unified_diff(lines(before), lines(after), "a", "b"):
        made.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    if made:
        assert apply_patch(before, "".join(made)) == after
