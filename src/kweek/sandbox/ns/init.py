"""Process 1 of the program's namespace: starts the program, feeds and watches it, and ends everything with it.

When this process ends, for whatever reason, the kernel kills all others of the namespace. It ends when the program
does, when a limit is exceeded, when the caller closes its end of the pipe, and when its parent dies.
"""

from __future__ import annotations

import os
import resource
import select
import time

from . import confine, kernel, tree
from .request import frame
from .watch import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .request import Request
    from .wire import Value

_SIGKILL, _SIGINT, _SIGXCPU, _SIGSYS = 9, 2, 24, 31
_CHUNK = 1 << 16


class Stopped(Exception):
    """The caller wants no result any more."""


class Streams:
    """The program's standard streams: what is still to be fed, and what has come."""

    def __init__(self, given: bytes, limit: int) -> None:
        """`given` goes to standard input; `limit` is the most bytes of both outputs together."""
        inner_in, self.feed = os.pipe()
        self.out, inner_out = os.pipe()
        self.err, inner_err = os.pipe()
        self.inner = (inner_in, inner_out, inner_err)
        self.said: dict[int, list[bytes]] = {self.out: [], self.err: []}
        self._left, self._given = limit, memoryview(given)
        self.flooded = False
        os.set_blocking(self.feed, False)

    def register(self, poll: select.poll) -> None:
        """Watch the outer ends; called in the supervisor after the program has been forked."""
        for descriptor in self.inner:
            os.close(descriptor)
        poll.register(self.out, select.POLLIN)
        poll.register(self.err, select.POLLIN)
        poll.register(self.feed, select.POLLOUT)

    def serve(self, descriptor: int) -> bool:
        """Move what can be moved without waiting; false when this stream is finished."""
        if descriptor == self.feed:
            try:
                self._given = self._given[os.write(descriptor, self._given[:_CHUNK]) :]
            except BlockingIOError:
                return True
            except OSError:  # nobody reads it any more
                self._given = self._given[:0]
            if not self._given:
                os.close(descriptor)
            return bool(self._given)
        piece = os.read(descriptor, _CHUNK)
        self.flooded |= len(piece) > self._left
        if kept := piece[: self._left]:
            self.said[descriptor].append(kept)
            self._left -= len(kept)
        return bool(piece)

    def drain(self) -> None:
        """Read what is still in the pipes of a program that is dead, and all its children with it."""
        for descriptor in self.said:
            while self.serve(descriptor):
                pass


def run(request: Request, report: int, group: int) -> None:
    """Everything that process 1 does; the last thing is to write the report. Never returns.

    Args:
        report: the descriptor that the report goes to.
        group: the list of a control group for the program to enter, open, or -1.
    """
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL, what="dying with the supervisor")
        os.setsid()
        # Python would turn it into an exception, and the program can send it.
        kernel.set_signal(_SIGINT, ignored=False)
        kernel.hostname(b"sandbox")
        processes = tree.settle(request)
        tree.write_files(request.files)
        answer = _supervise(request, processes, group)
    except Stopped:
        os._exit(1)
    except (kernel.Refused, OSError) as error:
        answer = [b"refused", str(error).encode()]
    _write(report, frame(answer))
    os._exit(0)


def _supervise(request: Request, processes: int, group: int) -> Value:
    """Start the program, wait for its end or bring it about, and account for it."""
    streams = Streams(request.stdin, request.output)
    started = time.monotonic()
    program = _start(request, streams, group)
    watch = Watch(processes, request.memory, request.cpu_microseconds)
    poll = select.poll()
    streams.register(poll)
    poll.register(0, 0)  # the caller's end of the pipe: only its closing matters
    ended = os.pidfd_open(program)
    poll.register(ended, select.POLLIN)
    reason = _wait(poll, streams, watch, ended, started + request.microseconds / 1e6)
    status = _end_all(program)
    microseconds = int((time.monotonic() - started) * 1e6)
    streams.drain()
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    reason = reason or _reason_of(status, watch.cpu_seconds() * 1e6 > request.cpu_microseconds)
    files, files_cut = tree.read_files(request.files, request.disk)
    return [
        b"done",
        os.waitstatus_to_exitcode(status),
        (reason or ("output_bytes" if streams.flooded else "")).encode(),
        int(streams.flooded or files_cut),
        microseconds,
        int(watch.cpu_seconds() * 1e6),
        max(watch.peak, largest),
        *(b"".join(streams.said[stream]) for stream in (streams.out, streams.err)),
        [[name, content] for name, content in files],
    ]


def _start(request: Request, streams: Streams, group: int) -> int:
    """The program's process, once it is the program.

    Raises:
        Refused: it could not be confined or started; nothing of it has run.
    """
    failure, inner = os.pipe()  # closed by a successful exec
    program = os.fork()
    if program == 0:
        try:
            confine.become(request, streams.inner, group)
        except BaseException as error:
            os.write(inner, f"{error or type(error).__name__}".encode())
        os._exit(127)
    os.close(inner)
    said = os.read(failure, 4096)
    os.close(failure)
    if said:
        raise kernel.Refused(said.decode(errors="replace"))
    return program


def _wait(poll: select.poll, streams: Streams, watch: Watch, ended: int, deadline: float) -> str:
    """Serve the streams until the program has ended; the limit that was exceeded before, or nothing.

    Raises:
        Stopped: the caller has gone or wants no result.
    """
    look_at = 0.0
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "seconds"
        if now >= look_at:
            if reason := watch.look():
                return reason
            now = time.monotonic()
            look_at = now + watch.pause()
        for descriptor, _ in poll.poll(max(0.0, min(look_at, deadline) - now) * 1000):
            if descriptor == 0:
                raise Stopped
            if descriptor == ended:
                return ""
            if not streams.serve(descriptor):
                poll.unregister(descriptor)
            if streams.flooded:
                return "output_bytes"


def _end_all(program: int) -> int:
    """Kill every process of the namespace and wait for each; returns the program's own status."""
    status = 0
    while True:
        try:
            os.kill(-1, _SIGKILL)  # all but this one
            child, how = os.waitpid(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            break
        if child == program:
            status = how
    return status


def _reason_of(status: int, used_up: bool) -> str:
    """What limit of the kernel's own a program died of; `used_up` says whether its processor time was over."""
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if signal == _SIGXCPU or (signal == _SIGKILL and used_up):
        return "cpu_seconds"
    return "call" if signal == _SIGSYS else ""


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
