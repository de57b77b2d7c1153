"""Stopping runs: process trees in a namespace of their own, however they resist; and runs without a supervisor."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from kweek.errors import KweekError
from kweek.store.lock import RunLock
from kweek.system.process_tree import children, descendants
from kweek.system.stop import start, stop, supervisors
from kweek.system.supervisor import REFUSED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process namespaces are a part of Linux")

STUBBORN = """
    import os, signal, sys, time
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    def spawn():
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            while True:
                time.sleep(0.01)
                try: os.kill(os.getppid(), signal.SIGKILL)
                except OSError: pass
    for number in range(1, 40):
        if number != os.getpid():
            try: os.kill(number, signal.SIGKILL)
            except OSError: pass
    for _ in range(5): spawn()
    print("ready", flush=True)
    while True: time.sleep(0.01)
"""


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def marked(mark):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory):
    run = start(["true"], tmp_path_factory.mktemp("run"))
    if run.wait(60) == REFUSED:
        pytest.skip("the kernel permits no process namespaces here")


def test_a_supervised_run_ends_with_its_own_status(namespaces, tmp_path):
    assert start([sys.executable, "-c", "raise SystemExit(7)"], tmp_path).wait(60) == 7
    assert start([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path).wait(60) == 137
    assert start(["no-such-command"], tmp_path).wait(60) == 127
    out = tmp_path / "out"
    script = f"import os; open({str(out)!r}, 'w').write(f'{{os.getuid()}} {{os.getpid() < 9}}')"
    assert start([sys.executable, "-c", script], tmp_path).wait(60) == 0
    assert out.read_text() == f"{os.getuid()} True"  # who it was outside, in a namespace of its own


def test_what_a_run_leaves_behind_ends_with_it(namespaces, tmp_path):
    mark = f"left-{os.getpid()}"
    script = "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0: time.sleep(600)\n"
    run = start([sys.executable, "-c", script], tmp_path, environment={**os.environ, "MARK": mark})
    run.wait(60)
    wait_until(lambda: not marked(mark), 10)


def test_a_run_that_forks_and_ignores_signals_is_stopped(namespaces, tmp_path):
    mark = f"stubborn-{os.getpid()}"
    script = tmp_path / "agent.py"
    script.write_text(textwrap.dedent(STUBBORN))
    run = start([sys.executable, str(script)], tmp_path, environment={**os.environ, "MARK": mark})
    wait_until(lambda: len(marked(mark)) >= 8)
    assert supervisors(tmp_path) == [run.pid]
    done = stop(tmp_path)
    assert done.supervised and done.seconds < 2
    run.wait(10)
    assert not marked(mark) and not supervisors(tmp_path)
    with pytest.raises(KweekError, match="nothing is running"):
        stop(tmp_path)


def test_a_run_ends_with_its_supervisor(namespaces, tmp_path):
    mark = f"orphan-{os.getpid()}"
    run = start(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        tmp_path,
        environment={**os.environ, "MARK": mark},
    )
    wait_until(lambda: len(marked(mark)) >= 4)
    run.kill()
    run.wait(10)
    wait_until(lambda: not marked(mark), 10)


def test_a_request_to_end_reaches_the_run(namespaces, tmp_path):
    script = f"""
        import os, time
        os.chdir({str(tmp_path)!r})
        try:
            open("up", "w").close()
            time.sleep(600)
        except KeyboardInterrupt:
            open("saved", "w").close()
            raise SystemExit(3)
    """
    run = start([sys.executable, "-c", textwrap.dedent(script)], tmp_path)
    wait_until((tmp_path / "up").exists)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 3 and (tmp_path / "saved").exists()


def test_a_run_that_only_says_it_is_a_supervisor_is_none(namespaces, tmp_path):
    from kweek.system.stop import MARK, token

    liar = [sys.executable, "-c", "import time; time.sleep(600)", MARK, token(tmp_path)]
    run = start(liar, tmp_path)
    wait_until(lambda: len(descendants(run.pid)) >= 3)
    assert supervisors(tmp_path) == [run.pid]
    stop(tmp_path)
    run.wait(10)


def test_a_run_without_a_supervisor_is_ended_with_what_is_below_it(tmp_path):
    script = (
        "import subprocess, sys, time\nfrom pathlib import Path\nfrom kweek.store.lock import RunLock\n"
        "with RunLock(Path(sys.argv[1])):\n"
        " subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        " print('up', flush=True); time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"up\n"
    below = children(run.pid)
    assert len(below) == 1
    done = stop(tmp_path)
    assert not done.supervised and done.seconds < 2
    assert run.wait(10) == -signal.SIGKILL
    wait_until(
        lambda: not Path(f"/proc/{below[0]}").exists() or "Z" in Path(f"/proc/{below[0]}/stat").read_text(),
        10,
    )
    with pytest.raises(KweekError, match="nothing is running"):
        stop(tmp_path)
    with RunLock(tmp_path):
        pass


def test_a_lock_that_names_somebody_else_ends_nobody(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        (tmp_path / "lock").write_text(f"{bystander.pid}\n")
        with pytest.raises(KweekError, match="nothing is running"):
            stop(tmp_path)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_verb_stops_and_says_so(namespaces, tmp_path):
    run = start([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path)
    wait_until(lambda: len(descendants(run.pid)) >= 3)
    words = [sys.executable, "-m", "kweek", "stop", str(tmp_path), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert json.loads(done.stdout)["supervised"] is True, done.stderr
    run.wait(10)
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 2 and "nothing is running there" in again.stderr
