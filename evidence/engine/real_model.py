"""SmolLM2-135M-Instruct from the package index: speed of a chat, memory, time to the first token, and the same answers
as llama.cpp from the same file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import evidence, kweek
from llama_api import F32, LlamaCpp

from kweek.compute.hardware import peak_memory_bytes
from kweek.engine.engine import Engine
from kweek.model.checkpoint import load_model
from kweek.protocols import Request
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

NEW_TOKENS, QUICK_TOKENS = 48, 16
QUESTIONS = [
    f"{ask} {what}?"
    for ask in ("What is", "Can you explain", "Give one example of", "Why do people like", "Who invented")
    for what in (
        "a volcano", "the printing press", "photosynthesis", "a prime number", "the Moon", "bread", "a violin",
        "the metre", "a sonnet", "chess",
    )
]  # fmt: skip
TIE = 0.02  # nats: two tokens this near are one choice to engines that round differently


def theirs(
    peer: LlamaCpp, ids: list[int], count: int, vocab_size: int, end: int
) -> tuple[list[int], list[float], float, float]:
    """Greedy tokens, the lead of each over the second, seconds to the first token and for the rest."""
    peer.clear()
    started = time.perf_counter()
    peer.decode(ids, range(len(ids)), [0] * len(ids), [0] * (len(ids) - 1) + [1])
    logits = peer.logits(len(ids) - 1, vocab_size)
    first = time.perf_counter() - started
    tokens: list[int] = []
    leads: list[float] = []
    while True:
        best = np.partition(logits, -2)[-2:]
        tokens.append(int(logits.argmax()))
        leads.append(float(best[1] - best[0]))
        if tokens[-1] == end or len(tokens) == count:
            return tokens, leads, first, time.perf_counter() - started - first
        peer.decode([tokens[-1]], [len(ids) + len(tokens) - 1], [0], [1])
        logits = peer.logits(0, vocab_size)


def ours(engine: Engine, ids: list[int], count: int, end: int) -> tuple[list[int], float, float]:
    """Greedy tokens, seconds to the first and for the rest."""
    started = time.perf_counter()
    moments: list[float] = []
    request = Request(ids, count, stop_ids=frozenset({end}))
    done = engine.generate([request], lambda *_: moments.append(time.perf_counter()))[0]
    return done.token_ids, moments[0] - started, time.perf_counter() - moments[0]


def memory_of_a_chat(folder: Path) -> float:
    """Peak bytes of a process that answers once in 8 bits."""
    code = (
        "import json,sys;from pathlib import Path;from kweek.engine.open import open_model;"
        "from kweek.protocols import Request;from kweek.compute.hardware import peak_memory_bytes;"
        "open_model(Path(sys.argv[1]),weights='q8').model.generate([Request([1]*32,32)]);"
        "print(json.dumps(peak_memory_bytes()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout))


def run(quick: bool) -> dict[str, Any]:
    """Fifty questions at temperature 0, engines by turns; five when quick."""
    torch.set_num_threads(1)
    count, questions = (QUICK_TOKENS, QUESTIONS[:5]) if quick else (NEW_TOKENS, QUESTIONS)
    with tempfile.TemporaryDirectory() as temporary:
        folder, file = Path(temporary) / "smollm2", Path(temporary) / "exact.gguf"
        kweek("get", "smollm2-135m", "--out", str(folder))
        kweek("export", str(folder), "--gguf", str(file), "--type", "f32")
        small = Path(temporary) / "q8.gguf"
        kweek("export", str(folder), "--gguf", str(small), "--type", "q8_0")
        network, tokenizer = load_model(folder), Tokenizer.load(folder)
        end = tokenizer.special["<|im_end|>"]
        prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in questions]
        context = max(map(len, prompts)) + count + 8
        exact = LlamaCpp(file, context=context, flash=False, cache_type=F32)
        engine = Engine(network)
        same, ties, unexplained = 0, [], []
        for text, ids in zip(questions, prompts, strict=True):
            wanted, leads, _, _ = theirs(exact, ids, count, network.config.vocab_size, end)
            found = ours(engine, ids, count, end)[0]
            if found == wanted:
                same += 1
                continue
            at = next(i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b)
            (ties if leads[at] < TIE else unexplained).append(
                {"question": text, "token": at, "lead": leads[at]}
            )
        exact.close()
        peer, fast = LlamaCpp(small, context=context), Engine(network, weights="q8", kv="f16")
        ours(fast, prompts[0], 4, end)
        theirs(peer, prompts[0], 4, network.config.vocab_size, end)
        speeds, firsts = [], []
        for ids in prompts[: 3 if quick else 20]:
            tokens, _, first_theirs, seconds_theirs = theirs(peer, ids, count, network.config.vocab_size, end)
            mine, first_ours, seconds_ours = ours(fast, ids, count, end)
            speeds.append(((len(mine) - 1) / seconds_ours, (len(tokens) - 1) / seconds_theirs))
            firsts.append((first_ours, first_theirs))
        peer.close()
        memory = memory_of_a_chat(folder)
    mine, llama = (median(values) for values in zip(*speeds, strict=True))
    return {
        "ours": mine,
        "reference": llama,
        "unit": "tokens per second of one chat, 8 bits, one thread",
        "ratio": mine / llama,
        "interval": [min(a / b for a, b in speeds), max(a / b for a, b in speeds)],
        "n": len(questions),
        "seeds": [0],
        "details": {
            "same_answers": same, "explained_ties": ties, "unexplained": unexplained,
            "seconds_to_first_token": [median(values) for values in zip(*firsts, strict=True)],
            "peak_bytes_of_a_chat": memory, "peak_bytes_here": peak_memory_bytes(),
        },
        "passed": mine >= llama and not unexplained,
    }  # fmt: skip


evidence(
    "engine/real_model",
    claim="SmolLM2-135M-Instruct chats no slower than in llama.cpp on the same weights, with the same greedy answers",
    run=run,
)
