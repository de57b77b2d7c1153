"""The tokenizers of text encoders: WordPiece with the special tokens that an encoder expects around a text.

Wu et al. 2016 (arXiv 1609.08144), read by the `tokenizers` library from `tokenizer.json`. What that file says about
truncation and padding is left out: it is whatever its author last ran with (128 tokens in a well-known encoder of 256).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from kweek.errors import CheckpointError, StoreError
from kweek.store.files import read_json
from kweek.tokenize.encoding import clean

TOKENIZER_FILE = "tokenizer.json"


class WordPiece:
    """Text to token ids, special tokens around each text; none come from the text itself, whatever it spells.

    Args:
        definition: content of `tokenizer.json`.
        where: the file, for errors.

    Attributes:
        num_special: special tokens added to every text.
        vocab_size: number of ids.

    Raises:
        CheckpointError: not a WordPiece tokenizer, one without special tokens, or one the library cannot read.
    """

    def __init__(self, definition: Any, where: str) -> None:
        model = definition.get("model") if isinstance(definition, dict) else None
        kind = model.get("type") if isinstance(model, dict) else None
        if kind != "WordPiece":
            raise CheckpointError(
                f"a tokenizer of type {kind!r} is not supported in an encoder",
                where=where,
                fix="use an encoder with a WordPiece tokenizer",
            )
        # Without its added tokens the library takes no string for one; the post-processor knows their ids itself.
        bare = {**definition, "truncation": None, "padding": None, "added_tokens": []}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(bare))
            self.num_special = int(self._tokenizer.num_special_tokens_to_add(False))
            self.vocab_size = int(self._tokenizer.get_vocab_size())
            self._tokenizer.encode("a")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # bare Exception, or a panic of the library, which is not even that
            raise CheckpointError(f"the tokenizer is not usable: {error}", where=where) from error
        if not self.num_special:
            raise CheckpointError(
                "the tokenizer adds no special tokens, which every encoder of this kind expects",
                where=where,
                fix="use the tokenizer.json that came with the encoder",
            )

    @classmethod
    def load(cls, folder: Path | str) -> WordPiece:
        """Read `tokenizer.json` of a checkpoint folder.

        Raises:
            CheckpointError: it is missing, broken or of another kind.
        """
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(
                f"there is no {TOKENIZER_FILE}", where=str(folder), fix="convert the tokenizer to that format"
            )
        try:
            definition = read_json(path)
        except StoreError as error:
            raise CheckpointError(error.what, where=error.where, fix=error.fix) from error
        return cls(definition, str(path))

    def encode_batch(self, texts: Sequence[str], max_tokens: int | None = None) -> list[list[int]]:
        """Token ids of every text.

        Args:
            max_tokens: cut a text so that it has no more, special tokens included; None keeps all.

        Raises:
            ValueError: `max_tokens` leaves no room beside the special tokens.
        """
        if max_tokens is not None and max_tokens < self.num_special:
            raise ValueError(f"{max_tokens} tokens do not hold {self.num_special} special ones")
        encodings = self._tokenizer.encode_batch([clean(text) for text in texts], add_special_tokens=False)
        result = []
        for encoding in encodings:
            if max_tokens is not None:
                encoding.truncate(max_tokens - self.num_special)
            result.append(list(self._tokenizer.post_process(encoding, None, True).ids))
        return result
