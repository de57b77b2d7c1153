"""Tokens per second on a GPU: a network of 0.6B parameters (the shape of Qwen3-0.6B, random weights, bf16).

256 requests with prompts and answers of 100 to 1,024 tokens each, sampled at temperature 0.6, as in nano-vllm's
benchmark, but all at once against vLLM where it is installed, else against `transformers` in batches of like length.
Then one sequence alone: what share of the memory bandwidth measured in the same run the weights and keys that a token
needs take up. What is fast must be right: log-probabilities of the answers against the network without cache, and the
same tokens with graphs and without.

Without a CUDA device nothing is measured, and the result says that it waits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from harness import evidence

from kweek.engine.device.backend import DeviceBackend
from kweek.engine.engine import Engine
from kweek.model.checkpoint import save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Completion, Request
from kweek.tokenize import bpe

QWEN3 = ModelConfig(
    151_936, 1024, 3072, 28, 16, 8, head_dim=128, tied_embeddings=True, max_positions=4096, rope_theta=1e6
)
SHORTEST, LONGEST = 100, 1024  # tokens of a prompt, and of an answer
TEMPERATURE = 0.6
CLOSE = 0.15  # of a log-probability in bf16, whose logits have eight bits


def made(config: ModelConfig, device: str, dtype: torch.dtype) -> Network:
    """Random weights, small enough that activations stay in range."""
    network = Network(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0)
    network.compute_dtype = dtype
    return network.to(device, dtype)


def asked(config: ModelConfig, count: int, longest: int) -> list[Request]:
    """Requests of a fixed seed that nothing but their length ends."""
    random = np.random.default_rng(0)
    shortest = min(SHORTEST, longest)
    return [
        Request(
            random.integers(
                0, min(config.vocab_size, 10_000), random.integers(shortest, longest + 1)
            ).tolist(),
            int(random.integers(shortest, longest + 1)),
            TEMPERATURE,
            seed=i,
        )
        for i in range(count)
    ]


def speed(generate: Callable[[], object], tokens: int, device: str) -> float:
    """Tokens per second."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    generate()
    if device == "cuda":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - started)


def theirs(
    folder: Path, requests: Sequence[Request], device: str, dtype: torch.dtype
) -> tuple[str, Callable[[], object]]:
    """The peer's name, and a call that answers all requests."""
    if find_spec("vllm") is not None:
        from kweek.engine.vllm.engine import VllmEngine

        engine = VllmEngine(folder, memory_share=0.5)  # the rest is for ours, in the same process
        return "vLLM", lambda: engine.generate(requests)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    ordered = sorted(requests, key=lambda request: request.max_new_tokens)
    groups = [ordered[i : i + 64] for i in range(0, len(ordered), 64)]

    def generate() -> None:
        for group in groups:
            width = max(len(request.prompt_ids) for request in group)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, request in enumerate(group):
                ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
                mask[row, width - len(request.prompt_ids) :] = 1
            longest = max(request.max_new_tokens for request in group)
            model.generate(
                ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest, min_new_tokens=longest,
                do_sample=True, temperature=TEMPERATURE, top_k=0, pad_token_id=0,
            )  # fmt: skip

    return "transformers", generate


def bandwidth(device: str) -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.empty(1 << 30 if device == "cuda" else 1 << 24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return median(speed(lambda: target.copy_(source), 2 * source.numel(), device) for _ in range(9))


def alone(engine: Engine, config: ModelConfig, device: str, size: int) -> tuple[float, float]:
    """Tokens per second of one sequence, and the bytes that a token has to fetch on average."""
    request = Request([5] * 32, 256)
    engine.generate([request])
    value = median(speed(lambda: engine.generate([request]), 256, device) for _ in range(5))
    context = 32 + 256 / 2
    return value, size * config.num_parameters()["total"] + context * config.num_kv_bytes_per_token(size)


@torch.inference_mode()
def worst(network: Network, requests: Sequence[Request], done: Sequence[Completion]) -> float:
    """Largest difference of a log-probability from the network without cache, over the shortest few."""
    pairs = sorted(zip(requests, done, strict=True), key=lambda pair: len(pair[0].prompt_ids))[:8]
    found = 0.0
    for request, completion in pairs:
        ids = [*request.prompt_ids, *completion.token_ids]
        there = torch.tensor([ids], device=network.head_weight.device)
        table = network.logits(network(there))[0, len(request.prompt_ids) - 1 : -1].float().log_softmax(-1)
        own = table.gather(-1, there[0, len(request.prompt_ids) :, None])[:, 0].cpu().numpy()
        found = max(found, float(np.abs(own - completion.logprobs).max()))
    return found


def measure(
    config: ModelConfig, device: str, dtype: torch.dtype, count: int, longest: int, rounds: int
) -> dict[str, Any]:
    """Both engines on the same requests, interleaved; then one sequence alone."""
    network = made(config, device, dtype)
    requests = asked(config, count, longest)
    tokens = sum(request.max_new_tokens for request in requests)
    engine = Engine(network, num_slots=256, computing="torch")
    done = engine.generate(requests)  # records the graphs
    plain = Engine(network, num_slots=256, computing="torch")
    plain._make = lambda: DeviceBackend(network, num_slots=272, capture=False)  # type: ignore[method-assign]
    few = requests[:16]
    same = [c.token_ids for c in plain.generate(few)] == [c.token_ids for c in engine.generate(few)]
    del plain
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_model(folder, network)
        bpe.train([f"{i} {i * i} {i:x}" for i in range(2000)], 320).save(folder)
        name, generate = theirs(folder, requests, device, dtype)
        generate()
        speeds: dict[str, list[float]] = {"kweek": [], name: []}
        for _ in range(rounds):
            speeds["kweek"].append(speed(lambda: engine.generate(requests), tokens, device))
            speeds[name].append(speed(generate, tokens, device))
    single, needed = alone(engine, config, device, dtype.itemsize)
    limit = bandwidth(device)
    ratios = [a / b for a, b in zip(speeds["kweek"], speeds[name], strict=True)]
    error = worst(network, requests, done)
    return {
        "ours": median(speeds["kweek"]),
        "reference": median(speeds[name]),
        "unit": f"tokens per second, {count} requests; the reference is {name}",
        "ratio": median(ratios),
        "interval": [min(ratios), max(ratios)],
        "n": rounds,
        "seeds": [0],
        "details": {
            "tokens_per_second": speeds,
            "one_sequence_tokens_per_second": single,
            "one_sequence_share_of_bandwidth": single * needed / limit,
            "bandwidth_bytes_per_second": limit,
            "largest_error_of_a_logprob": error,
            "same_tokens_with_graphs_and_without": same,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "interval": "smallest and largest ratio of a round",
        },
        "passed": median(ratios) >= 1 and error <= CLOSE and same,
    }


def run(quick: bool) -> dict[str, Any]:
    """256 requests in five rounds; 64 shorter ones in two when quick."""
    if not torch.cuda.is_available():
        return {
            "ours": None,
            "reference": None,
            "unit": "tokens per second",
            "n": 0,
            "seeds": [],
            "waits": "for a machine with a CUDA device",
            "passed": False,
        }
    count, longest, rounds = (64, 256, 2) if quick else (256, LONGEST, 5)
    return measure(QWEN3, "cuda", torch.bfloat16, count, longest, rounds)


if __name__ == "__main__":
    evidence(
        "engine/gpu",
        claim="0.6B parameters in bf16, 256 requests: no fewer tokens/s than vLLM (else transformers) on the same GPU",
        run=run,
    )
