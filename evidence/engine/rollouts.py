"""Group sampling for reinforcement learning: samples per second against two others, and how exact they are.

As training has it: each engine lives as long as the run, and the weights are written to before every round, so that
nothing that was computed with the old ones counts; packing them anew is part of the time.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
from first_engine import Engine as FirstEngine
from harness import evidence, taught

from kweek.data import stories
from kweek.engine.engine import Engine
from kweek.model.network import Network
from kweek.protocols import LanguageModel, Request
from kweek.recipe.materials import load
from kweek.store.artifact import Artifact
from kweek.system.calculator import Calculator
from kweek.tokenize.chat import encode_prompt
from kweek.tokenize.tokenizer import Tokenizer

PROMPTS, SAMPLES, NEW_TOKENS = 24, 8, 64
FASTER = 5.0
EXACT = 5e-5  # nats: no importance correction is needed below


def asked(tokenizer: Tokenizer) -> list[Request]:
    """Eight samples of each of 24 problems, the calculator's results forced in."""
    tool = Calculator(tokenizer)
    stop = frozenset({tokenizer.special["<|im_end|>"], tokenizer.eos_id})
    questions = [item.question for item in stories.problems("rollouts", PROMPTS, "train")]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in questions]
    return [
        Request(ids, NEW_TOKENS, 1.0, SAMPLES * i + s, stop, tool)
        for i, ids in enumerate(prompts)
        for s in range(SAMPLES)
    ]


def transformers_seconds(model: Any, requests: list[Request], pad: int) -> tuple[float, float]:
    """Seconds and new tokens of `generate`, padded on the left, all rows at once; it cannot force a tool's tokens."""
    width = max(len(r.prompt_ids) for r in requests)
    ids = torch.tensor([[pad] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in requests])
    mask = torch.tensor([[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in requests])
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=NEW_TOKENS,
            eos_token_id=sorted(requests[0].stop_ids), pad_token_id=pad,
        )  # fmt: skip
    return time.perf_counter() - started, float(out.shape[1] - width)


def ours_seconds(engine: LanguageModel, requests: list[Request]) -> tuple[float, list[Any]]:
    """Seconds, and what came."""
    started = time.perf_counter()
    done = engine.generate(requests)
    return time.perf_counter() - started, done


@torch.inference_mode()
def worst_error(network: Network, requests: list[Request], done: list[Any]) -> float:
    """Largest difference between the engine's log-probabilities and the training network's."""
    worst = 0.0
    for request, completion in zip(requests, done, strict=True):
        ids = torch.tensor([*request.prompt_ids, *completion.token_ids])[None]
        table = network.logits(network(ids))[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
        exact = table.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0].numpy()
        sampled = np.array(completion.sampled)
        worst = max(worst, float(np.abs(np.array(completion.logprobs) - exact)[sampled].max()))
    return worst


def run(quick: bool) -> dict[str, Any]:
    """On the SFT model of the default recipe, seed 0, one thread each, rounds interleaved."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    folder = taught("sft")
    network, tokenizer = load(Artifact.open(folder))
    peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    requests = asked(tokenizer)
    seconds: dict[str, list[float]] = {"kweek": [], "first engine": [], "transformers": []}
    lengths: dict[str, float] = {}
    done: list[Any] = []
    engines: list[tuple[str, LanguageModel]] = [
        ("kweek", Engine(network)),
        ("first engine", FirstEngine(network)),
    ]
    for _ in range(2 if quick else 7):
        for name, engine in engines:
            with torch.no_grad():
                for weight in network.parameters():
                    weight.mul_(1.0)  # an update, as far as an engine can tell
            taken, done = ours_seconds(engine, requests)
            seconds[name].append(taken)
            lengths[name] = sum(len(c.token_ids) for c in done) / len(done)
        taken, lengths["transformers"] = transformers_seconds(peer, requests, tokenizer.eos_id)
        seconds["transformers"].append(taken)
    rate = {name: len(requests) / median(values) for name, values in seconds.items()}
    ratios = {name: rate["kweek"] / rate[name] for name in ("first engine", "transformers")}
    error = worst_error(network, requests, ours_seconds(Engine(network), requests)[1])
    return {
        "ours": rate["kweek"],
        "reference": rate["transformers"],
        "unit": "samples per second, 24 prompts x 8",
        "ratio": ratios["transformers"],
        "interval": [min(ratios.values()), max(ratios.values())],
        "n": len(requests),
        "seeds": [0],
        "details": {
            "seconds": seconds, "ratios": ratios, "largest_error_of_a_logprob": error,
            "new_tokens": lengths, "interval": "against the first engine and against transformers",
        },
        "passed": min(ratios.values()) >= FASTER and error <= EXACT,
    }  # fmt: skip


evidence(
    "engine/rollouts",
    claim="group sampling with tools: 5 times the samples per second of transformers and of the first engine; exact",
    run=run,
)
