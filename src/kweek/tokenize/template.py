"""Chat templates: messages to text, by Jinja source that may come from anywhere.

The packaged template is rendered in this process. Any other one is rendered in a process of its own, which
is killed when it takes too long: Jinja's sandbox keeps a template from the machine, but nothing inside
Python keeps it from building 2^60 characters or looping for ever.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from kweek.errors import CheckpointError, DataError
from kweek.protocols import Message
from kweek.tokenize.abilities import Abilities, probe
from kweek.tokenize.rendering import Refused, compile_template
from kweek.tokenize.shield import CLOSE, OPEN

MAX_TEMPLATE_CHARACTERS = 1 << 18  # the largest template of a published model is a tenth of this
MAX_START_SECONDS = 30.0  # a busy machine needs a second or two to start Python
MAX_RENDER_SECONDS = 5.0  # a long chat takes milliseconds

_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")


def default_chat_template() -> str:
    """Source of the packaged chat template (docs/chat-template.md)."""
    return resources.files("kweek.tokenize").joinpath("chat_template.jinja").read_text(encoding="utf-8")


class ChatTemplate:
    """A chat template.

    Args:
        source: Jinja source.
        name: what errors call it, for example the checkpoint's folder.
        variables: what every rendering is given besides the messages (`bos_token`, `eos_token`, ...).
        characters: those that are disguised in content, see `kweek.tokenize.shield`.

    Raises:
        CheckpointError: the source is too large or not a template.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str = "chat template",
        variables: Mapping[str, Any] | None = None,
        characters: str = "",
    ) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise CheckpointError(
                f"the chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARACTERS}",
                where=name,
            )
        self.source, self.name = source, name
        self.has_generation = _GENERATION.search(source) is not None
        self._variables = dict(variables or {})
        self._render: Callable[[Sequence[Mapping[str, Any]]], list[str]]
        if source == default_chat_template():
            one = compile_template(source, characters)
            self._render = lambda many: [one(variables) for variables in many]
        else:
            self._render = _Process(source, characters, name)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """The text of messages, without the marks around generated parts.

        Args:
            messages: OpenAI chat messages.
            add_generation_prompt: end with the opening of an assistant turn.
            variables: more names for the template (`tools`, `enable_thinking`, ...).

        Raises:
            DataError: the template refuses these messages.
            CheckpointError: the template fails, does something forbidden, or takes too long.
        """
        text = self.render_marked(messages, add_generation_prompt=add_generation_prompt, **variables)
        return text.replace(OPEN, "").replace(CLOSE, "")

    def render_marked(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """Like `render`, with `shield.OPEN` and `shield.CLOSE` around every `{% generation %}` block."""
        return self.render_many([(messages, {"add_generation_prompt": add_generation_prompt, **variables})])[
            0
        ]

    def render_many(self, chats: Sequence[tuple[Sequence[Message], Mapping[str, Any]]]) -> list[str]:
        """`render_marked` for several messages with their variables at once: a foreign template is far away.

        Raises:
            DataError, CheckpointError: as `render`, about the first that fails.
        """
        values = [
            {**self._variables, "add_generation_prompt": False, **variables, "messages": list(messages)}
            for messages, variables in chats
        ]
        try:
            return self._render(values)
        except Refused as error:
            raise DataError(f"the chat template refuses these messages: {error}", where=self.name) from error

    @functools.cached_property
    def abilities(self) -> Abilities:
        """What of a chat the template shows; found by asking it, once."""

        def attempt(messages: Sequence[Message], variables: Mapping[str, Any]) -> str | None:
            try:
                return self.render(messages, **variables)
            except (CheckpointError, DataError):
                return None

        return probe(attempt)


class _Process:
    """Renders one template in a process that can be killed; started at first use, again after a kill."""

    def __init__(self, source: str, characters: str, name: str) -> None:
        self._opening = json.dumps({"source": source, "characters": characters})
        self._name = name
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        with self._lock:
            self._started()  # a broken template is an error at load, not at the first chat

    def __call__(self, many: Sequence[Mapping[str, Any]]) -> list[str]:
        with self._lock:
            answer = self._ask(self._started(), json.dumps(many), MAX_RENDER_SECONDS * len(many))
        if "texts" in answer:
            return list(answer["texts"])
        if answer["refused"]:
            raise Refused(answer["error"])
        raise CheckpointError(f"the chat template fails ({answer['error']})", where=self._name)

    def _started(self) -> subprocess.Popen[str]:
        """The process; a new one after a kill, and in a fork, which must not share its parent's pipes."""
        process = self._process
        if process is not None and self._owner == os.getpid() and process.poll() is None:
            return process
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kweek.tokenize.rendering"],  # -P: nothing from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            encoding="utf-8",
        )
        self._process, self._owner = process, os.getpid()
        weakref.finalize(self, _end, process, os.getpid())
        answer = self._ask(process, self._opening, MAX_START_SECONDS)
        if "error" in answer:
            raise CheckpointError(f"the chat template is broken ({answer['error']})", where=self._name)
        return process

    def _ask(self, process: subprocess.Popen[str], line: str, seconds: float) -> dict[str, Any]:
        """One line there, one line back; the process is killed when the answer takes too long."""
        assert process.stdin and process.stdout
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if not answer:
            process.kill()
            process.wait()
            raise CheckpointError(
                f"the chat template takes more than {seconds:g} seconds or too much memory", where=self._name
            )
        value: dict[str, Any] = json.loads(answer)
        return value


def _end(process: subprocess.Popen[str], owner: int) -> None:
    """Let the process go; a fork leaves its parent's alone."""
    if owner == os.getpid():
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
