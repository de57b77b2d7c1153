"""Training a byte-level BPE vocabulary.

Sennrich et al. 2016 (arXiv 1508.07909) on bytes, split by a pattern that llama.cpp has compiled in, so that
an export keeps its ids. The merges are counted by rustbpe (2.5 times the `tokenizers` trainer per CPU-
second).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import rustbpe

from kweek.errors import ConfigError, DataError
from kweek.tokenize.bytelevel import DEFAULT_PATTERN, PATTERNS, windows
from kweek.tokenize.definition import from_ranks
from kweek.tokenize.encoding import clean
from kweek.tokenize.template import default_chat_template
from kweek.tokenize.tokenizer import Tokenizer

SPECIAL_TOKENS = (
    "<|endoftext|>",  # between documents
    "<|im_start|>",  # opens a turn
    "<|im_end|>",  # closes a turn
    "<think>",
    "</think>",
    "<tool>",  # opens a call of the calculator inside thinking
    "<result>",  # closes the call; what follows is forced
    "</result>",
)

MAX_WORD = 128  # characters of a run that training counts as one word: a page of dashes is not a token
MULTIPLE = 32  # the vocabulary is a width of the head, and 4-bit formats group 32 values


def train(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Tokenizer:
    """Train a tokenizer whose vocabulary, control tokens included, has exactly a multiple of 32 entries.

    Args:
        texts: the sample to train on; read once, streamed.
        vocab_size: entries wanted, a multiple of 32. A sample too small for that many merges gives the next
            multiple of 32 above what it yields, filled up with control tokens `<|reserved_0|>`, ...
        special_tokens: control tokens; the first ends documents and is also the padding.

    Raises:
        ConfigError: a vocabulary size that is not a multiple of 32 or leaves no room for the 256 bytes.
        DataError: no text at all.
    """
    smallest = -(-(256 + len(special_tokens)) // MULTIPLE) * MULTIPLE
    if vocab_size % MULTIPLE or vocab_size < smallest:
        raise ConfigError(
            f"a vocabulary of {vocab_size} entries is not possible",
            where="vocab_size",
            fix=f"take a multiple of {MULTIPLE} from {smallest} up",
        )
    pattern = PATTERNS[DEFAULT_PATTERN]
    bounded = pattern.replace("+", f"{{1,{MAX_WORD}}}").replace("*", f"{{0,{MAX_WORD}}}")
    trainer = rustbpe.Tokenizer()
    sample = _Counted(texts)
    trainer.train_from_iterator(iter(sample), vocab_size - len(special_tokens), pattern=bounded)
    if not sample.num_characters:
        raise DataError("there is no text to train a tokenizer on")
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    names = [*special_tokens]
    names += [f"<|reserved_{i}|>" for i in range(-(len(ranks) + len(names)) % MULTIPLE)]
    return Tokenizer(from_ranks(ranks, pattern, names), _config(special_tokens), default_chat_template())


class _Counted:
    """The pieces of texts that the trainer can take, and how many characters passed."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.num_characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.num_characters += len(text)
            yield from windows(clean(text))


def _config(special_tokens: Sequence[str]) -> dict[str, object]:
    """`tokenizer_config.json` of a tokenizer trained here."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": special_tokens[0],
        "pad_token": special_tokens[0],
        "additional_special_tokens": list(special_tokens[1:]),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
