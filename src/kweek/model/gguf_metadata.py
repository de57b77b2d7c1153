"""What a GGUF file says of a network and its tokenizer besides the tensors, in llama.cpp's words."""

from __future__ import annotations

from collections.abc import Sequence

from kweek.errors import CheckpointError
from kweek.model.config import ModelConfig
from kweek.model.gguf import SCALING_KEYS
from kweek.model.gguf_write import Value
from kweek.tokenize.bytelevel import PATTERNS
from kweek.tokenize.definition import WHOLE_WORDS, merge_pairs, plain_ranks, split_pattern
from kweek.tokenize.tokenizer import Tokenizer

#: llama.cpp's kinds of tokens: ordinary text; a control token, matched only where control tokens are asked for; one
#: that is matched in any text; an id that nothing stands for.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def network_fields(config: ModelConfig) -> dict[str, Value]:
    """The sizes and constants of a network.

    Raises:
        CheckpointError: a rotary scaling that llama.cpp does not compute for this layout.
    """
    sizes: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
    }
    if (scaling := config.rope_scaling) is not None:
        if config.architecture != "llama":
            raise CheckpointError(
                f"llama.cpp has no rotary scaling for the layout {config.architecture}", where="rope_scaling"
            )
        values = (scaling.low_frequency, scaling.high_frequency, scaling.original_max_positions)
        sizes |= {f"rope.scaling.{key}": value for key, value in zip(SCALING_KEYS, values, strict=True)}
    return {f"{config.architecture}.{key}": value for key, value in sizes.items()}


def tokenizer_fields(tokenizer: Tokenizer, config: ModelConfig) -> tuple[dict[str, Value], list[str]]:
    """The vocabulary, merges, kinds of tokens, special ids and chat template; and what llama.cpp will do otherwise.

    Raises:
        CheckpointError: a tokenizer that llama.cpp would read differently, or more tokens than embeddings.
    """
    pre, notes = pre_tokenizer_name(tokenizer)
    tokens, kinds = _vocabulary(tokenizer, config.vocab_size)
    merges = [f"{left} {right}" for left, right in merge_pairs(tokenizer.definition)]
    fields: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }
    for role, index in _special_ids(tokenizer, config).items():
        if not 0 <= index < config.vocab_size:
            raise CheckpointError(f"the {role} token {index} is not in the vocabulary", where=tokenizer.name)
        fields[f"tokenizer.ggml.{role}_token_id"] = index
    fields["tokenizer.ggml.add_bos_token"] = tokenizer.bos_id is not None
    fields["tokenizer.ggml.add_space_prefix"] = False
    if tokenizer.chat_template is not None:
        fields["tokenizer.chat_template"] = tokenizer.chat_template
    return fields, notes


def pre_tokenizer_name(tokenizer: Tokenizer) -> tuple[str, list[str]]:
    """The name under which llama.cpp splits text as this tokenizer does, and what it will do otherwise.

    Raises:
        CheckpointError: it has none for this tokenizer; a wrong name, or none, would give other ids in silence.
    """
    definition, where = tokenizer.definition, tokenizer.name
    names = {pattern: name for name, pattern in PATTERNS.items()}
    pre = names.get(split_pattern(definition) or "")
    if pre is None:
        known = ", ".join(PATTERNS)
        raise CheckpointError(
            "llama.cpp has no name for the way this tokenizer splits text",
            where=where,
            fix=f"use a tokenizer that splits as one of {known}",
        )
    # Where every token is a merge of two, in order, a word found whole is one token in either case.
    whole_words, ranks = bool(definition["model"].get("ignore_merges")), plain_ranks(definition)
    merged = ranks is not None and len(ranks) == len(definition["model"]["vocab"])
    if whole_words != (pre == WHOLE_WORDS) and not merged:
        raise CheckpointError(f'ignore_merges is not as llama.cpp has it for "{pre}"', where=where)
    normalizer = definition.get("normalizer")
    if normalizer == {"type": "NFC"}:
        return pre, ["the tokenizer brings text to Unicode's form NFC first; llama.cpp leaves text as it is"]
    if normalizer is not None:
        raise CheckpointError("the tokenizer changes text in a way that llama.cpp does not", where=where)
    return pre, []


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[int]]:
    """Text and kind of every id; ids without a token, up to the rows of the embedding, are named as unused."""
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"it has {tokenizer.vocab_size} tokens, but the model an embedding of {vocab_size} rows",
            where=tokenizer.name,
        )
    tokens, kinds = [f"[PAD{index}]" for index in range(vocab_size)], [UNUSED] * vocab_size
    for text, index in tokenizer.definition["model"]["vocab"].items():
        tokens[index], kinds[index] = text, NORMAL
    for added in tokenizer.definition["added_tokens"]:
        index = added["id"]
        tokens[index], kinds[index] = added["content"], CONTROL if added.get("special") else USER_DEFINED
    return tokens, kinds


def _special_ids(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, int]:
    """Ids by llama.cpp's names for their roles, from the tokenizer, else from the config."""
    stops = _as_list(config.eos_token_id)
    configured = tokenizer.configured_id("eos")
    eos = stops[0] if stops else configured
    others = [*stops[1:], *sorted(tokenizer.stop_ids if configured is not None else ())]
    found = {
        "bos": _first(tokenizer.configured_id("bos"), config.bos_token_id),
        "eos": eos,
        "eot": next((index for index in others if index != eos), None),
        "padding": _first(tokenizer.configured_id("pad"), config.pad_token_id),
        "unknown": tokenizer.configured_id("unk"),
    }
    return {role: index for role, index in found.items() if index is not None}


def _as_list(value: int | tuple[int, ...] | None) -> Sequence[int]:
    return () if value is None else (value,) if isinstance(value, int) else value


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
