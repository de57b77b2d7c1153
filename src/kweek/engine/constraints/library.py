"""The package llguidance where it is installed, and a vocabulary in the form that it takes."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from kweek.engine.constraints.limits import GrammarError

if TYPE_CHECKING:
    from kweek.engine.constraints.vocabulary import Vocabulary

#: What to do when it is missing.
INSTALL = "install llguidance: pip install 'kweek[grammar]'"


def is_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("llguidance") is not None


def library() -> Any:
    """The module.

    Raises:
        GrammarError: the extra is not installed.
    """
    try:
        return importlib.import_module("llguidance")
    except ImportError:
        raise GrammarError("this grammar needs the package llguidance", fix=INSTALL) from None


class _TokenizerForm:
    """The form in which llguidance takes a vocabulary."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = min(vocabulary.eos_ids)
        self.tokens = list(vocabulary.tokens)
        self.special_token_ids = sorted(vocabulary.control_ids)
        self._bytes = {piece: index for index, piece in enumerate(self.tokens) if len(piece) == 1}

    def __call__(self, data: bytes | str) -> list[int]:
        """Tokens of a text; asked for where tokens are forced, which we switch off, so bytes will do."""
        data = data.encode() if isinstance(data, str) else data
        return [self._bytes[bytes([byte])] for byte in data if bytes([byte]) in self._bytes]


def tokenizer_of(vocabulary: Vocabulary) -> Any:
    """llguidance's tables of a vocabulary; 0.1 s at V 50,000, so they are kept with it."""
    form = _TokenizerForm(vocabulary)
    return library().LLTokenizer(form, n_vocab=len(vocabulary), eos_token=sorted(vocabulary.eos_ids))
