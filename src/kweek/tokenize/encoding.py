"""The encoders behind a tokenizer: tiktoken for plain byte-level BPE, the `tokenizers` library for the rest.

Both read ordinary text only: no string, however it looks, becomes a control token here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import tiktoken
import tokenizers

from kweek.errors import CheckpointError
from kweek.tokenize.bytelevel import windows
from kweek.tokenize.definition import Definition, check, plain_ranks, split_pattern

#: Read at load by both encoders: where they differ, the library is right and tiktoken is not used.
PROBE = (
    "The café's naïve owner's son DIDN'T pay 3,141.59 € (½ of ١٢٣) \u2014 they'll say\u00a0so.\t\t"
    "x = {'a': [0x1F, -7e3]}\r\n  \n\n   indented\n\u3000日本語のテキスト、한국어 и русский नमस्ते "
    "👩‍👩‍👧 e\u0301 \u0130 \u017f   5 5  12 \n"
    "snake_case CamelCase https://example.org/?q=1&r=2 <b>x</b> !!!??? ...   "
)


class Encoder(Protocol):
    """Ordinary text to ids."""

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]: ...


class TiktokenEncoder:
    """Byte-level BPE by rank: several times faster than the library, equal ids (research: 100% of a shard).

    Args:
        ranks: bytes of a token to its id; the id is also its rank.
        pattern: split pattern.
        normalise: whether text is brought to NFC first, as Qwen's tokenizers ask.
        library: encodes the texts with a character whose bytes the vocabulary lacks.

    Raises:
        ValueError: the pattern is not one that tiktoken reads, or too many bytes are missing.
    """

    def __init__(
        self, ranks: Mapping[bytes, int], pattern: str, *, normalise: bool, library: LibraryEncoder
    ) -> None:
        self._unwritable = _unwritable({byte for byte in range(256) if bytes([byte]) not in ranks})
        self._library = library
        self._encoding = tiktoken.Encoding(
            "kweek", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}
        )
        self._normalise = normalise

    def _prepared(self, text: str) -> list[str]:
        if self._normalise and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
        return list(windows(text))

    def encode(self, text: str) -> list[int]:
        if self._unwritable and self._unwritable.search(text):
            return self._library.encode(text)
        pieces = self._prepared(text)
        if len(pieces) == 1:
            return self._encoding.encode_ordinary(pieces[0])
        return [index for piece in pieces for index in self._encoding.encode_ordinary(piece)]

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        if threads == 1:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:  # tiktoken lets go of the interpreter lock
            return list(pool.map(self.encode, texts))


def _unwritable(missing: set[int]) -> re.Pattern[str] | None:
    """Matches a character that a vocabulary without the bytes `missing` cannot write; None without any.

    Small vocabularies lack the bytes that their corpus never held: control characters, the first bytes of
    empty planes (SmolLM2), and always those that UTF-8 never uses.
    """
    ranges = []
    for byte in sorted(missing):
        if byte < 0x80:
            ranges.append((byte, byte))
        elif 0xF1 <= byte <= 0xF4:
            start = (byte - 0xF0) << 18
            ranges.append((start, min(start + (1 << 18) - 1, 0x10FFFF)))
        elif byte not in (0xC0, 0xC1) and byte < 0xF5:
            raise ValueError(f"the vocabulary lacks byte 0x{byte:02X}")
    if not ranges:
        return None
    return re.compile("[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges) + "]")


class LibraryEncoder:
    """Any BPE that `tokenizer.json` can describe, without its control tokens.

    Args:
        definition: the whole definition; added tokens other than runs of blanks are left out, so that text
            that spells them is split like any other.
    """

    def __init__(self, definition: Definition) -> None:
        ordinary = [token for token in definition["added_tokens"] if is_blank(token)]
        without = dict.fromkeys(("post_processor", "truncation", "padding"))
        bare = {**definition, **without, "added_tokens": ordinary}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
            self._tokenizer.encode(PROBE)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # bare Exception, or a panic of the library, which is not even that
            raise CheckpointError(f"the vocabulary is not usable: {error}") from error

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(clean(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        batch = self._tokenizer.encode_batch_fast([clean(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ordinary ids by the definition's own decoder."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)


def is_blank(added: Mapping[str, object]) -> bool:
    """Whether an added token is a run of blanks: vocabulary for indented code, not a control token."""
    return not added.get("special") and not str(added["content"]).strip()


def clean(text: str) -> str:
    """Replace lone surrogates, which no encoding can write, by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def make_encoder(definition: Definition) -> Encoder:
    """tiktoken where the definition is plain byte-level BPE that it reproduces on `PROBE`; else the library.

    Raises:
        CheckpointError: the definition makes no sense, or the library cannot read it.
    """
    check(definition)
    library = LibraryEncoder(definition)
    pattern, ranks = split_pattern(definition), plain_ranks(definition)
    if pattern is None or ranks is None or any(is_blank(token) for token in definition["added_tokens"]):
        return library
    normalise = definition.get("normalizer") is not None
    try:
        fast = TiktokenEncoder(ranks, pattern, normalise=normalise, library=library)
        return fast if fast.encode(PROBE) == library.encode(PROBE) else library
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a pattern that only Oniguruma reads, a byte missing, a panic
        return library
