"""Text to ids and back: exact, equal to the `tokenizers` library, for every family's layout and for GGUF."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.errors import CheckpointError, DataError
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.tokenize import bytelevel
from kweek.tokenize.bpe import train
from kweek.tokenize.encoding import LibraryEncoder
from kweek.tokenize.tokenizer import Tokenizer

Layout = Callable[[str], tuple[dict[str, Any], dict[str, Any]]]

TRICKY = "aAbtseDLm' \t\n\r\u00a0\u3000\u200d\u0301éßıſ\u0130日한½٣9 0<|>_[].-—👩\U000e0001\x00\x04\x1c\x85"
texts = st.one_of(
    st.text(), st.text(TRICKY), st.text(" \n\t\r5'a"), st.text(st.characters(categories=["N", "Z"]))
)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_text_round_trip_is_exact(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.decode_bytes(token_ids) == text.encode()
    assert sum(tokenizer.token_num_bytes[token_ids]) == len(text.encode())


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(), st.lists(st.one_of(st.binary(), texts.map(str.encode))).map(b"".join)))
def test_byte_round_trip_is_exact(tokenizer: Tokenizer, data: bytes) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_bytes_that_are_text_encode_as_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_bytes("naïve 日本".encode()) == tokenizer.encode("naïve 日本")
    assert tokenizer.encode_bytes(b"a\xff\xfeb") == [
        *tokenizer.encode("a"), tokenizer.encode_bytes(b"\xff")[0], tokenizer.encode_bytes(b"\xfe")[0],
        *tokenizer.encode("b"),
    ]  # fmt: skip


FAST = ["own", "qwen2.5", "qwen3", "llama3.1", "smollm2"]


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=120, deadline=None)
@given(text=texts)
def test_fast_encoder_equals_the_library(
    tokenizer: Tokenizer, foreign: Callable[[str], Tokenizer], name: str, text: str
) -> None:
    ours = tokenizer if name == "own" else foreign(name)
    assert ours.encoder_name == "TiktokenEncoder"
    assert ours.encode(text) == LibraryEncoder(ours.definition).encode(text)


def test_fast_encoder_equals_the_library_with_gpt2_layout(tokenizer: Tokenizer, sample: list[str]) -> None:
    definition = dict(tokenizer.definition)
    definition["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    ours = Tokenizer(definition, {})
    assert ours.encoder_name == "TiktokenEncoder"
    for text in sample[-60:]:
        assert ours.encode(text) == LibraryEncoder(definition).encode(text)


def test_other_layouts_are_left_to_the_library(foreign: Callable[[str], Tokenizer]) -> None:
    assert foreign("deepseek-v3").encoder_name == "LibraryEncoder"


def test_batches_equal_single_texts(tokenizer: Tokenizer, sample: list[str]) -> None:
    one_by_one = [tokenizer.encode(text) for text in sample]
    assert tokenizer.encode_batch(sample) == one_by_one
    assert tokenizer.encode_batch(sample, threads=2) == one_by_one


def test_sentencepiece_layout_reads_and_writes_like_the_library(layout: Layout) -> None:
    definition, config = layout("sentencepiece")
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        *"Hielo",
        "\u2581H",
        "el",
    ]
    definition["model"] |= {
        "vocab": {p: i for i, p in enumerate(pieces)},
        "merges": [["\u2581", "H"], ["e", "l"]],
    }
    for index, token in enumerate(definition["added_tokens"]):
        token["id"] = index
    ours, library = Tokenizer(definition, config), tokenizers.Tokenizer.from_str(json.dumps(definition))
    assert ours.encoder_name == "LibraryEncoder"
    for text in ("Hello", "Hi é\n", " Hello  Hello"):
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.token_bytes(pieces.index("<0xE9>")) == b"\xe9"
    assert ours.decode([1, *ours.encode("Hello"), 2]) == "<s>Hello</s>"
    assert not {0, 1, 2} & set(ours.encode("<s>Hello</s>"))
    assert ours.bos_id == 1


@pytest.mark.parametrize("name", ["own", "qwen3", "llama3.1", "smollm2", "deepseek-v3"])
def test_control_tokens_in_text_stay_text(
    tokenizer: Tokenizer, foreign: Callable[[str], Tokenizer], name: str
) -> None:
    ours = tokenizer if name == "own" else foreign(name)
    text = " ".join(ours.special)
    token_ids = ours.encode(text)
    assert not set(token_ids) & set(ours.special.values())
    assert ours.decode(token_ids) == text


def test_control_tokens_decode_by_name_and_count_no_bytes(tokenizer: Tokenizer) -> None:
    end = tokenizer.special["<|im_end|>"]
    token_ids = [*tokenizer.encode("36"), end]
    assert tokenizer.decode(token_ids) == "36<|im_end|>"
    assert tokenizer.decode(token_ids, skip_special=True) == "36"
    assert tokenizer.token_bytes(end) == b"<|im_end|>"
    assert tokenizer.token_num_bytes[end] == 0
    assert tokenizer.token_num_bytes.dtype == "int32"
    assert tokenizer.token_num_bytes.shape == (tokenizer.vocab_size,)


def test_ids_of_roles(tokenizer: Tokenizer, foreign: Callable[[str], Tokenizer]) -> None:
    assert tokenizer.eos_id == tokenizer.special["<|endoftext|>"]
    assert tokenizer.bos_id is None
    assert tokenizer.stop_ids == {tokenizer.eos_id, tokenizer.special["<|im_end|>"]}
    llama = foreign("llama3.1")
    assert llama.bos_id == llama.special["<|begin_of_text|>"]  # from its post-processor
    assert llama.stop_ids == {llama.special["<|eot_id|>"]}
    deepseek = foreign("deepseek-v3")
    assert deepseek.eos_id == deepseek.special["<｜end▁of▁sentence｜>"]  # from an AddedToken object


def test_save_and_load_keep_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "folder")
    with ArtifactWriter(tmp_path / "artifact", kind="tokenizer", fingerprint="x", lineage={}) as out:
        tokenizer.save(out)
    for folder in (tmp_path / "folder", Artifact.open(tmp_path / "artifact").path):
        loaded = Tokenizer.load(folder)
        assert loaded.fingerprint() == tokenizer.fingerprint()
        assert loaded.chat_template == tokenizer.chat_template
        assert loaded.encode("naïve 12") == tokenizer.encode("naïve 12")


def test_template_inside_the_config_counts_where_there_is_no_file(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert Tokenizer.load(tmp_path).chat_template == tokenizer.chat_template
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    assert Tokenizer.load(tmp_path).chat_template == "y"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no tokenizer.json"),
        ("{", "cannot be read as JSON"),
        ("[]", "not hold a JSON object"),
        ("{}", "not describe a tokenizer"),
        ('{"model": {"type": "Unigram"}, "added_tokens": []}', "Unigram"),
        ('{"model": {"type": "BPE", "vocab": {}}, "added_tokens": []}', "not usable"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}, "added_tokens": []}',
            "not usable",
        ),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


JUNK = [
    None,
    -1,
    0,
    2**40,
    "",
    "a",
    "\u0120",
    [],
    {},
    True,
    1.5,
    [[]],
    {"type": "x"},
    "<|im_end|>",
    ["a", "b"],
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something could be broken: every key, and the first items of every list and vocabulary."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [path, *(place for key, entry in inner[:14] for place in _places(entry, (*path, key)))]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_malformed_definitions_are_refused_or_work(tokenizer: Tokenizer, data: st.DataObject) -> None:
    definition = json.loads(_text(tokenizer))
    *parents, last = data.draw(st.sampled_from(_places(definition)[1:]))
    target = definition
    for key in parents:
        target = target[key]
    if data.draw(st.booleans()):
        del target[last]
    else:
        target[last] = data.draw(st.sampled_from(JUNK))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(json.dumps(definition))
        try:
            loaded = Tokenizer.load(folder)
        except CheckpointError:
            return
    assert isinstance(loaded.decode(loaded.encode("Sam has 12 coins <|im_end|>")), str)
    assert list(loaded.shield.split("x"))


@functools.cache
def _text(tokenizer: Tokenizer) -> str:
    """A smaller vocabulary's `tokenizer.json`, quick to load."""
    return json.dumps(train([tokenizer.decode(range(256, 900))], 320).definition)


