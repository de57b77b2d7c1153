"""Single keys from the terminal, without a line end and without an echo."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

import typer


class Keys:
    """While this is open, keys are read one by one; the terminal is as before afterwards, whatever happened."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def __enter__(self) -> Keys:
        if sys.platform != "win32":
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin, termios.TCSANOW)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.platform != "win32" and self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def forget(self) -> None:
        """Drop what was typed before now: a key meant for the last screen must not answer this one."""
        if sys.platform != "win32":
            import termios

            termios.tcflush(sys.stdin, termios.TCIFLUSH)

    def read(self) -> str:
        """The next key.

        Raises:
            EOFError: the terminal is gone, or the key for the end of input was pressed.
            KeyboardInterrupt: the key for that was pressed.
        """
        if sys.platform == "win32":
            return str(typer.getchar())
        data = os.read(sys.stdin.fileno(), 1)
        if data in (b"", b"\x04"):
            raise EOFError
        return data.decode("latin-1")
