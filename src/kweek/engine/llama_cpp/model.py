"""A GGUF file opened by llama.cpp: its weights, its vocabulary, and its own tokenizer."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

from kweek.engine.llama_cpp.library import VERSION, load
from kweek.errors import CheckpointError

_ROOM = 64  # bytes or ids tried first; llama.cpp says how many it needs


class LlamaModel:
    """Weights and vocabulary; memory-mapped, so that several processes share them.

    Attributes:
        description: "llama 135M Q4_1" or alike, in llama.cpp's words.
        num_parameters: as llama.cpp counts them.
        vocab_size: V.
        trained_positions: context that the file names.
        rewinds: whether what a sequence has computed can be cut back to an earlier token.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.library = path, load()
        self.functions = self.library.functions
        if not path.is_file():
            raise CheckpointError("there is no such file", where=str(path))
        self.library.complaint = ""
        self.handle = self.functions.llama_model_load_from_file(
            str(path).encode(), self.functions.llama_model_default_params()
        )
        if not self.handle:
            why = self.library.complaint or "it does not say why"
            raise CheckpointError(
                f"llama.cpp {VERSION} cannot load the file: {why}", where=str(path), fix="use another file"
            )
        for kind in ("has_encoder", "is_diffusion"):
            if getattr(self.functions, f"llama_model_{kind}")(self.handle):
                raise CheckpointError("it is not a model that writes from left to right", where=str(path))
        self._vocab = self.functions.llama_model_get_vocab(self.handle)
        self.vocab_size = int(self.functions.llama_vocab_n_tokens(self._vocab))
        self.trained_positions = int(self.functions.llama_model_n_ctx_train(self.handle))
        self.num_parameters = int(self.functions.llama_model_n_params(self.handle))
        buffer = ctypes.create_string_buffer(256)
        self.functions.llama_model_desc(self.handle, buffer, len(buffer))
        self.description = buffer.value.decode("utf-8", "replace")
        self.rewinds = not (
            self.functions.llama_model_is_recurrent(self.handle)
            or self.functions.llama_model_is_hybrid(self.handle)
        )

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.functions.llama_model_free(self.handle)

    @property
    def chat_template(self) -> str | None:
        """Jinja source, None where the file has none."""
        found = self.functions.llama_model_chat_template(self.handle, None)
        return None if found is None else str(found.decode("utf-8", "replace"))

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, None where there is none."""
        found = int(self.functions.llama_vocab_bos(self._vocab))
        return found if found >= 0 else None

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, None where there is none."""
        found = int(self.functions.llama_vocab_eos(self._vocab))
        return found if found >= 0 else None

    @property
    def adds_bos(self) -> bool:
        """Whether the model expects that token before a text."""
        return bool(self.functions.llama_vocab_get_add_bos(self._vocab))

    def is_control(self, token: int) -> bool:
        """Whether a token stands for no text."""
        return bool(self.functions.llama_vocab_is_control(self._vocab, token))

    def ends(self, token: int) -> bool:
        """Whether a token ends a generation: end of text, of turn, of message."""
        return bool(self.functions.llama_vocab_is_eog(self._vocab, token))

    def piece(self, token: int) -> bytes:
        """The bytes of one token, blanks included; a control token's name."""

        def fill(buffer: ctypes.Array[ctypes.c_char], size: int) -> int:
            return int(self.functions.llama_token_to_piece(self._vocab, token, buffer, size, 0, True))

        return _text(fill)

    def tokenize(self, text: str) -> list[int]:
        """Ids of ordinary text: nothing is put before it, and control tokens spelled in it are text."""
        data = text.encode("utf-8", "replace")
        room = len(data) + _ROOM
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self.functions.llama_tokenize(self._vocab, data, len(data), ids, room, False, False)
            if count >= 0:
                return ids[:count]
            room = -count

    def detokenize(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of ids, control tokens by their names; a blank that the tokenizer put before is taken off."""
        ids = (ctypes.c_int32 * max(1, len(token_ids)))(*token_ids)

        def fill(buffer: ctypes.Array[ctypes.c_char], size: int) -> int:
            return int(
                self.functions.llama_detokenize(self._vocab, ids, len(token_ids), buffer, size, False, True)
            )

        return _text(fill)


def _text(fill: Callable[[ctypes.Array[ctypes.c_char], int], int]) -> bytes:
    """What llama.cpp writes into a buffer; asked again with as much room as it says it needs."""
    size = _ROOM
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = fill(buffer, size)
        if count >= 0:
            return buffer.raw[:count]
        size = -count