@pytest.mark.parametrize("template", [3, [3], [{"name": "default"}], {"x": 1}])
def test_a_template_that_is_no_text_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, template: object
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": [1]}))
    with pytest.raises(CheckpointError, match=r"not text|not describe"):
        Tokenizer.load(tmp_path)


def test_vocabulary_without_some_bytes(tokenizer: Tokenizer, layout: Layout) -> None:
    """SmolLM2 lacks control characters and empty planes: still fast, and equal to the library."""
    definition, config = layout("smollm2")
    vocabulary = definition["model"]["vocab"]
    for byte in (0x04, 0x1D, 0xC0, 0xF1, 0xF2, 0xFF):
        del vocabulary[bytelevel.spell(bytes([byte]))]
    ours, library = Tokenizer(definition, config), LibraryEncoder(definition)
    assert ours.encoder_name == "TiktokenEncoder"
    for text in ("a\x04b", "x\U00045678y", "plain", "\U000e0001 \x1d"):
        assert ours.encode(text) == library.encode(text)
    with pytest.raises(DataError, match="0xFF"):
        ours.encode_bytes(b"\xff")
    merged = "".join(left + right for left, right in definition["model"]["merges"])
    leads = (bytelevel.spell(bytes([byte])) for byte in range(0xC2, 0xF0))
    del vocabulary[next(lead for lead in leads if lead not in merged)]
    assert Tokenizer(definition, config).encoder_name == "LibraryEncoder"


