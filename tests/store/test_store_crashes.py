"""After a fault at any call of the writer, and after a power cut at any moment, the old or the new is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import power_cuts
import pytest
import writer_faults
from writer_faults import FAULTS, KINDS, UnsyncedOps

from kweek.store.files import use_file_ops


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of small files are made and removed."""
    if os.access("/dev/shm", os.W_OK):
        folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    else:
        yield tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_at_every_call(scratch: Path, kind: str) -> None:
    tried = writer_faults.check_every_call(scratch, kind)
    assert set(tried) == set(FAULTS)
    assert all(tried.values())
    if kind == "artifact":
        assert sum(tried.values()) > 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_sigkill_at_every_call(scratch: Path) -> None:
    done = subprocess.run(
        [sys.executable, writer_faults.__file__, str(scratch)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert kills["artifact"] > 100
    assert kills["file"] > 20


def power_cut_outcomes(
    scratch: Path, kind: str, ops_type: type[power_cuts.RecordingOps], before: str | None = "old"
) -> Iterator[str]:
    """What readers find on every disk that a power cut may leave during one replacement."""
    write, read = KINDS[kind]
    root = scratch / "real"
    root.mkdir()
    if before:
        with use_file_ops(UnsyncedOps()):
            write(root / "thing", before)
    start = power_cuts.snapshot(root)
    ops = ops_type(root)
    with use_file_ops(ops):
        write(root / "thing", "new")
    for disk in power_cuts.possible_disks(start, ops.log):
        rebuilt = scratch / "rebuilt"
        power_cuts.materialise(disk, rebuilt)
        try:
            outcome = str(read(rebuilt / "thing"))
        except (AssertionError, StopIteration):
            outcome = "broken"
        shutil.rmtree(rebuilt)
        yield outcome


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("kind", KINDS)
def test_power_cut_at_every_moment(scratch: Path, kind: str, before: str | None) -> None:
    outcomes = set(power_cut_outcomes(scratch, kind, power_cuts.RecordingOps, before))
    assert outcomes == {str(before), "new"}


class ForgetfulOfFilesOps(power_cuts.RecordingOps):
    """A writer that never forces a file's content to the disk."""

    def fsync(self, descriptor: int) -> None:
        pass

    def fsync_path(self, path: Path) -> None:
        pass


class ForgetfulOfFoldersOps(power_cuts.RecordingOps):
    """A writer that never forces a folder's names to the disk."""

    def fsync_dir(self, path: Path) -> None:
        pass


@pytest.mark.parametrize(
    ("kind", "forgetful"),
    [("file", ForgetfulOfFilesOps), ("artifact", ForgetfulOfFilesOps), ("artifact", ForgetfulOfFoldersOps)],
)
def test_the_model_of_power_cuts_sees_a_missing_fsync(
    scratch: Path, kind: str, forgetful: type[power_cuts.RecordingOps]
) -> None:
    assert "broken" in power_cut_outcomes(scratch, kind, forgetful)
