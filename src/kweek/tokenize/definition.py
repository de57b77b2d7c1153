"""The layout of `tokenizer.json`: written from trained ranks or GGUF metadata, and read back as ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kweek.errors import CheckpointError
from kweek.tokenize.bytelevel import PATTERNS, merges_from_ranks, pre_tokenizer, spell, unspell

Definition = dict[str, Any]

MAX_VOCABULARY = 1 << 22  # sixteen times the largest published vocabulary

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # llama.cpp's token types that are no ordinary vocabulary


#: The pre-tokenizer under which llama.cpp takes whole words as they are and begins a text with BOS unless told not to.
WHOLE_WORDS = "llama-bpe"


def added_token(index: int, content: str) -> dict[str, Any]:
    """A control token: matched literally, never part of the ordinary vocabulary."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags}


def byte_level_definition(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    special: Mapping[str, int],
    pattern: str,
    *,
    ignore_merges: bool = False,
) -> Definition:
    """A `tokenizer.json` of a byte-level BPE without normaliser.

    Args:
        vocabulary: id of every ordinary token, spelled byte-level.
        merges: pairs of spelled tokens, first merged first.
        special: id of every control token.
        pattern: split pattern (Oniguruma and fancy-regex read it alike).
        ignore_merges: whether a word found whole in the vocabulary is one token whatever the merges say.
    """
    blank = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, text) for text, i in sorted(special.items(), key=lambda kv: kv[1])],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel", **blank}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **blank},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": dict(vocabulary),
            "merges": [list(pair) for pair in merges],
        },
    }


def from_ranks(ranks: Mapping[bytes, int], pattern: str, special: Sequence[str]) -> Definition:
    """The definition of a freshly trained BPE: ranks are ids, control tokens follow."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    merges = [(spell(left), spell(right)) for left, right in merges_from_ranks(ranks)]
    vocabulary = {spell(token): rank for token, rank in ordered}
    return byte_level_definition(
        vocabulary, merges, {text: len(ranks) + i for i, text in enumerate(special)}, pattern
    )


def from_gguf(fields: Mapping[str, Any]) -> tuple[Definition, dict[str, Any], str | None]:
    """Definition, config and chat template from the `tokenizer.*` metadata of a GGUF file.

    Args:
        fields: metadata key to plain Python value.

    Raises:
        CheckpointError: another model than byte-level BPE, an unknown pre-tokenizer, a missing or broken key.
    """
    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise CheckpointError(
            f"tokenizer model {str(model)[:40]!r} is not supported",
            where="tokenizer.ggml.model",
            fix='use a model with byte-level BPE ("gpt2")',
        )
    pre = pre_tokenizer(fields.get("tokenizer.ggml.pre"))
    tokens, lines = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.merges")
    if not isinstance(tokens, Sequence) or not isinstance(lines, Sequence):
        raise CheckpointError("tokens or merges are missing", where="tokenizer.ggml")
    types = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(
            f"{len(types)} types for {len(tokens)} tokens", where="tokenizer.ggml.token_type"
        )
    vocabulary: dict[str, int] = {}
    special: dict[str, int] = {}
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == _UNUSED and token == f"[PAD{index}]":
            continue  # how converters name the rows of an embedding that no token has
        if kind in (_CONTROL, _USER_DEFINED, _UNUSED):
            special[token] = index
        else:
            vocabulary[token] = index
    merges = []
    for number, line in enumerate(lines):
        left, separator, right = line.partition(" ")
        if not separator or not left or not right:
            raise CheckpointError(f"merge {number} is not a pair", where="tokenizer.ggml.merges")
        merges.append((left, right))
    definition = byte_level_definition(
        vocabulary, merges, special, PATTERNS[pre], ignore_merges=pre == WHOLE_WORDS
    )
    for token in definition["added_tokens"]:
        token["special"] = types[token["id"]] != _USER_DEFINED
    config = _config_from_gguf(fields, tokens, pre)
    if config["add_bos_token"] and "bos_token" in config:
        definition["post_processor"] = _begin_with(config["bos_token"], special)
    return definition, config, fields.get("tokenizer.chat_template")


def _begin_with(text: str, special: Mapping[str, int]) -> dict[str, Any]:
    """The post-processor by which `transformers` puts a control token before every text.

    Raises:
        CheckpointError: the token is not a control token.
    """
    if text not in special:
        raise CheckpointError("it is not a control token", where="tokenizer.ggml.bos_token_id")
    token = {"SpecialToken": {"id": text, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            token,
            {"Sequence": {"id": "A", "type_id": 0}},
            token,
            {"Sequence": {"id": "B", "type_id": 0}},
        ],
        "special_tokens": {text: {"id": text, "ids": [special[text]], "tokens": [text]}},
    }


def _config_from_gguf(fields: Mapping[str, Any], tokens: Sequence[str], pre: str) -> dict[str, Any]:
    """The keys of `tokenizer_config.json` that GGUF metadata answers."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        index = fields.get(f"tokenizer.ggml.{key}_token_id")
        if index is None:
            continue
        if not 0 <= index < len(tokens):
            where = f"tokenizer.ggml.{key}_token_id"
            raise CheckpointError(f"id {index} is not in the vocabulary", where=where)
        config[f"{name}_token"] = tokens[index]
    config["add_bos_token"] = bool(fields.get("tokenizer.ggml.add_bos_token", pre == WHOLE_WORDS))
    return config