# -- GGUF


def _fields(tokenizer: Tokenizer, pre: str | None = "qwen2", **changes: Any) -> dict[str, Any]:
    model = tokenizer.definition["model"]
    tokens = [*model["vocab"], *tokenizer.special]
    names = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [1] * len(model["vocab"]) + [3] * len(tokenizer.special),
        "merges": [" ".join(pair) for pair in model["merges"]],
        "eos_token_id": tokenizer.eos_id,
    }
    fields = {
        f"tokenizer.ggml.{key}": value for key, value in {**names, **changes}.items() if value is not None
    }
    return {**fields, "tokenizer.chat_template": tokenizer.chat_template}


def test_gguf_metadata_gives_the_same_tokenizer(tokenizer: Tokenizer, sample: list[str]) -> None:
    ours = Tokenizer.from_gguf(_fields(tokenizer))
    assert ours.encode_batch(sample) == tokenizer.encode_batch(sample)
    assert ours.special == tokenizer.special
    assert ours.eos_id == tokenizer.eos_id
    assert ours.chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    ("pre", "name"), [("llama-bpe", "llama3.1"), ("smollm", "smollm2"), ("qwen2", "qwen2.5")]
)
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_gguf_pre_tokenizers_equal_the_families(
    tokenizer: Tokenizer, foreign: Callable[[str], Tokenizer], pre: str, name: str, text: str
) -> None:
    ours = Tokenizer.from_gguf(_fields(tokenizer, pre)) if pre not in _made else _made[pre]
    _made[pre] = ours
    normal = LibraryEncoder({**foreign(name).definition, "normalizer": None})  # GGUF knows no normaliser
    assert ours.encode(text) == normal.encode(text)


_made: dict[str, Tokenizer] = {}


@pytest.mark.parametrize("pre", [None, "default", "deepseek-llm"])
def test_unknown_pre_tokenizers_are_refused_with_the_known_ones(
    tokenizer: Tokenizer, pre: str | None
) -> None:
    with pytest.raises(CheckpointError, match="gpt-2, llama-bpe, qwen2, smollm"):
        Tokenizer.from_gguf(_fields(tokenizer, pre))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "'llama' is not supported"),
        ({"tokens": None}, "missing"),
        ({"merges": None}, "missing"),
        ({"merges": ["ab"]}, "not a pair"),
        ({"token_type": [1]}, "1 types for"),
        ({"eos_token_id": 10**6}, "not in the vocabulary"),
        ({"eos_token_id": -1}, "not in the vocabulary"),
        ({"tokens": [1, 2], "token_type": [1, 1], "eos_token_id": 0}, "not usable"),
        ({"tokens": [[1]], "token_type": [1], "eos_token_id": 0}, "not describe a tokenizer"),
        ({"merges": ["\u0120 \u0100\u0100\u0100"]}, "not usable"),
    ],
)
def test_broken_gguf_metadata_is_one_clear_error(
    tokenizer: Tokenizer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_gguf(_fields(tokenizer, **changes))
