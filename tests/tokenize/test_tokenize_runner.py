"""Ids in the program for machines without Python: it splits and merges text by itself, and must do so alike."""

from __future__ import annotations

import random
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kweek.compress.runner import compiled, write_weights
from kweek.errors import KweekError
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.encoding import PROBE
from kweek.tokenize.tokenizer import Tokenizer

#: Wherever a rule of a pattern begins or ends, and characters of one to four bytes.
ALPHABET = "aZé\u017f'sStTlLvreREmd 0129½٣.,!<|>_\t\n\r\u00a0\u3000\u200b日本한👩\u200d\u0301\u0e33𝟘😀"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "run"
    try:
        path.write_bytes(compiled("native", "portable"))
    except KweekError as error:
        pytest.skip(str(error))
    path.chmod(0o755)
    return path


def weights(path: Path, tokenizer: Tokenizer) -> Path:
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 32, 1, 1, 1, head_dim=32, eos_token_id=0))
    initialise(network, torch.Generator().manual_seed(0))
    with path.open("wb") as stream:
        write_weights(stream, network, tokenizer, "f16")
    return path


def ids(program: Path, file: Path, texts: list[str]) -> list[list[int]]:
    done = subprocess.run([program, "-e", file, *texts], capture_output=True, text=True, check=True)
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def questions(sample: list[str]) -> list[str]:
    draw = random.Random(1)
    made = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 40))) for _ in range(600)]
    return [PROBE, *(text for text in sample[420:] if "\0" not in text), *made]


@pytest.mark.parametrize("family", ["own", "qwen2.5", "qwen3", "llama3.1", "smollm2"])
def test_a_question_has_the_ids_of_encode_prompt(
    family: str, program: Path, foreign: Callable[[str], Tokenizer], tokenizer: Tokenizer, sample: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    ours = tokenizer if family == "own" else foreign(family)
    # The Qwen families compose characters first, and a template may trim: the program does neither.
    texts = [f"<{unicodedata.normalize('NFC', text)}>" for text in questions(sample)]
    found = ids(program, weights(tmp_path / "w", ours), texts)
    for text, mine in zip(texts, found, strict=True):
        assert mine == encode_prompt(ours, [{"role": "user", "content": text}]), text[:60]


def test_without_a_template_a_text_is_continued(
    program: Path, tokenizer: Tokenizer, sample: list[str], tmp_path: Path
) -> None:
    base = Tokenizer(tokenizer.definition, tokenizer.config)
    texts = questions(sample)
    assert ids(program, weights(tmp_path / "w", base), texts) == [base.encode(text) for text in texts]


def test_a_tokenizer_that_only_the_library_reads_has_ids_only(
    program: Path, foreign: Callable[[str], Tokenizer], tmp_path: Path
) -> None:
    file = weights(tmp_path / "w", foreign("deepseek-v3"))
    done = subprocess.run([program, file, "hello"], capture_output=True, text=True)
    assert done.returncode == 2 and "only Kweek reads; give token ids with -i" in done.stderr
    done = subprocess.run([program, "-i", "-n", "3", file, "5", "6"], capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
