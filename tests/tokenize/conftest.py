"""A small tokenizer trained on the spot, and the layouts of real ones around the same vocabulary."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from kweek.data import stories
from kweek.tokenize.bpe import train
from kweek.tokenize.tokenizer import Tokenizer

FOREIGN = Path(__file__).parent / "foreign"

PROSE = """The café's naïve owner didn't pay 3,141 €; they'll say so, he thought: \u201cDAS IST GUT\u201d.
    def f(x):\n\treturn {'a': [x, 0x1F]}  # indented\r\n\n\n日本語のテキスト、한국어 и русский नमस्ते 👩‍👩‍👧 e\u0301
I'm sure we've seen you're right, and he'd say it's Tom's. """


@pytest.fixture(scope="session")
def sample() -> list[str]:
    """Stories, a text that uses everything, and prose that every Python brings along."""
    return stories.sample_texts("test", 400, "train") + [PROSE] * 30 + list(topics.values())[:25]


@pytest.fixture(scope="session")
def tokenizer(sample: list[str]) -> Tokenizer:
    """1,024 entries in Kweek's own layout, with the packaged chat template."""
    return train(sample, 1024)


@pytest.fixture(scope="session")
def layout(tokenizer: Tokenizer) -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Definition and config of a real family around the small vocabulary."""

    def build(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        foreign = json.loads((FOREIGN / f"{name}.json").read_text(encoding="utf-8"))
        definition, config = foreign["tokenizer"], foreign["config"]
        model = copy.deepcopy(tokenizer.definition["model"])
        definition["model"] |= {"vocab": model["vocab"], "merges": model["merges"]}
        for offset, token in enumerate(definition["added_tokens"]):
            token["id"] = len(model["vocab"]) + offset
        ids = {token["content"]: token["id"] for token in definition["added_tokens"]}
        for processor in (definition.get("post_processor") or {}).get("processors", []):
            for text, entry in processor.get("special_tokens", {}).items():
                entry["ids"] = [ids[text]]
        return definition, config

    return build


@pytest.fixture(scope="session")
def foreign(
    layout: Callable[[str], tuple[dict[str, Any], dict[str, Any]]],
) -> Callable[[str], Tokenizer]:
    """The tokenizer of a real family around the small vocabulary."""
    made: dict[str, Tokenizer] = {}

    def build(name: str) -> Tokenizer:
        if name not in made:
            definition, config = layout(name)
            made[name] = Tokenizer(definition, config, config.get("chat_template"), name=name)
        return made[name]

    return build


#: Control tokens of the templates that come without a tokenizer; the first ends an answer.
CONTROLS = {
    "gemma3": ("<end_of_turn>", "<start_of_turn>"),
    "glm4moe": (
        "<|endoftext|>",
        "[gMASK]",
        "<sop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ),
    "phi3": ("<|end|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"),
    "qwen3.5": ("<|im_end|>", "<|im_start|>", "<think>", "</think>"),
    "deepseekv3": ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
}


@pytest.fixture(scope="session")
def templated(tokenizer: Tokenizer) -> Callable[[str], Tokenizer]:
    """The template of a real family with its control tokens on top of the small vocabulary."""

    def build(name: str) -> Tokenizer:
        source = (FOREIGN / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
        definition = copy.deepcopy(tokenizer.definition)
        first = len(definition["model"]["vocab"]) + 100
        like = definition["added_tokens"][0]
        definition["added_tokens"] = [
            {**like, "content": text, "id": first + number}
            for number, text in enumerate((*CONTROLS[name], "<bos>"))
        ]
        config = {"eos_token": CONTROLS[name][0], "bos_token": "<bos>"}
        return Tokenizer(definition, config, source, name=name)

    return build
