"""A Chromium process, spoken to in its DevTools protocol over two pipes: nobody else can reach it.

Messages are JSON, each ended by a zero byte (`--remote-debugging-pipe`: the browser reads descriptor 3, writes 4).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from kweek.errors import KweekError
from kweek.system.tools.browser.launch import NOBODY

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 20.0  # for one answer of the browser; a page that computes all the time does not get more
_START_SECONDS = 60.0  # until the process is there, on a busy machine too
_LAUNCH = Path(__file__).with_name("launch.py")
_FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-domain-reliability", "--disable-breakpad", "--disable-client-side-phishing-detection",
    "--disable-quic", "--disable-gpu", "--disable-dev-shm-usage", "--deny-permission-prompts",
    "--disable-features=Translate,OptimizationHints,MediaRouter,AsyncDns,AutofillServerCommunication",
    "--password-store=basic", "--window-size=1280,800", "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip


class BrowserError(KweekError):
    """A browser that is not there, or that did not do what it was asked to."""


class Chromium:
    """The process. Its profile is new and goes with it.

    It is in a network of its own (`launch`), and its own sandbox stays on: started by root it becomes a user that
    nobody is. Linux only; nowhere else can its network be taken away.

    Args:
        program: where it is; by default the first of its usual names.

    Attributes:
        listener: a socket in its network, and all that it can reach there.

    Raises:
        BrowserError: there is none, or its network cannot be taken away.
    """

    def __init__(self, program: str | None = None) -> None:
        found = program or next((path for name in _NAMES if (path := shutil.which(name))), None)
        if found is None or not Path(found).is_file():
            raise BrowserError("there is no Chromium on this machine", fix="install it: apt install chromium")
        if sys.platform != "linux":
            raise BrowserError("a browser's network can be taken away on Linux only", fix="use fetch instead")
        self._folder = Path(tempfile.mkdtemp(prefix="kweek-browser-"))
        self._answers: dict[int, dict[str, Any]] = {}
        self._arrived = threading.Condition()
        self._number = 0
        self._ended = False
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        ours, theirs = socket.socketpair()
        try:
            self._process = self._start(found, theirs.fileno(), commands, answers)
        finally:
            theirs.close()
            os.close(commands)
            os.close(answers)
        threading.Thread(target=self._listen, daemon=True, name="browser").start()
        self.listener = self._received(ours)

    def _start(self, program: str, *descriptors: int) -> subprocess.Popen[bytes]:
        if os.geteuid() == 0:
            os.chown(self._folder, NOBODY, NOBODY)
        words = [sys.executable, "-I", "-S", str(_LAUNCH), *map(str, descriptors), program, *_FLAGS]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self._folder), "LANG": "C.UTF-8"}
        return subprocess.Popen(  # noqa: S603 - the program that was found or named
            [*words, f"--user-data-dir={self._folder}"],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=self._folder,
            start_new_session=True,
        )

    def _received(self, channel: socket.socket) -> socket.socket:
        """The socket that the launcher hands over."""
        why = "no answer"
        with channel:
            channel.settimeout(_START_SECONDS)
            with contextlib.suppress(TimeoutError):
                said, descriptors, _, _ = socket.recv_fds(channel, 200, 1)
                if descriptors:
                    return socket.socket(fileno=descriptors[0])
                why = said.decode("utf-8", "replace") or why
        self.close()
        raise BrowserError(
            f"its network cannot be taken away ({why})",
            fix="allow namespaces to this user, or use fetch instead",
        )

    def ask(
        self, method: str, session: str | None = None, seconds: float = _SECONDS, **parameters: Any
    ) -> dict[str, Any]:
        """Give a command; what is answered.

        Raises:
            BrowserError: it is refused, takes too long, or the browser has ended.
        """
        number = self._send(method, session, parameters)
        with self._arrived:
            self._arrived.wait_for(lambda: number in self._answers or self._ended, seconds)
            answer = self._answers.pop(number, None)
        if answer is None:
            raise BrowserError(
                "it has ended" if self._ended else f"no answer within {seconds:g} s", where=method
            )
        if "error" in answer:
            raise BrowserError(str(answer["error"].get("message"))[:200], where=method)
        result = answer.get("result", {})
        return result if isinstance(result, dict) else {}

    def close(self) -> None:
        """End the process with all it started, and remove its profile."""
        with contextlib.suppress(OSError):
            os.close(self._write)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, method: str, session: str | None, parameters: dict[str, Any]) -> int:
        with self._arrived:
            self._number += 1
            number = self._number
            message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
            if session is not None:
                message["sessionId"] = session
            data = memoryview(json.dumps(message).encode() + b"\0")
            try:
                while data:
                    data = data[os.write(self._write, data) :]
            except OSError:
                self._ended = True
        return number

    def _listen(self) -> None:
        held = bytearray()
        with os.fdopen(self._read, "rb", buffering=0) as stream:
            while piece := stream.read(1 << 16):
                held += piece
                while (end := held.find(b"\0")) >= 0:
                    self._take(json.loads(held[:end]))
                    del held[: end + 1]
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Page.javascriptDialogOpening":  # it would hold everything up
            self._send("Page.handleJavaScriptDialog", message.get("sessionId"), {"accept": False})
        if "id" in message:
            with self._arrived:
                self._answers[message["id"]] = message
                self._arrived.notify_all()
