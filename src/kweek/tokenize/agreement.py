"""Whether two tokenizers give every text the same ids, without which the predictions of their models do not compare.

A logit is a statement about one id. Vocabularies of equal size whose ids mean other things raise no error in an
arithmetic of logits, so whoever compares models checks here first.
"""

from __future__ import annotations

import hashlib
import json

from kweek.errors import ConfigError
from kweek.tokenize.tokenizer import Tokenizer

#: What decides which ids a text gets; templates and settings beside it may differ.
_DECIDING = ("model", "added_tokens", "normalizer", "pre_tokenizer")


def check_same_tokenizer(teacher: Tokenizer, pupil: Tokenizer) -> None:
    """Raise ConfigError unless both give every text the same ids."""
    parts = [part for part in _DECIDING if teacher.definition.get(part) != pupil.definition.get(part)]
    if not parts and _pieces(teacher) != _pieces(pupil):
        parts = [
            "bytes of a token"
        ]  # tokenizers of other programs have no definition of their own to compare
    if parts:
        raise ConfigError(
            f"teacher and pupil have different tokenizers ({parts[0]} differs): their predictions do not compare",
            where=teacher.name,
            fix="take a teacher with the tokenizer of the pupil",
        )


def ids_fingerprint(tokenizer: Tokenizer) -> str:
    """Hex SHA-256 of all that `check_same_tokenizer` compares: equal for tokenizers that give equal ids."""
    parts = [tokenizer.definition.get(part) for part in _DECIDING]
    whole = json.dumps([parts, [piece.hex() for piece in _pieces(tokenizer)]], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def _pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every id."""
    return [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
