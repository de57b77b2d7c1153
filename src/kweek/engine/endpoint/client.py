"""Requests to an OpenAI-compatible endpoint: sent again where that may help, within a budget of tokens."""

from __future__ import annotations

import importlib.util
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kweek.errors import KweekError

if TYPE_CHECKING:
    import httpx

#: Too much at once, or a server that stumbled: what the same request may not meet again.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
ATTEMPTS = 6  # with the waits below about a minute, in which servers restart
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds; doubled from one to the other
TIMEOUT = 600.0  # seconds until an answer: a long one of a busy model takes minutes


class EndpointError(KweekError):
    """The endpoint refused a request for good. `status` is HTTP's."""

    def __init__(self, what: str, *, where: str, status: int) -> None:
        super().__init__(what, where=where)
        self.status = status


class TokenBudget:
    """Tokens that may be spent, prompts and answers together; threads may share it.

    Args:
        limit: None sets none.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.spent = limit, 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Set tokens aside for a request; false, and nothing is taken, where they are not left."""
        with self._lock:
            if self.limit is not None and self.spent + count > self.limit:
                return False
            self.spent += count
            return True

    def settle(self, taken: int, used: int) -> None:
        """Replace what was set aside by what the endpoint says it was."""
        with self._lock:
            self.spent += used - taken


class EndpointClient:
    """Posts JSON and reads JSON.

    Args:
        url: of the API, with its version ("http://127.0.0.1:8000/v1").
        api_key: sent as a bearer token; shown nowhere.
        attempts: how often one request is sent at most.
        wait: sleeps some seconds.

    Raises:
        KweekError: the package httpx is not installed, or no URL.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
        attempts: int = ATTEMPTS,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise KweekError(
                "models behind an endpoint need a package that is not installed (httpx)",
                fix="install it: pip install 'kweek[endpoint]'",
            )
        import httpx

        if not url.startswith(("http://", "https://")):
            raise KweekError(
                f"{url!r} is no address of an endpoint", fix="give one like http://127.0.0.1:8000/v1"
            )
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self.url, self._attempts, self._wait = url.rstrip("/"), attempts, wait
        self._http = httpx.Client(headers=headers, timeout=httpx.Timeout(timeout, connect=10.0))
        self._failure = httpx.TransportError

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def get(self, path: str) -> Any:
        """The JSON at a path. Raises as `post`."""
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a body; the JSON that is answered.

        Raises:
            EndpointError: the request was refused.
            KweekError: the endpoint cannot be reached, keeps failing, or does not answer in JSON.
        """
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        where, why = f"{self.url}{path}", ""
        for attempt in range(self._attempts):
            asked: float | None = None
            try:
                answer = self._http.request(method, where, json=body)
            except self._failure as error:
                why = f"cannot be reached ({type(error).__name__}: {error})"
            else:
                if answer.status_code < 300:
                    return _json(answer, where)
                why = f"answered {answer.status_code}: {_message(answer)}"
                if answer.status_code not in _PASSING:
                    raise EndpointError(why, where=where, status=answer.status_code)
                asked = _retry_after(answer)
            if attempt + 1 < self._attempts:
                self._wait(_pause(attempt, asked))
        raise KweekError(
            f"{why}, {self._attempts} times",
            where=where,
            fix="look whether the server runs, or try again later",
        )


def _pause(attempt: int, asked: float | None) -> float:
    """Seconds to wait: what the endpoint asks for, else doubling, spread so that many do not come back at once."""
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)
    spread = longest * (0.5 + random.random() / 2)  # noqa: S311 - not for secrets
    return spread if asked is None else max(spread, min(asked, 2 * LONGEST_WAIT))


def _retry_after(answer: httpx.Response) -> float | None:
    """The seconds of the header; its other form, a date, is not read."""
    try:
        return float(answer.headers.get("Retry-After", ""))
    except ValueError:
        return None


def _json(answer: httpx.Response, where: str) -> Any:
    try:
        return answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise KweekError(
            "did not answer in JSON", where=where, fix="is this the address of the API?"
        ) from None


def _message(answer: httpx.Response) -> str:
    """What an error says of itself, in one line."""
    try:
        found = answer.json()
        error = found.get("error", found)
        said = error.get("message", error) if isinstance(error, Mapping) else error
    except (ValueError, AttributeError):
        said = answer.text
    return " ".join(str(said).split())[:300] or answer.reason_phrase
