"""llama.cpp's own tokenizer in the place of Kweek's, for files whose tokenizer Kweek does not read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kweek.engine.llama_cpp.model import LlamaModel
from kweek.errors import CheckpointError
from kweek.store.artifact import ArtifactWriter
from kweek.tokenize.tokenizer import Tokenizer


class LlamaTokenizer(Tokenizer):
    """A `Tokenizer` whose text is split and joined by llama.cpp. Chats are rendered, and shielded, by Kweek.

    Args:
        model: opened by llama.cpp.
    """

    def __init__(self, model: LlamaModel) -> None:
        pieces = [model.piece(token) for token in range(model.vocab_size)]
        control = {
            index: piece.decode("utf-8", "replace")
            for index, piece in enumerate(pieces)
            if piece and (model.is_control(index) or index in (model.bos_id, model.eos_id))
        }
        added = [{"id": index, "content": text, "special": True} for index, text in control.items()]
        config: dict[str, Any] = {"add_bos_token": model.adds_bos}
        for role, index in (("bos", model.bos_id), ("eos", model.eos_id)):
            if index is not None and index in control:
                config[f"{role}_token"] = control[index]
        self._model = model
        super().__init__(
            {"model": {"vocab": {}}, "added_tokens": added},
            config,
            model.chat_template,
            name=str(model.path),
            encoder=_Encoder(model),
            pieces=pieces,
        )

    @functools.cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that llama.cpp takes for the end of a generation."""
        found = frozenset(i for i in range(self._model.vocab_size) if self._model.ends(i))
        return found or frozenset({self.eos_id})

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = False) -> str:
        """See `Tokenizer.decode`."""
        control = self.special.values() if skip_special else ()
        kept = [index for index in token_ids if index not in control]
        return self._model.detokenize(kept).decode("utf-8", "replace")

    def save(self, out: Path | ArtifactWriter) -> None:
        """It lies in the GGUF file and nowhere else.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError("llama.cpp's tokenizer cannot be written as tokenizer.json", where=self.name)


class _Encoder:
    """See `kweek.tokenize.encoding.Encoder`."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model

    def encode(self, text: str) -> list[int]:
        return self._model.tokenize(text)

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[list[int]]:
        return [self._model.tokenize(text) for text in texts]
