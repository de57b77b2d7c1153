"""The tokenizer: text to ids and back, exact for any bytes, control ids only where asked for."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kweek.errors import CheckpointError, DataError, GuardError
from kweek.store import files
from kweek.tokenize.bytelevel import unspell
from kweek.tokenize.definition import Definition, from_gguf
from kweek.tokenize.encoding import Encoder, LibraryEncoder, is_blank, make_encoder
from kweek.tokenize.shield import Shield
from kweek.tokenize.template import ChatTemplate

if TYPE_CHECKING:
    from kweek.store.artifact import ArtifactWriter

TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"

_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<|eom_id|>")
_INVALID = re.compile("([\udc80-\udcff]+)")  # bytes that are not UTF-8, as "surrogateescape" leaves them
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece vocabularies spell a single byte


class Tokenizer:
    """Text to token ids and back.

    Args:
        definition: content of `tokenizer.json`.
        config: content of `tokenizer_config.json`.
        chat_template: Jinja source, None for a tokenizer of a base model.
        name: what errors call it, usually its folder.
        encoder: reads ordinary text, where the definition does not say how.
        pieces: bytes by id, likewise.

    Attributes:
        definition: `tokenizer.json`.
        special: text of every control token to its id. Text given to `encode` never yields these ids.
        chat_template: Jinja source or None.
        config: `tokenizer_config.json`.
        token_num_bytes: int32 array (V,), bytes of text that each id stands for; 0 for control tokens.
    """

    def __init__(
        self,
        definition: Definition,
        config: Mapping[str, Any],
        chat_template: str | None = None,
        *,
        name: str = "tokenizer",
        encoder: Encoder | None = None,
        pieces: Sequence[bytes] | None = None,
    ) -> None:
        if not (chat_template is None or isinstance(chat_template, str)):
            raise CheckpointError("the chat template is not text", where=name)
        self.name = name
        self.config = {key: value for key, value in config.items() if key != "chat_template"}
        self.chat_template = chat_template
        self.definition = definition
        self._encoder = encoder or make_encoder(definition)
        added = definition["added_tokens"]
        self.special: dict[str, int] = {t["content"]: t["id"] for t in added if not is_blank(t)}
        self._pieces = _token_bytes(definition) if pieces is None else list(pieces)
        self._control = frozenset(self.special.values())
        self.token_num_bytes = np.array(
            [0 if i in self._control else len(piece) for i, piece in enumerate(self._pieces)], dtype=np.int32
        )
        self._single = {piece: i for i, piece in enumerate(self._pieces) if len(piece) == 1}
        for index in self._control:
            self._single.pop(self._pieces[index], None)

    # -- loading and saving

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read `tokenizer.json`, `tokenizer_config.json` and the chat template of a checkpoint folder.

        Raises:
            CheckpointError: a file is missing or broken, or the tokenizer is of an unsupported kind.
        """
        folder = Path(folder)
        if not (folder / TOKENIZER_FILE).is_file():
            raise CheckpointError(
                f"there is no {TOKENIZER_FILE}", where=str(folder), fix="convert the tokenizer to that format"
            )
        definition = _read_object(folder / TOKENIZER_FILE)
        config = _read_object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        template: str | None
        if (folder / TEMPLATE_FILE).is_file():
            try:
                template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(
                    f"the chat template cannot be read ({error})",
                    where=str(folder / TEMPLATE_FILE),
                    fix="fetch or make the model again",
                ) from None
        else:
            with _describing_a_tokenizer(str(folder / CONFIG_FILE)):
                template = _template_of(config)
        with _describing_a_tokenizer(str(folder / TOKENIZER_FILE)):
            return cls(definition, config, template, name=str(folder))

    @classmethod
    def from_gguf(cls, fields: Mapping[str, Any], *, name: str = "gguf") -> Tokenizer:
        """Build the tokenizer of a GGUF file from its metadata (key to plain Python value).

        Raises:
            CheckpointError: another model than byte-level BPE, an unknown pre-tokenizer, broken metadata.
        """
        with _describing_a_tokenizer(name):
            definition, config, template = from_gguf(fields)
            return cls(definition, config, template, name=name)

    def save(self, out: Path | ArtifactWriter) -> None:
        """Write the three files that `transformers.AutoTokenizer` loads into a folder or artifact."""
        if isinstance(out, Path):
            out.mkdir(parents=True, exist_ok=True)
            for name, text in self._files().items():
                files.write_text(out / name, text)
        else:
            for name, text in self._files().items():
                out.write_text(name, text)

    def _files(self) -> dict[str, str]:
        config = dict(self.config)
        texts = {TOKENIZER_FILE: json.dumps(self.definition, ensure_ascii=False)}
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
            texts[TEMPLATE_FILE] = self.chat_template
        texts[CONFIG_FILE] = json.dumps(config, ensure_ascii=False, indent=2)
        return texts

    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that decides about ids: definition, config and template."""
        whole = [self.definition, self.config, self.chat_template]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    # -- what there is

    @property
    def vocab_size(self) -> int:
        """Number of ids, control tokens included; the highest id plus one."""
        return len(self._pieces)

    @property
    def encoder_name(self) -> str:
        """Which encoder reads ordinary text: `TiktokenEncoder` or `LibraryEncoder`."""
        return type(self._encoder).__name__

    def configured_id(self, role: str) -> int | None:
        """Id of the token that the config names for `role` ("bos", "eos", "pad", "unk"), or None."""
        text = self._configured_text(role)
        return None if text is None else self.special.get(text)

    def _configured_text(self, role: str) -> str | None:
        entry = self.config.get(f"{role}_token")
        text = entry.get("content") if isinstance(entry, Mapping) else entry
        return text if isinstance(text, str) else None

    @property
    def eos_id(self) -> int:
        """Id that ends a document.

        Raises:
            CheckpointError: the config names none.
        """
        index = self.configured_id("eos")
        if index is None:
            raise CheckpointError(
                "no end-of-text token is configured", where=self.name, fix=f'set "eos_token" in {CONFIG_FILE}'
            )
        return index

    @property
    def bos_id(self) -> int | None:
        """Id that the model expects before a text, None when the tokenizer has no such habit."""
        text = self._configured_text("bos")
        habit = f'{{"SpecialToken": {{"id": {json.dumps(text)},'  # what a post-processor puts around a text
        habitual = habit in json.dumps(self.definition.get("post_processor"))
        return self.configured_id("bos") if self.config.get("add_bos_token", habitual) else None

    @functools.cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: end of text and, where the vocabulary has one, end of turn."""
        return frozenset({self.eos_id, *(self.special[text] for text in _TURN_ENDS if text in self.special)})

    @functools.cached_property
    def stop_texts(self) -> frozenset[str]:
        """The control tokens of `stop_ids` as text; those that end a turn alone where no end of text is configured."""
        ended = {text for text in _TURN_ENDS if text in self.special}
        eos = self._configured_text("eos")
        return frozenset(ended | ({eos} if eos in self.special else set()))

    @functools.cached_property
    def shield(self) -> Shield:
        """Tells content from control tokens in what a chat template renders."""
        return Shield([token for token in self.definition["added_tokens"] if not is_blank(token)])

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """The chat template, ready to render.

        Raises:
            GuardError: there is none.
            CheckpointError: it is broken.
        """
        if self.chat_template is None:
            raise GuardError("there is no chat template", where=self.name, fix=f"add a {TEMPLATE_FILE}")
        names = {f"{role}_token": self._configured_text(role) for role in ("bos", "eos", "pad", "unk")}
        variables = {key: text for key, text in names.items() if text is not None}
        return ChatTemplate(
            self.chat_template, name=self.name, variables=variables, characters=self.shield.characters
        )

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one id; the UTF-8 of its name for a control token."""
        return self._pieces[index]

    # -- text to ids

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Control tokens spelled out in it are split like any other text."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str], *, threads: int = 1) -> list[list[int]]:
        """Ids of many texts; `threads` above 1 encodes side by side without the interpreter lock."""
        return self._encoder.encode_batch(texts, threads)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: what is UTF-8 as text, each byte that is not as the token of that byte.

        Raises:
            DataError: the vocabulary has no token for a byte that occurs.
        """
        token_ids: list[int] = []
        for part in _INVALID.split(data.decode("utf-8", "surrogateescape")):
            if part and "\udc80" <= part[0] <= "\udcff":
                for byte in part.encode("utf-8", "surrogateescape"):
                    if (index := self._single.get(bytes([byte]))) is None:
                        raise DataError(f"the vocabulary has no token for byte 0x{byte:02X}", where=self.name)
                    token_ids.append(index)
            elif part:
                token_ids += self.encode(part)
        return token_ids

    # -- ids to text

    def decode_bytes(self, token_ids: Sequence[int]) -> bytes:
        """The bytes of all ids in a row, control tokens by their names."""
        return b"".join([self._pieces[index] for index in token_ids])

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            token_ids: any ids of the vocabulary.
            skip_special: leave control tokens out instead of spelling them.
        """
        if skip_special:
            token_ids = [index for index in token_ids if index not in self._control]
        if isinstance(self._encoder, LibraryEncoder):
            return self._decode_by_library(self._encoder, token_ids)
        return self.decode_bytes(token_ids).decode("utf-8", "replace")

    def _decode_by_library(self, library: LibraryEncoder, token_ids: Sequence[int]) -> str:
        """Ordinary runs by the definition's decoder, which may strip a blank; control tokens by name."""
        text, run = "", list[int]()
        for index in token_ids:
            if index in self._control:
                text += library.decode(run) + self._pieces[index].decode("utf-8", "replace")
                run = []
            else:
                run.append(index)
        return text + library.decode(run)


