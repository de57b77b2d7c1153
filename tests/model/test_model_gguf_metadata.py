from __future__ import annotations

from typing import Any

import pytest
from model_networks import small_config

from kweek.errors import CheckpointError
from kweek.model.config import RopeScaling
from kweek.model.gguf_metadata import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    network_fields,
    pre_tokenizer_name,
    tokenizer_fields,
)
from kweek.tokenize.bytelevel import PATTERNS, spell
from kweek.tokenize.definition import added_token, byte_level_definition
from kweek.tokenize.tokenizer import Tokenizer

BYTES = {spell(bytes([byte])): byte for byte in range(256)}
CONFIG = {"eos_token": "<|end|>", "pad_token": "<|end|>"}


def make(pattern: str = "qwen2", config: dict[str, Any] | None = None, **changes: Any) -> Tokenizer:
    definition = byte_level_definition(
        BYTES | {"ab": 256}, [("a", "b")], {"<|end|>": 257, "<|im_end|>": 258}, PATTERNS[pattern]
    )
    definition["added_tokens"].append(added_token(259, "<tool>") | {"special": False})
    return Tokenizer(definition | changes, CONFIG if config is None else config)


def test_tokens_with_their_kinds() -> None:
    fields, notes = tokenizer_fields(make(), small_config(vocab_size=264, eos_token_id=257))
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(kinds, list)
    assert len(tokens) == len(kinds) == 264 and len(set(tokens)) == 264
    assert kinds[:257] == [NORMAL] * 257 and tokens[256] == "ab"
    assert kinds[257:] == [CONTROL, CONTROL, USER_DEFINED, *[UNUSED] * 4]
    assert fields["tokenizer.ggml.merges"] == ["a b"]
    assert fields["tokenizer.ggml.eos_token_id"] == 257 and fields["tokenizer.ggml.eot_token_id"] == 258
    assert fields["tokenizer.ggml.padding_token_id"] == 257
    assert fields["tokenizer.ggml.add_bos_token"] is False and "tokenizer.ggml.bos_token_id" not in fields
    assert "tokenizer.chat_template" not in fields and notes == []


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_every_known_pattern_has_its_name(pattern: str) -> None:
    assert pre_tokenizer_name(make(pattern)) == (pattern, [])


def test_metadata_gives_the_tokenizer_back() -> None:
    config = CONFIG | {"bos_token": "<|im_end|>", "add_bos_token": True}
    ours = make(config=config)
    fields, _ = tokenizer_fields(ours, small_config(vocab_size=300, eos_token_id=None))
    back = Tokenizer.from_gguf(fields)
    assert back.definition["model"] == ours.definition["model"]
    assert back.definition["added_tokens"] == ours.definition["added_tokens"]
    assert back.bos_id == ours.bos_id == 258 and back.eos_id == ours.eos_id
    assert back.encode("abc <tool> ü") == ours.encode("abc <tool> ü")


def test_a_habit_of_beginning_reaches_transformers_too() -> None:
    fields, _ = tokenizer_fields(
        make(config=CONFIG | {"bos_token": "<|im_end|>", "add_bos_token": True}), small_config(vocab_size=260)
    )
    processor = Tokenizer.from_gguf(fields).definition["post_processor"]
    assert processor["single"][0] == {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
    fields["tokenizer.ggml.bos_token_id"] = 5
    with pytest.raises(CheckpointError, match="not a control token"):
        Tokenizer.from_gguf(fields)


def test_llama_3_begins_with_bos_unless_told_otherwise() -> None:
    fields, _ = tokenizer_fields(
        make("llama-bpe", config=CONFIG | {"bos_token": "<|im_end|>"}), small_config(vocab_size=260)
    )
    assert Tokenizer.from_gguf(fields).bos_id is None
    del fields["tokenizer.ggml.add_bos_token"]
    assert Tokenizer.from_gguf(fields | {"tokenizer.ggml.pre": "llama-v3"}).bos_id == 258


def test_whole_words_that_merges_do_not_make() -> None:
    odd = make()
    odd.definition["model"]["vocab"]["xyz"] = 259
    odd.definition["added_tokens"].pop()
    assert pre_tokenizer_name(odd)[0] == "qwen2"
    odd.definition["model"]["ignore_merges"] = True
    with pytest.raises(CheckpointError, match="ignore_merges"):
        pre_tokenizer_name(odd)


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (lambda: make(normalizer={"type": "Lowercase"}), "changes text"),
        (lambda: make(pre_tokenizer={"type": "Whitespace"}), "no name for the way"),
        (lambda: make(), "260 tokens, but the model an embedding of 259 rows"),
    ],
)
def test_what_llama_cpp_would_read_differently(tokenizer: Any, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        tokenizer_fields(tokenizer(), small_config(vocab_size=259))


def test_a_normal_form_is_said() -> None:
    _, notes = tokenizer_fields(make(normalizer={"type": "NFC"}), small_config(vocab_size=260))
    assert len(notes) == 1 and "NFC" in notes[0]


def test_special_ids_outside_the_vocabulary() -> None:
    with pytest.raises(CheckpointError, match="eos token 400"):
        tokenizer_fields(make(), small_config(vocab_size=260, eos_token_id=400))


def test_rotary_scaling_is_llamas_alone() -> None:
    scaling = RopeScaling(8.0, 1.0, 4.0, 32)
    llama = network_fields(small_config(architecture="llama", qk_norm=False, rope_scaling=scaling))
    assert llama["llama.rope.scaling.original_context_length"] == 32
    with pytest.raises(CheckpointError, match="no rotary scaling"):
        network_fields(small_config(rope_scaling=scaling))
