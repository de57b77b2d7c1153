"""Guessing ahead by look-up and by a draft: the same text always, and the speed where text repeats and where not."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import evidence, kweek

from kweek.engine.engine import Engine
from kweek.engine.native.decoder import NativeBackend
from kweek.engine.speculation import Draft, PromptLookup, Speculation
from kweek.model.checkpoint import load_model
from kweek.model.network import Network
from kweek.protocols import Completion, Request
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

NEW_TOKENS = 128
LIST = "\n".join(
    f"def get_{name}(self):\n    return self._{name}" for name in ("width", "height", "depth", "colour")
)
REPEATING = [
    f"Repeat this code exactly, then add a method for weight:\n{LIST}",
    f"Copy the following text word for word:\n{LIST}",
]
OTHER = ["Tell me a short story about a lighthouse keeper.", "Why is the sky blue?"]
SLOWER = 0.97  # what guessing that does not pay may cost


def once(
    network: Network, requests: list[Request], speculation: Speculation | None, form: str
) -> tuple[float, list[Completion]]:
    """Tokens per second one request after another, and what came."""
    engine = Engine(network, weights=form, num_slots=4, speculation=speculation)  # type: ignore[arg-type]
    engine.generate([Request([1], 4)])
    started = time.perf_counter()
    done = [engine.generate([request])[0] for request in requests]
    return sum(len(c.token_ids) for c in done) / (time.perf_counter() - started), done


def run(quick: bool) -> dict[str, Any]:
    """The real SmolLM2-135M-Instruct in f16, where checking several tokens costs little more than one."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    equal = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "smollm2"
        kweek("get", "smollm2-135m", "--out", str(folder))
        network, tokenizer = load_model(folder), Tokenizer.load(folder)
        for kind, questions in (("repeating", REPEATING), ("other", OTHER)):
            prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in questions]
            for temperature in (0.0, 0.7):
                requests = [Request(ids, NEW_TOKENS, temperature, seed=i) for i, ids in enumerate(prompts)]
                speeds: dict[str, list[float]] = {"plain": [], "look-up": [], "draft in 4 bits": []}
                for _ in range(1 if quick else 3):
                    plain, expected = once(network, requests, None, "f16")
                    speeds["plain"].append(plain)
                    for name, proposer in (
                        ("look-up", PromptLookup()),
                        ("draft in 4 bits", Draft(NativeBackend(network, "q4", num_slots=4))),
                    ):
                        speculation = Speculation(proposer)
                        speed, done = once(network, requests, speculation, "f16")
                        speeds[name].append(speed)
                        equal &= [c.token_ids for c in done] == [c.token_ids for c in expected]
                        accepted = speculation.num_accepted / max(1, speculation.num_guessed)
                        found[f"{kind}, temperature {temperature:g}, {name}, accepted"] = accepted
                for name, values in speeds.items():
                    found[f"{kind}, temperature {temperature:g}, {name}"] = median(values)
    gain = found["repeating, temperature 0, look-up"] / found["repeating, temperature 0, plain"]
    loss = min(
        found[f"other, temperature {t}, look-up"] / found[f"other, temperature {t}, plain"]
        for t in ("0", "0.7")
    )
    return {
        "ours": found["repeating, temperature 0, look-up"],
        "reference": found["repeating, temperature 0, plain"],
        "unit": "tokens per second on text that repeats",
        "ratio": gain,
        "interval": [loss, gain],
        "n": 2 * len(REPEATING + OTHER),
        "seeds": [0, 1],
        "details": {
            "found": found,
            "same_tokens": equal,
            "interval": "on text that does not repeat, and that does",
        },
        "passed": equal and gain > 1.0 and loss >= SLOWER,
    }


evidence(
    "engine/speculation",
    claim="guessing gives the same tokens, is faster on text that repeats and at most 3% slower on other text",
    run=run,
)
