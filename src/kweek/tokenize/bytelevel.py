"""Byte-level BPE: the spelling of bytes as characters, the split patterns llama.cpp knows, merges from ranks.

A byte-level vocabulary in `tokenizer.json` and in GGUF spells each of the 256 bytes as one printable
character (GPT-2's table), so that any byte string is a string over its alphabet.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from kweek.errors import CheckpointError

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_QWEN = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: Split patterns by the name under which llama.cpp has them compiled in (`tokenizer.ggml.pre`).
PATTERNS: dict[str, str] = {
    "gpt-2": rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
    "qwen2": _QWEN,
    "llama-bpe": _QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
    # SmolLM splits off digits first and applies GPT-2's pattern to what is left; in one pattern this means
    # that a digit counts as the end of the text for the blanks before it.
    "smollm": (rf"{_CONTRACTIONS}|\p{{N}}| ?\p{{L}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?![^\s\p{{N}}])|\s+"),
}

#: Other names under which llama.cpp has the same patterns.
_ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}

#: The pattern of the tokenizers that Kweek trains: single digits, so that arithmetic is digit by digit.
DEFAULT_PATTERN = "qwen2"

MAX_WINDOW = 100_000  # characters: the regex engines overflow on one run of blanks ten times as long
_SAFE_CUT = re.compile(r"\S(?= \S)")  # no pattern above joins a blank to the word before it


def _byte_characters() -> list[str]:
    """GPT-2's table: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_TO_CHARACTER = _byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}


def spell(data: bytes) -> str:
    """The characters that stand for `data` in a byte-level vocabulary."""
    return "".join(BYTE_TO_CHARACTER[byte] for byte in data)


def unspell(piece: str) -> bytes | None:
    """The bytes that a vocabulary entry stands for, or None when it is not spelled byte-level."""
    try:
        return bytes(CHARACTER_TO_BYTE[character] for character in piece)
    except KeyError:
        return None


def pre_tokenizer(pre: str | None) -> str:
    """The name in `PATTERNS` for a `tokenizer.ggml.pre` name.

    Raises:
        CheckpointError: the name is missing or not among the known ones. llama.cpp falls back to another
            pattern in silence when it is missing; the ids would be wrong, so Kweek refuses.
    """
    name = _ALIASES.get(pre or "", pre)
    if name not in PATTERNS:
        known = ", ".join(sorted(PATTERNS))
        raise CheckpointError(
            f"pre-tokenizer {str(pre)[:40]!r} is not supported" if pre else "the pre-tokenizer is not named",
            where="tokenizer.ggml.pre",
            fix=f"use a model with one of: {known}",
        )
    return name


def windows(text: str) -> Iterator[str]:
    """Cut a very long text where every pattern above splits anyway; short texts come back whole.

    Where `MAX_WINDOW` characters hold no such place (a run of blanks, a blob without any), the cut is hard:
    the pieces still join to the text, only the tokens around the cut may differ from an uncut encoding.
    """
    start = 0
    while len(text) - start > MAX_WINDOW:
        cut = start + MAX_WINDOW
        for match in _SAFE_CUT.finditer(text, start + MAX_WINDOW // 2, cut + 1):
            cut = match.end()
        yield text[start:cut]
        start = cut
    yield text[start:]


def split_by_ranks(data: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """The tokens of `data` when only merges of a rank less than `below` are applied, lowest rank first."""
    parts = [data[i : i + 1] for i in range(len(data))]
    while len(parts) > 1:
        pairs = [ranks.get(left + right, below) for left, right in itertools.pairwise(parts)]
        lowest = min(pairs)
        if lowest >= below:
            break
        i = pairs.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def merges_from_ranks(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token of more than one byte was merged from, in order of rank.

    A trained vocabulary has exactly one such pair per token: what the tokens of lower rank leave of it.

    Raises:
        CheckpointError: the lower ranks leave other than two parts, so this is not a trained BPE.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = split_by_ranks(token, ranks, rank)
        if len(parts) != 2:
            raise CheckpointError(f"token {token!r} (rank {rank}) is not the merge of two tokens before it")
        merges.append((parts[0], parts[1]))
    return merges
