"""A tokenizer as the program of `kweek.compress.runner` reads it: token bytes, classes of characters, template pieces.

Layout: src/kweek/engine/native/weights.h; how they are used: text.h beside it.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from itertools import accumulate, groupby

import numpy as np
import numpy.typing as npt

from kweek.compress.modelfile import read_pieces
from kweek.tokenize.bytelevel import PATTERNS
from kweek.tokenize.definition import plain_ranks, split_pattern
from kweek.tokenize.tokenizer import Tokenizer

Array = npt.NDArray[np.generic]
_SPLITS = {name: number for number, name in enumerate(("gpt-2", "qwen2", "llama-bpe", "smollm"), 1)}
_OTHER, _LETTER, _NUMBER, _BLANK = range(4)
#: Unicode's White_Space, which `\s` stands for in the patterns; str.isspace() has four more.
_WHITE_SPACE = frozenset(
    [
        *range(0x09, 0x0E),
        0x20,
        0x85,
        0xA0,
        0x1680,
        *range(0x2000, 0x200B),
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x3000,
    ]
)


def sections_of_text(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, list[Array]]:
    """How text is split (0: the program cannot encode it), and the nine sections that follow the layers."""
    pieces = [tokenizer.token_bytes(index) for index in range(min(tokenizer.vocab_size, vocab_size))]
    pieces += [b""] * (vocab_size - len(pieces))
    ends = np.array(list(accumulate(map(len, pieces))), np.uint32)
    spelled = np.frombuffer(b"".join(pieces), np.uint8)
    split, ordered = _encoding(tokenizer, vocab_size)
    before, before_text, after_text, after = _template(tokenizer)
    stops = sorted(tokenizer.stop_ids) if tokenizer.configured_id("eos") is not None else []
    return split, [
        ends, spelled, _ids(ordered), _classes(), _ids(before), _text(before_text), _text(after_text), _ids(after),
        _ids(stops),
    ]  # fmt: skip


def _encoding(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, list[int]]:
    """How text is split, and the ordinary tokens by their bytes. 0 and none where ids are not ranks of merges."""
    names = {pattern: _SPLITS[name] for name, pattern in PATTERNS.items()}
    split = names.get(split_pattern(tokenizer.definition) or "", 0)
    ranks = plain_ranks(tokenizer.definition)
    if not split or ranks is None or tokenizer.encoder_name != "TiktokenEncoder":
        return 0, []
    return split, [index for _, index in sorted(ranks.items()) if index < vocab_size]


def _classes() -> Array:
    """(N, 2): first character and class of every run of characters of one class."""
    runs = groupby(range(sys.maxunicode + 1), _class_of)
    return np.array([(next(members), kind) for kind, members in runs], np.uint32)


def _class_of(code: int) -> int:
    if code in _WHITE_SPACE:
        return _BLANK
    return {"L": _LETTER, "N": _NUMBER}.get(unicodedata.category(chr(code))[0], _OTHER)


def _template(tokenizer: Tokenizer) -> tuple[list[int], bytes, bytes, list[int]]:
    """Ids before a question, template text encoded together with it on either side, ids after it.

    Control tokens cut text, so that only what lies between them and the question is encoded together with it.
    Without a template that puts pieces around contents there are none, and the program continues texts.
    """
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    pieces = read_pieces(tokenizer)
    if pieces is None:
        return first, b"", b"", []
    opening, closing = pieces.around["user"]
    before = list(tokenizer.shield.split(pieces.head + opening))
    after = list(tokenizer.shield.split(closing + pieces.opening))
    before_text = before.pop() if before and isinstance(before[-1], str) else ""
    after_text = after.pop(0) if after and isinstance(after[0], str) else ""
    return (
        first + _encode(tokenizer, before), str(before_text).encode(), str(after_text).encode(),
        _encode(tokenizer, after),
    )  # fmt: skip


def _encode(tokenizer: Tokenizer, parts: Sequence[int | str]) -> list[int]:
    return [
        index for part in parts for index in ([part] if isinstance(part, int) else tokenizer.encode(part))
    ]


def _ids(values: Sequence[int]) -> Array:
    return np.array(values, np.int32)


def _text(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8)
