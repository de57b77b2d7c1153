"""The saved folder in `transformers`: same ids, same rendering, same mask."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from kweek.data import stories
from kweek.tokenize.chat import encode_chat, encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " 2 < 3 & [x]? \n"},
        {"role": "assistant", "content": "yes\n"},
        {"role": "user", "content": "Why?\n\n"},
        {"role": "assistant", "content": "\n\nBecause é.", "reasoning_content": "2+1=3"},
    ],
]


def folder_of(tokenizer: Tokenizer, path: Path) -> Any:
    tokenizer.save(path)
    return transformers.AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def peer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return folder_of(tokenizer, tmp_path_factory.mktemp("own"))


def test_ids_and_tokens_of_roles(tokenizer: Tokenizer, peer: Any, sample: list[str]) -> None:
    assert len(peer) == tokenizer.vocab_size
    assert (peer.eos_token_id, peer.pad_token_id) == (tokenizer.eos_id, tokenizer.eos_id)
    for text in sample[::7]:
        assert peer.encode(text) == tokenizer.encode(text)
        assert peer.decode(peer.encode(text)) == text
    assert set(tokenizer.special) <= set(peer.all_special_tokens)


@pytest.mark.parametrize("messages", [*CHATS, *stories.demonstrations("peer", 6, ("direct", "reasoned"))])
def test_chats_and_masks_equal(tokenizer: Tokenizer, peer: Any, messages: list[dict[str, Any]]) -> None:
    ours = encode_chat(tokenizer, messages)
    theirs = peer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert theirs["input_ids"] == ours.token_ids
    assert theirs["assistant_masks"] == [int(masked) for masked in ours.loss_mask]
    assert peer.apply_chat_template(messages, tokenize=False) == tokenizer.decode(ours.token_ids)
    prompt = peer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == encode_prompt(tokenizer, messages[:-1])


def test_calculator_chats_differ_in_the_forced_results_only(tokenizer: Tokenizer, peer: Any) -> None:
    for messages in stories.demonstrations("peer", 6, ("tool",), share_small_talk=0):
        ours = encode_chat(tokenizer, messages)
        theirs = peer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        assert theirs["input_ids"] == ours.token_ids
        differ = [i for i, m in enumerate(theirs["assistant_masks"]) if bool(m) != ours.loss_mask[i]]
        forced, inside = [], False
        for i, index in enumerate(ours.token_ids):
            if inside:
                forced.append(i)
            inside = index == tokenizer.special["<result>"] or (
                inside and index != tokenizer.special["</result>"]
            )
        assert differ == forced


@pytest.mark.parametrize("think", [True, False])
def test_thinking_switch_equals(tokenizer: Tokenizer, peer: Any, think: bool) -> None:
    theirs = peer.apply_chat_template(
        CHATS[0][:1], add_generation_prompt=True, enable_thinking=think, return_dict=True
    )
    opened = (
        [tokenizer.special["<think>"]] if think else []
    )  # as in Qwen3, true is what a template does anyway
    assert theirs["input_ids"] + opened == encode_prompt(tokenizer, CHATS[0][:1], think=think)


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "llama3.1", "smollm2", "deepseek-v3"])
def test_foreign_families_equal(
    foreign: Callable[[str], Tokenizer], name: str, tmp_path: Path, sample: list[str]
) -> None:
    ours = foreign(name)
    peer = folder_of(ours, tmp_path)
    for text in sample[::29]:
        assert peer.encode(text, add_special_tokens=False) == ours.encode(text)
    answer = {**CHATS[1][4], "content": "Because é."}
    if not ours.template.abilities.reasoning:  # transformers leaves it out in silence, encode_chat refuses
        del answer["reasoning_content"]
    for messages in (CHATS[0], [*CHATS[1][:4], answer]):
        assert (
            peer.apply_chat_template(messages, return_dict=True)["input_ids"]
            == encode_chat(ours, messages).token_ids
        )
        theirs = peer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert theirs == encode_prompt(ours, messages[:-1])


def test_tool_calls_equal(foreign: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    """Arguments pass through the template's own JSON: quotes, angle brackets and accents come out alike."""
    ours = foreign("qwen3")
    peer = folder_of(ours, tmp_path)
    call = {
        "type": "function",
        "function": {"name": "look", "arguments": {"q": '<b>"é"\n', "n": [1, None, True]}},
    }
    messages = [
        CHATS[0][0],
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps({"found": "<x>"})},
        {"role": "assistant", "content": "Done."},
    ]
    assert (
        peer.apply_chat_template(messages, return_dict=True)["input_ids"]
        == encode_chat(ours, messages).token_ids
    )