def check(definition: Definition) -> None:
    """Refuse what no tokenizer means and what makes the libraries below panic or ask for all memory.

    Raises:
        CheckpointError: the model is not BPE, ids repeat or are out of range, a control token has no name.
    """
    model = definition["model"]
    if (kind := model.get("type")) != "BPE":
        raise CheckpointError(f'tokenizer model "{kind}" is not supported', fix="use a BPE tokenizer")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise CheckpointError("a BPE that marks the ends of words is not supported")
    vocabulary, added = model["vocab"], definition["added_tokens"]
    ids = [*vocabulary.values(), *(token["id"] for token in added)]
    if not all(type(index) is int and 0 <= index < MAX_VOCABULARY for index in ids):
        raise CheckpointError(f"a token id is not a number from 0 to {MAX_VOCABULARY - 1}")
    if len(set(vocabulary.values())) < len(vocabulary) or len({t["id"] for t in added}) < len(added):
        raise CheckpointError("two tokens have the same id")
    if not all(isinstance(token["content"], str) and token["content"] for token in added):
        raise CheckpointError("a control token has no name")


def split_pattern(definition: Definition) -> str | None:
    """The one pattern that says all of a definition's pre-tokenizer, or None when none does."""
    match definition.get("pre_tokenizer"):
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get("use_regex", True):
            return PATTERNS["gpt-2"]
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str() as pattern}, "behavior": "Isolated"} as first,
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if not first.get("invert"):
            return pattern
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False} as last,
            ],
        } if last.get("use_regex", True):
            return PATTERNS["smollm"]
    return None


def plain_ranks(definition: Definition) -> dict[bytes, int] | None:
    """Token bytes to id where the definition is a plain byte-level BPE whose ids are in merge order.

    Plain means: every token of more than one byte a merge of two, no dropout, no normaliser but NFC. Then
    "merge the adjacent pair whose union has the lowest id" (tiktoken) says the same as the list of merges.
    None where any of this fails; such a tokenizer is left to the `tokenizers` library.
    """
    model = definition["model"]
    if model.get("dropout") or model.get("byte_fallback"):
        return None
    if definition.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    vocabulary: dict[str, int] = model["vocab"]
    spelled = {bytes([byte]): spell(bytes([byte])) for byte in range(256)}
    ranks = {byte: vocabulary[piece] for byte, piece in spelled.items() if piece in vocabulary}
    last = -1
    for left, right in merge_pairs(definition):
        joined = unspell(left + right)
        index = vocabulary.get(left + right)
        if joined is None or index is None:
            return None
        if joined not in ranks:
            if index <= last:
                return None
            ranks[joined] = last = index
    return ranks


def merge_pairs(definition: Definition) -> list[tuple[str, str]]:
    """The merges as pairs; `tokenizer.json` writes them as lists or, in older files, as "left right"."""
    pairs = []
    for merge in definition["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        pairs.append((left, right))
    return pairs
