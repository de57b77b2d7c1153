"""The tier `ns`: a program in namespaces of its own under Linux, with what this machine has and nothing installed."""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kweek.sandbox import groups, interpreter
from kweek.sandbox.limits import PORTABLE, Limits, Result, SandboxError
from kweek.sandbox.ns.request import Request, read_frame, send
from kweek.sandbox.report import to_result
from kweek.sandbox.seccomp import build_filter

if TYPE_CHECKING:
    from kweek.sandbox.ns.wire import Value

#: Folders that are there on every Linux; the root of a run is built over one, seen by that run alone.
_STAGES = ("/tmp", "/mnt", "/run", "/var")  # noqa: S108 - covered, never written to
_START = "import sys; sys.path.append(sys.argv[1]); from ns.supervisor import main; main()"
_GRACE_SECONDS = 60.0  # beyond the program's own, for a machine that swaps; set-up takes 0.02 s
_END_SECONDS = 5.0  # for the supervisor to end when told to; it takes milliseconds
_ENVIRONMENT = (
    *("PATH=/python/bin", "HOME=/work", "USER=kweek", "TMPDIR=/tmp", "LANG=C.UTF-8", "TZ=UTC"),
    *("PYTHONUTF8=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1"),
    "PYTHONHASHSEED=0",  # the same program says the same
    "MALLOC_ARENA_MAX=2",  # more of them reserve address space, which is bounded
)
_EXTRA_USERS = 1 << 22  # so many that two runs hardly ever share one


def run(argv: Sequence[str], files: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Result:
    """Run the words of a command in namespaces of its own.

    Raises:
        SandboxError: something cannot be enforced here; nothing of the program has run.
    """
    with groups.group(limits) as group:
        result = _run(argv, files, stdin, limits, group)
        if group is not None and result.reason is None and group.exceeded():
            return replace(result, reason="memory_bytes")
        return result


@lru_cache
def refusal() -> SandboxError | None:
    """Why this machine does not run programs in namespaces, found out by running one; None where it does."""
    try:
        done = run(["python3", "-c", "pass"], {}, b"", Limits())
    except SandboxError as error:
        return error
    if done.exit == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return SandboxError(f"Python does not start in the sandbox: {said or done.reason}", fix=PORTABLE)


def _run(
    argv: Sequence[str],
    files: Mapping[str, bytes],
    stdin: bytes,
    limits: Limits,
    group: groups.Group | None,
) -> Result:
    program_filter = _filter()  # first, because it is what says that this is no Linux
    python = interpreter.find()
    request = Request(
        parent=os.getpid(),
        outer_user=_outer_user(),
        stage=os.fsencode(next(stage for stage in _STAGES if Path(stage).is_dir())),
        binds=[(os.fsencode(source), os.fsencode(place)) for source, place in python.binds],
        hidden=[os.fsencode(folder) for folder in python.hidden],
        links=[(os.fsencode(name), os.fsencode(target)) for name, target in python.links],
        group=os.fsencode(group.path) if group else b"",
        filter=program_filter,
        argv=[os.fsencode(word) for word in argv],
        environment=[os.fsencode(pair) for pair in (*_ENVIRONMENT, *python.environment)],
        files=[(os.fsencode(name), content) for name, content in files.items()],
        stdin=stdin,
        microseconds=int(limits.seconds * 1e6),
        cpu_microseconds=int(limits.cpu_seconds * 1e6),
        memory=limits.memory_bytes,
        disk=limits.disk_bytes,
        processes=limits.processes,
        output=limits.output_bytes,
    )
    return to_result(_exchange(python.binary, send(request), limits.seconds + _GRACE_SECONDS), "ns")


@lru_cache
def _filter() -> bytes:
    """The filter of system calls for this machine."""
    if sys.platform != "linux":
        raise SandboxError("namespaces are a part of Linux", fix=PORTABLE)
    try:
        return build_filter(platform.machine())
    except ValueError as error:
        raise SandboxError(str(error), fix=PORTABLE) from None


def _outer_user() -> int:
    """A user that nobody is, for a run of the superuser; -1 for an ordinary user, who stays who they are.

    From the upper end of the users that this (user) namespace has, another for each run.
    """
    if os.geteuid() != 0:
        return -1
    spans = [list(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    start, _, count = max(spans, key=lambda span: span[2])
    if count < 1 << 16:  # one user, mapped by an ordinary one who plays superuser, or a few
        return -1
    end = min(start + count, (1 << 31) - 1)  # above are numbers that some tools take for negative
    return end - 1 - secrets.randbelow(min(_EXTRA_USERS, count // 4))


def _exchange(binary: str, request: bytes, seconds: float) -> Value:
    """Start a supervisor, give it the request, and take its report; it is gone afterwards, and all below it.

    Raises:
        SandboxError: it said nothing in time, or nothing that makes sense.
    """
    words = [binary, "-I", "-S", "-c", _START, str(Path(__file__).parent)]
    process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd="/", env=interpreter.bare_environment(), start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        with suppress(BrokenPipeError):  # it died; what it said will show
            process.stdin.write(request)
            process.stdin.flush()
        report = read_frame(process.stdout.fileno())
    except ValueError:
        report = None
    finally:
        late.cancel()
        with suppress(BrokenPipeError):
            process.stdin.close()  # whatever still runs ends now
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    if report is None:
        raise SandboxError("the supervisor of the program was killed or could not start", fix=PORTABLE)
    return report
