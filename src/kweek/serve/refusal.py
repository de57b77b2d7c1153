"""What the server answers when it does not do what was asked: OpenAI's error shape and status codes."""

from __future__ import annotations

from typing import Any

from kweek.errors import KweekError


class Refusal(Exception):
    """An answer that is an error.

    Args:
        message: one or two sentences: what is wrong and what to do.
        status: HTTP status.
        param: the field concerned ("messages[2].role").
        code: a word for programs ("context_length_exceeded").
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: KweekError, *, param: str | None = None) -> Refusal:
        """The refusal of a request whose content an inner floor did not accept; names no file of this machine."""
        fix = f". {error.fix[0].upper()}{error.fix[1:]}" if error.fix else ""
        return cls(f"{error.what}{fix}.", param=param)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the answer carries beside its body."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }
