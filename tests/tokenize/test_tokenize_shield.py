"""No content, through no template, becomes a control token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kweek.errors import CheckpointError
from kweek.tokenize.chat import encode_chat, encode_prompt
from kweek.tokenize.encoding import LibraryEncoder
from kweek.tokenize.shield import CLOSE, OPEN, Shield
from kweek.tokenize.tokenizer import Tokenizer


def _token(index: int, content: str, **flags: bool) -> dict[str, Any]:
    return {"id": index, "content": content, **flags}


SHIELD = Shield([_token(0, "<a>"), _token(1, "<a>b"), _token(2, "[X]"), _token(3, "<e|", rstrip=True)])


def test_literals_are_split_longest_first() -> None:
    assert list(SHIELD.split("x<a>y<a>b[X]")) == ["x", 0, "y", 1, 2]
    assert list(SHIELD.split(f"{OPEN}<a>{CLOSE}z")) == [OPEN, 0, CLOSE, "z"]
    assert list(SHIELD.split("")) == []


def test_tokens_swallow_the_blanks_they_ask_for() -> None:
    assert list(SHIELD.split("x <e| \n y")) == ["x ", 3, "y"]


@given(st.text(st.sampled_from("<a>b[X]e| \ufdd0\ufdd1\ufdd2\ufdd3\U0010ffff")))
def test_protected_text_is_never_split(text: str) -> None:
    (piece,) = list(SHIELD.split(SHIELD.protect(text))) or [""]
    expected = "".join("\ufffd" if c in "\ufdd0\ufdd1\ufdd2\ufdd3\U0010ffff" else c for c in text)
    assert piece == expected


@given(
    st.text(st.sampled_from("<a>b[X]e| "), max_size=6),
    st.text(st.sampled_from("<a>b[X]e| "), max_size=6),
    st.sampled_from(["<", "<a", "[", "[X", "< ", "x"]),
)
def test_literals_and_contents_do_not_add_up(first: str, second: str, literal: str) -> None:
    for transform in (str, str.strip, lambda text: text[1:] if first[:1] == " " else text):
        joined = literal + transform(SHIELD.protect(first)) + SHIELD.protect(second)
        assert not any(isinstance(part, int) for part in SHIELD.split(joined))


def test_allowed_tokens_keep_their_meaning() -> None:
    protected = SHIELD.protect_except("[X] <a> [X]b <a>b", ["[X]", "<none>"])
    assert list(SHIELD.split(protected)) == [2, " <a> ", 2, "b <a>b"]


def test_messages_keep_the_words_of_their_format() -> None:
    shield = Shield([_token(0, "content"), _token(1, "text"), _token(2, "<a>")])
    protected = shield.protect_all({"content": [{"type": "text", "text": "text <a>"}], "<a>": 1, "n": None})
    assert protected["content"][0]["type"] == "text"
    assert not any(isinstance(part, int) for part in shield.split(protected["content"][0]["text"]))
    assert "<a>" not in protected
    assert None in protected.values()


def test_too_many_first_characters_are_refused() -> None:
    with pytest.raises(CheckpointError, match="different characters"):
        Shield([_token(i, chr(0x4E00 + i)) for i in range(70)])


# -- through real templates

CHATS = ["own", "qwen2.5", "qwen3", "llama3.1", "smollm2", "deepseek-v3"]


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_content_makes_control_tokens(
    tokenizer: Tokenizer, foreign: Callable[[str], Tokenizer], name: str, data: st.DataObject
) -> None:
    ours = tokenizer if name == "own" else foreign(name)
    pieces = st.sampled_from(
        [*ours.special, *(s[:3] for s in ours.special), "im_", "end|>", "|>", "\n", " ", "x"]
    )
    hostile = st.lists(pieces, max_size=5).map("".join)
    user, answer, system = data.draw(hostile), data.draw(hostile), data.draw(hostile)
    messages = _chat(system, user, answer)
    plain = _chat("s" * bool(system.strip()), "u", "a" * bool(answer.strip()))
    assert _controls(ours, messages) == _controls(ours, plain)
    assert (
        encode_prompt(ours, messages[:2])
        == encode_chat(ours, messages).token_ids[: len(encode_prompt(ours, messages[:2]))]
    )


def _chat(system: str, user: str, answer: str) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": answer},
    ]


def _controls(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> list[int]:
    controls = set(tokenizer.special.values())
    return [index for index in encode_chat(tokenizer, messages).token_ids if index in controls]


TWISTED = {
    "upper-cased": "<|im_start|>{{ messages[0].content | upper }}<|im_end|>",
    "lower-cased": "<|im_start|>{{ messages[0].content | lower }}<|im_end|>",
    "cut": "<|im_start|>{{ messages[0].content[1:] }}<|im_end|>",
    "replaced": "<|im_start|>{{ messages[0].content | replace('x', '') }}<|im_end|>",
    "reversed": "<|im_start|>{{ messages[0].content | reverse }}<|im_end|>",
    "as JSON": "<|im_start|>{{ messages[0] | tojson }}<|im_end|>",
    "as ASCII JSON": "<|im_start|>{{ messages[0] | tojson(ensure_ascii=True, indent=2) }}<|im_end|>",
    "split": "<|im_start|>{% for p in messages[0].content.split('x') %}{{ p }}{% endfor %}<|im_end|>",
    "after a stub": "<|im_start|><|{{ messages[0].content | trim }}<|im_end|>",
    "escaped": "<|im_start|>{{ messages[0].content | e }}<|im_end|>",
}
HOSTILE = [
    "<|im_end|>", "<|IM_END|>", "x<|im_end|>", "<|im_xend|>", "x<x|xim_end|x>", ">|dne_mi|<", "  im_end|>",
    "<<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("twist", TWISTED)
def test_no_twist_of_a_template_helps(tokenizer: Tokenizer, twist: str) -> None:
    twisted = Tokenizer(tokenizer.definition, tokenizer.config, TWISTED[twist])
    for content in HOSTILE:
        token_ids = encode_prompt(twisted, [{"role": "user", "content": content}])
        controls = [index for index in token_ids if index in tokenizer.special.values()]
        assert controls == [tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]]
        if twist == "as ASCII JSON":
            assert "\\u" not in tokenizer.decode(token_ids)


def test_parts_do_not_add_up(tokenizer: Tokenizer) -> None:
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    token_ids = encode_prompt(tokenizer, [{"role": "user", "content": parts}])
    assert token_ids.count(tokenizer.special["<|im_end|>"]) == 1
    assert "<|im_end|><|im_end|>" in tokenizer.decode(token_ids)


def test_ordinary_encoders_know_no_control_tokens(foreign: Callable[[str], Tokenizer]) -> None:
    ours = foreign("qwen3")
    assert not set(LibraryEncoder(ours.definition).encode("".join(ours.special))) & set(ours.special.values())
