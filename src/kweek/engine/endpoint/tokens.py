"""Which tokens an endpoint speaks of: from ids where it gives them, else from texts that mean one token only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kweek.engine.prompt_scores import PromptScores, Top
from kweek.errors import ConfigError, KweekError
from kweek.protocols import Request
from kweek.tokenize.tokenizer import Tokenizer

_BY_ID, _BY_BYTES = "token_id:", "bytes:"  # how vLLM and OpenAI spell tokens that are no text
_UNSAYABLE = "�"


class TokenNames:
    """The tokens of a vocabulary by what an endpoint may call them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: dict[bytes, int | None] = {}  # None where several tokens are the same bytes
        for index in range(tokenizer.vocab_size):
            piece = tokenizer.token_bytes(index)
            self._ids[piece] = None if piece in self._ids else index

    def id_of(self, name: str) -> int:
        """The token of that name.

        Raises:
            KweekError: none, or one of several: the endpoint has another tokenizer, or names tokens as nobody does.
        """
        if name.startswith(_BY_ID):
            return self.checked(int(name.removeprefix(_BY_ID)))
        piece = name.encode()
        if name.startswith(_BY_BYTES):
            piece = bytes.fromhex(name.removeprefix(_BY_BYTES).replace("\\x", ""))
        found = self._ids.get(piece)
        if found is None:
            raise KweekError(
                f"the endpoint names a token {name!r}, which is not one token of this tokenizer",
                fix="give the tokenizer of the remote model; vLLM names ids with return_token_ids",
            )
        return found

    def checked(self, index: int) -> int:
        """The same id. Raises ConfigError outside the vocabulary."""
        if not 0 <= index < self._tokenizer.vocab_size:
            raise ConfigError(
                f"the endpoint speaks of token {index}, the tokenizer ends at {self._tokenizer.vocab_size - 1}",
                fix="give the tokenizer of the remote model",
            )
        return index

    def require(self, index: int, text: str) -> None:
        """Raises:
        ConfigError: the endpoint reads another text in a token than this tokenizer, so it scores something else.
        """
        own = self._tokenizer.token_bytes(index).decode("utf-8", "replace")
        if _UNSAYABLE not in own + text and own.strip() != text.strip():  # some decoders strip a blank
            raise ConfigError(
                f"the endpoint reads token {index} as {text!r}, this tokenizer as {own!r}: another tokenizer",
                fix="take a teacher with the tokenizer of the pupil, or learn from its text",
            )


def prompt_scores(
    choice: Mapping[str, Any], request: Request, names: TokenNames, *, echoed: bool
) -> PromptScores:
    """The scores of a request's prompt.

    Raises:
        KweekError: the endpoint gives none, of other tokens, or of another number of them.
    """
    ids = request.prompt_ids
    found = _echoed(choice, request, names) if echoed else _by_place(choice, request, names)
    if len(found) != len(ids):
        raise KweekError(
            f"the endpoint scores {len(found)} tokens of a prompt of {len(ids)}",
            fix="use an endpoint with prompt_logprobs or echo (kweek serve, vLLM)",
        )
    return found


def _by_place(choice: Mapping[str, Any], request: Request, names: TokenNames) -> PromptScores:
    """From `prompt_logprobs`: at each place a table by id, with logarithm, rank and text."""
    scores = PromptScores()
    places = choice.get("prompt_logprobs") or [None]
    for index, place in zip(request.prompt_ids[1:], places[1:], strict=False):
        entries = {int(key): entry for key, entry in place.items()}
        own = entries[index]
        if own.get("decoded_token") is not None:
            names.require(index, own["decoded_token"])
        scores.logprobs.append(float(own["logprob"]))
        scores.ranks.append(int(own.get("rank") or 0))
        scores.top.append(_best({key: float(entry["logprob"]) for key, entry in entries.items()}, request))
    return scores


def _echoed(choice: Mapping[str, Any], request: Request, names: TokenNames) -> PromptScores:
    """From the `logprobs` of a completion that repeats its prompt; ranks are not told, so 0."""
    scores = PromptScores()
    logprobs = choice.get("logprobs") or {}
    count = len(request.prompt_ids)
    rows = zip(
        logprobs["tokens"][1:count], logprobs["token_logprobs"][1:count],
        (logprobs.get("top_logprobs") or [None] * count)[1:count], request.prompt_ids[1:], strict=True,
    )  # fmt: skip
    for name, value, top, index in rows:
        if not name.startswith((_BY_ID, _BY_BYTES)):
            names.require(index, name)
        scores.logprobs.append(float(value))
        scores.ranks.append(0)
        named = {names.id_of(other): float(found) for other, found in (top or {}).items()}
        scores.top.append(_best(named | {index: float(value)}, request))
    return scores


def _best(found: Mapping[int, float], request: Request) -> Top:
    ordered = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))
    return ordered[: request.num_prompt_top]


def chosen_tokens(
    choice: Mapping[str, Any],
    logprobs: Mapping[str, Any],
    request: Request,
    names: TokenNames,
    *,
    echoed: bool,
) -> tuple[list[int], list[float], list[Top]]:
    """The new tokens with their natural logs and alternatives, up to the first that ends the request.

    Raises:
        KweekError: the endpoint does not say which tokens it chose.
    """
    if not request.max_new_tokens:
        return [], [], []
    start = len(request.prompt_ids) if echoed and request.prompt_logprobs else 0
    values = list(logprobs.get("token_logprobs") or [])[start:]
    ids: Sequence[int] | None = choice.get("token_ids")
    if ids is None:
        ids = [names.id_of(name) for name in list(logprobs.get("tokens") or [])[start:]]
    if len(ids) != len(values) or (not ids and choice["text"]):
        raise KweekError(
            "the endpoint does not say which tokens it chose, or how likely they were",
            fix="use an endpoint that returns logprobs of completions, or ask it in chats",
        )
    count = next((place for place, index in enumerate(ids, 1) if index in request.stop_ids), len(ids))
    count = min(count, request.max_new_tokens)
    tops: list[Top] = []
    if request.num_top:
        for place in list(logprobs.get("top_logprobs") or [])[start : start + count]:
            named = {names.id_of(name): float(value) for name, value in place.items()}
            tops.append(sorted(named.items(), key=lambda entry: (-entry[1], entry[0]))[: request.num_top])
    return [names.checked(int(index)) for index in ids[:count]], [float(v) for v in values[:count]], tops
