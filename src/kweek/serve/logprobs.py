"""Log-probabilities as the API shows them: the lists of text completions, the entries of chats, prompts by id."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kweek.serve.writing import token_bytes
from kweek.tokenize.tokenizer import Tokenizer

LOWEST = -9999.0  # OpenAI's figure for what JSON cannot hold, minus infinity


@dataclass(frozen=True)
class TokenScore:
    """A token with its natural-log probability and the likeliest ones at its place; None for a first token."""

    token_id: int
    logprob: float | None
    top: Sequence[tuple[int, float]] = ()


def finite(logprob: float) -> float:
    """A float that JSON can hold."""
    return logprob if math.isfinite(logprob) else LOWEST


def token_text(tokenizer: Tokenizer, index: int) -> str:
    """The text of a token; the bytes of one that is no whole text, spelled as OpenAI does (`bytes:\\xe2\\x82`)."""
    data = token_bytes(tokenizer, index)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class Offsets:
    """Where each token begins in the text, in characters; a character belongs to the token that completes it.

    Args:
        tokenizer: that of the model.
        start: characters before the first token.
    """

    def __init__(self, tokenizer: Tokenizer, start: int) -> None:
        self._tokenizer, self._at = tokenizer, start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def place(self, index: int) -> int:
        """The offset of the next token."""
        at = self._at
        self._at += len(self._decoder.decode(token_bytes(self._tokenizer, index)))
        return at


def completion_logprobs(
    tokenizer: Tokenizer, scores: Sequence[TokenScore], offsets: Offsets, num_top: int, num_hidden: int = 0
) -> dict[str, Any]:
    """The `logprobs` object of a text completion.

    Args:
        tokenizer: names the tokens.
        scores: the tokens in order.
        offsets: places them, and those that later chunks tell of.
        num_top: alternatives to show; the token itself is added where it is not among them.
        num_hidden: tokens at the beginning that have no text.
    """
    shown: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for number, score in enumerate(scores):
        own = None if score.logprob is None else finite(score.logprob)
        shown["tokens"].append(token_text(tokenizer, score.token_id))
        shown["token_logprobs"].append(own)
        shown["top_logprobs"].append(
            None if own is None else _by_text(tokenizer, score.token_id, own, score.top[:num_top])
        )
        shown["text_offset"].append(0 if number < num_hidden else offsets.place(score.token_id))
    return shown


def _by_text(
    tokenizer: Tokenizer, index: int, own: float, top: Iterable[tuple[int, float]]
) -> dict[str, float]:
    """Alternatives by text, the token itself with exactly its own float; two of one text are told apart by id."""
    found: dict[str, float] = {}
    entries = {other: finite(logprob) for other, logprob in top} | {index: own}
    for other, logprob in entries.items():
        text = token_text(tokenizer, other)
        found[f"token_id:{other}" if text in found else text] = logprob
    return found


def chat_logprobs(tokenizer: Tokenizer, scores: Iterable[TokenScore], num_top: int) -> dict[str, Any]:
    """The `logprobs` object of a chat completion."""
    content = []
    for score in scores:
        own = finite(score.logprob or 0.0)
        top = [
            _entry(tokenizer, other, own if other == score.token_id else finite(logprob))
            for other, logprob in score.top[:num_top]
        ]
        content.append(_entry(tokenizer, score.token_id, own) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _entry(tokenizer: Tokenizer, index: int, logprob: float) -> dict[str, Any]:
    data = token_bytes(tokenizer, index)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def prompt_logprobs(
    tokenizer: Tokenizer, scores: Sequence[TokenScore], ranks: Sequence[int], num_top: int
) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: by id, at each place the token that stands in the prompt first, then the likeliest.

    That order is what clients read the prompt's own log-probability from (inspect takes the first).
    """
    places: list[dict[str, Any] | None] = []
    for score, rank in zip(scores, ranks, strict=True):
        if score.logprob is None:
            places.append(None)
            continue
        likeliest = [(i, logprob, place) for place, (i, logprob) in enumerate(score.top[:num_top], 1)]
        entries = [(score.token_id, score.logprob, rank)]
        entries += [entry for entry in likeliest if entry[0] != score.token_id]
        places.append(
            {
                str(i): {
                    "logprob": finite(logprob),
                    "rank": place,
                    "decoded_token": token_bytes(tokenizer, i).decode("utf-8", "replace"),
                }
                for i, logprob, place in entries
            }
        )
    return places
