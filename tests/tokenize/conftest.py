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
