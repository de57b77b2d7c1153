"""Locks: one at a time, by name, free again when the holder dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kweek.errors import StoreError
from kweek.store import lock
from kweek.store.lock import RunLock

HOLD = (
    "import sys, time; from pathlib import Path; from kweek.store.lock import RunLock\n"
    "with RunLock(Path(sys.argv[1])): print('ready', flush=True); time.sleep(60)"
)


def test_a_second_process_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            with (
                pytest.raises(StoreError, match=f"in use by process {other.pid}") as caught,
                RunLock(tmp_path),
            ):
                pytest.fail("entered a locked folder")
            assert str(tmp_path) in str(caught.value)
        finally:
            other.kill()
    with RunLock(tmp_path):  # taken over from the dead
        assert lock.holder(tmp_path / "lock") == os.getpid()
    with RunLock(tmp_path):
        pass


def test_the_same_process_cannot_enter_twice(tmp_path: Path) -> None:
    refused = pytest.raises(StoreError, match=f"in use by process {os.getpid()}")
    with RunLock(tmp_path), refused, RunLock(tmp_path):
        pytest.fail("entered twice")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot create the lock"), RunLock(tmp_path / "no"):
        pytest.fail("locked nothing")


def test_waiting_for_a_lock_that_vanishes_each_time(tmp_path: Path) -> None:
    inside, entered = 0, 0
    path = tmp_path / "lock"

    def work() -> None:
        nonlocal inside, entered
        for _ in range(50):
            held = lock.acquire(path, wait=True)
            assert held is not None
            inside += 1
            assert inside == 1
            entered += 1
            inside -= 1
            lock.release(path, held)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entered == 300
    assert not path.exists()


def test_no_holder_of_a_file_that_is_no_lock(tmp_path: Path) -> None:
    assert lock.holder(tmp_path / "nothing") is None
    (tmp_path / "lock").write_text("not a number")
    assert lock.holder(tmp_path / "lock") is None
