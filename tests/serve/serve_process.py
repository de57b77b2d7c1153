"""`kweek serve` in a process of its own, and plain HTTP to speak to it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Running:
    """A server in another process. `url` ends with /v1."""

    url: str
    model: str
    process: subprocess.Popen[str]

    def connect(self) -> http.client.HTTPConnection:
        """A new connection."""
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=240)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of one request; `body` is an object, or bytes as they are."""
        connection = self.connect()
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        status, found, shown = answer.status, json.loads(answer.read()), dict(answer.getheaders())
        connection.close()
        return status, found, {key.lower(): value for key, value in shown.items()}


def start(folder: Path, *options: str) -> Running:
    """Start on a free port, as a user does, and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kweek", "serve", str(folder), "--port", "0", "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout and process.stderr
    line = process.stdout.readline()
    assert line, process.stderr.read()
    said = json.loads(line)
    return Running(said["url"], said["model"], process)


def end(running: Running) -> tuple[str, str]:
    """Kill it, whatever it is doing; returns what it wrote after its first line."""
    running.process.kill()
    return running.process.communicate()