@contextmanager
def _describing_a_tokenizer(where: str) -> Iterator[None]:
    """Turns whatever a malformed description makes Python stumble over into the one error for it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(error.what, where=error.where or where, fix=error.fix) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"this does not describe a tokenizer ({error!r})", where=where) from error


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint folder."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"the file cannot be read as JSON ({error})", where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError("the file does not hold a JSON object", where=str(path))
    return value


def _template_of(config: Mapping[str, Any]) -> str | None:
    """The chat template inside a config: one string, or a list of named ones of which "default" counts."""
    entry = config.get("chat_template")
    if isinstance(entry, list):
        return {item["name"]: item["template"] for item in entry}.get("default")
    return entry


def _token_bytes(definition: Definition) -> list[bytes]:
    """Bytes by id; empty for ids that nothing stands for."""
    vocabulary: dict[str, int] = definition["model"]["vocab"]
    added: dict[int, str] = {token["id"]: token["content"] for token in definition["added_tokens"]}
    pieces = [b""] * (max([*vocabulary.values(), *added, -1]) + 1)
    byte_level = '"ByteLevel"' in json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")])
    for piece, index in vocabulary.items():
        data = unspell(piece) if byte_level else _unspell_sentencepiece(piece)
        pieces[index] = piece.encode() if data is None else data
    for index, text in added.items():
        pieces[index] = text.encode()
    return pieces


def _unspell_sentencepiece(piece: str) -> bytes:
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace("\u2581", " ").encode()
