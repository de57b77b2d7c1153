"""Compression as it is used: settings, one text in, a text with its report out."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass

from kweek.errors import ConfigError
from kweek.protocols import LanguageModel
from kweek.system.compression.extract import Count, extract
from kweek.system.compression.perplexity import KEEP_WORDS, WINDOW, drop
from kweek.system.compression.protected import KINDS, Kind, count_kept, protect
from kweek.system.compression.relevance import Relevance, by_words
from kweek.system.compression.report import Compressed, Flop, Method, break_even, unchanged
from kweek.system.compression.spans import joined
from kweek.tokenize.tokenizer import Tokenizer

BYTES_PER_TOKEN = (
    4.0  # of English in the vocabularies of large models; a guess, and called so wherever it is shown
)


@dataclass(frozen=True)
class Settings:
    """How texts are compressed.

    Attributes:
        ratio: how many times fewer tokens the whole prompt is to have.
        method: "extract" keeps sentences to the letter; "perplexity" also leaves out words that a model foresees.
        protect: kinds of spans that are never damaged.
        min_tokens: shorter texts are left as they are.
        keep_words: share of the unprotected words of a sentence that "perplexity" keeps.

    Raises:
        ConfigError: a value that cannot be meant.
    """

    #: the ratio that Kweek's own claim is measured at, see docs/log.md.
    ratio: float = 4.0
    #: changes no sentence and needs no model.
    method: Method = "extract"
    protect: tuple[Kind, ...] = KINDS
    #: a paragraph: of less there is little to leave out, and its sentences need one another.
    min_tokens: int = 200
    keep_words: float = KEEP_WORDS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and self.ratio > 1):
            raise ConfigError(f"{self.ratio:g} is no ratio", where="ratio", fix="give one above 1, such as 4")
        if self.method not in ("extract", "perplexity"):
            raise ConfigError(f"{self.method!r} is unknown", where="method", fix="use extract or perplexity")
        if not 0 < self.keep_words <= 1:
            raise ConfigError(f"{self.keep_words:g} is no share", where="keep_words", fix="give 0 to 1")
        if wrong := [kind for kind in self.protect if kind not in KINDS]:
            raise ConfigError(
                f"{wrong[0]!r} is unknown", where="protect", fix=f"use some of {', '.join(KINDS)}"
            )

    def fingerprint(self) -> str:
        """Hex SHA-256 of all settings: what a measurement of fidelity holds for."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class Compressor:
    """Compresses texts.

    Args:
        settings: how.
        tokenizer: counts tokens, and reads for the model; None guesses four bytes for a token.
        model: scores words; needed by the method "perplexity" only.
        max_positions: tokens that the model can read at once.
        relevance: judges sentences, for the method "extract".
        reader: FLOP of reading so many tokens with the model that the text is for; None where nobody knows.

    Attributes:
        exact: whether tokens are counted, not guessed.

    Raises:
        ConfigError: the method needs a model and a tokenizer, and has none.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizer: Tokenizer | None = None,
        model: LanguageModel | None = None,
        *,
        max_positions: int = WINDOW,
        relevance: Relevance = by_words,
        reader: Flop | None = None,
    ) -> None:
        if settings.method == "perplexity" and (model is None or tokenizer is None):
            raise ConfigError("perplexity needs a model", where="method", fix="name one, or use extract")
        self.settings, self._tokenizer, self._model = settings, tokenizer, model
        self._relevance, self._reader = relevance, reader
        self._window = min(WINDOW, max_positions)
        self.exact = tokenizer is not None

    def count(self, text: str) -> int:
        """Tokens of a text."""
        if self._tokenizer is None:
            return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)
        return len(self._tokenizer.encode(text))

    def __call__(self, text: str, question: str, *, beside: int = 0) -> Compressed:
        """Compress one text.

        Args:
            text: a context: documents, notes, results.
            question: what will be asked of it; "" is blind.
            beside: tokens that the prompt has besides; they stay, and the prompt as a whole is to have the ratio.

        Raises:
            KweekError: the model failed.
        """
        started = time.perf_counter()
        before, settings = self.count(text), self.settings
        if before < settings.min_tokens:
            return unchanged(text, before, settings.ratio, f"it has fewer than {settings.min_tokens} tokens")
        budget = math.floor((before + beside) / settings.ratio) - beside
        if budget < 1:
            return unchanged(text, before, settings.ratio, "the rest of the prompt alone is over the target")
        found = protect(text, settings.protect)
        if settings.method == "extract":
            chosen = extract(text, question, budget, _remembering(self.count), found, self._relevance)
        else:
            assert self._model is not None and self._tokenizer is not None
            chosen = drop(
                text, question, budget, _remembering(self.count), found, self._model, self._tokenizer,
                settings.keep_words, self._window,
            )  # fmt: skip
        left = joined(text, chosen.spans)
        after = self.count(left)
        if after >= before or not left:
            why = "what is protected leaves nothing to take away" if left else "no sentence fits the target"
            return unchanged(text, before, settings.ratio, why)
        return Compressed(
            left, tuple(chosen.spans), settings.method, before, after, settings.ratio, chosen.flop,
            time.perf_counter() - started, count_kept(found, chosen.spans),
            self._break_even(chosen.flop / before, before / after),
        )  # fmt: skip

    def _break_even(self, flop_per_token: float, ratio: float) -> int | None:
        if self._reader is None or math.isnan(flop_per_token):
            return None
        return break_even(lambda num_tokens: flop_per_token * num_tokens, self._reader, ratio)


def compress(
    text: str,
    question: str,
    target_ratio: float = 4.0,
    model: LanguageModel | None = None,
    tokenizer: Tokenizer | None = None,
) -> Compressed:
    """Compress one text with the usual settings: by extraction, or by perplexity where a model is given."""
    method: Method = "extract" if model is None else "perplexity"
    return Compressor(Settings(target_ratio, method), tokenizer, model)(text, question)


def _remembering(count: Count) -> Count:
    """The same, that counts no text twice."""
    known: dict[str, int] = {}

    def counted(text: str) -> int:
        if text not in known:
            known[text] = count(text)
        return known[text]

    return counted
