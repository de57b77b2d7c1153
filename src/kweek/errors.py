"""The one family of errors a user may see: what went wrong, where, and what to do about it."""

from __future__ import annotations


class KweekError(Exception):
    """Root of all errors that are the input's or the machine's fault, not a bug.

    Args:
        what: what is wrong, one clause without a full stop.
        where: the file, line or key concerned ("corpus/a.txt:12", "stages.base.width").
        fix: what the user can do, an imperative clause.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}. {fix[0].upper()}{fix[1:]}." if fix else f"{message}.")


class ConfigError(KweekError):
    """A recipe, key, value or command line that cannot be meant."""


class DataError(KweekError):
    """Documents, chats or token files that cannot be used."""


class CheckpointError(KweekError):
    """A model folder or file that cannot be loaded."""


class StoreError(KweekError):
    """A file or folder that could not be written, verified or locked."""


class GuardError(KweekError):
    """A guard that refuses to go on: a fooled verifier, a reward with the wrong sign, a loss on nothing."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch says so in words, on a CPU and on a GPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


class Interrupted(Exception):
    """Raised at a safe point after a request to stop; everything needed to resume has been saved."""
