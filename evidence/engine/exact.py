"""Log-probabilities of the engine: near float64, the same in training, scoring and generation, and equal to the bit
whatever shares a batch, in every format."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from harness import evidence, taught

from kweek.engine.engine import Engine
from kweek.model.checkpoint import load_model
from kweek.model.network import Network
from kweek.protocols import Request

TOLERANCE = 5e-5  # of a log-probability, against float64
PROMPTS, QUICK_PROMPTS = 500, 60
NEW_TOKENS = 24
FORMATS = ("f32", "f16", "q8", "q4")


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    """Of 1 to 200 tokens; some share a beginning, so that prefixes are copied as well."""
    draw = np.random.default_rng(0)
    common = draw.integers(0, vocab_size, 60).tolist()
    result = []
    for i in range(count):
        own = draw.integers(0, vocab_size, int(draw.integers(1, 140))).tolist()
        result.append(common[: int(draw.integers(20, 60))] + own if i % 3 == 0 else own)
    return result


def requests(texts: list[list[int]]) -> list[Request]:
    """Greedy and sampled ones, truncated or not."""
    return [
        Request(ids, NEW_TOKENS, (0.0, 1.0, 0.7)[i % 3], seed=i, top_p=0.95 if i % 2 else 1.0)
        for i, ids in enumerate(texts)
    ]


def answers(network: Network, form: str, wanted: list[Request], order: np.ndarray, size: int) -> list[bytes]:
    """Tokens and log-probabilities as bytes, generated `size` at a time in an order."""
    engine = Engine(network, weights=form, num_slots=size)  # type: ignore[arg-type]
    result = [b""] * len(wanted)
    for index, done in zip(order, engine.generate([wanted[i] for i in order]), strict=True):
        result[index] = np.array(done.token_ids).tobytes() + np.array(done.logprobs).tobytes()
    return result


@torch.inference_mode()
def error_against_float64(network: Network, texts: list[list[int]]) -> dict[str, float]:
    """Largest differences of log-probabilities: of engine and training network to float64, of generation to score."""
    double = Network(network.config)
    double.load_state_dict(network.state_dict())
    double.double()
    double.compute_dtype = torch.float64
    engine = Engine(network)
    worst = {"engine to float64": 0.0, "training network to float64": 0.0, "generation to score": 0.0}
    done = engine.generate(requests(texts))
    sequences = [[*ids, *completion.token_ids] for ids, completion in zip(texts, done, strict=True)]
    scored = engine.score(sequences)
    for ids, completion, sequence, scores in zip(texts, done, sequences, scored, strict=True):
        tokens = torch.tensor(sequence)[None]
        pick = tokens[:, 1:, None]
        exact = double.logits(double(tokens))[:, :-1].log_softmax(-1).gather(-1, pick)[0, :, 0].numpy()
        plain = network.logits(network(tokens))[:, :-1].log_softmax(-1).gather(-1, pick)[0, :, 0].numpy()
        found = np.array(scores[1:])
        new = np.array(completion.logprobs)
        for key, difference in (
            ("engine to float64", np.abs(found - exact)),
            ("training network to float64", np.abs(plain - exact)),
            ("generation to score", np.abs(new - found[len(ids) - 1 :])),
        ):
            worst[key] = max(worst[key], float(difference.max(initial=0.0)))
    return worst


def run(quick: bool) -> dict[str, Any]:
    """On the base model of the default recipe, seed 0."""
    torch.set_num_threads(1)
    network = load_model(taught("base"))
    texts = prompts(QUICK_PROMPTS if quick else PROMPTS, network.config.vocab_size)
    wanted = requests(texts)
    draw = np.random.default_rng(1)
    worst = error_against_float64(network, texts[:100])
    equal: dict[str, int] = {}
    for form in FORMATS:
        alone = answers(network, form, wanted, np.arange(len(wanted)), 1)
        equal[form] = len(wanted)
        for size in (3, 64):
            shuffled = answers(network, form, wanted, draw.permutation(len(wanted)), size)
            equal[form] = min(equal[form], sum(a == b for a, b in zip(alone, shuffled, strict=True)))
    return {
        "ours": worst["engine to float64"],
        "reference": worst["training network to float64"],
        "unit": "largest difference of a log-probability from float64 (nats)",
        "difference": worst["engine to float64"] - worst["training network to float64"],
        "interval": None,
        "n": len(wanted),
        "seeds": [0],
        "details": {"largest_differences": worst, "equal_to_the_bit": equal, "batches": [1, 3, 64]},
        "passed": worst["engine to float64"] <= TOLERANCE
        and worst["generation to score"] <= TOLERANCE
        and all(count == len(wanted) for count in equal.values()),
    }


evidence(
    "engine/exact",
    claim="f32 log-probabilities within 5e-5 of float64; bitwise the same at batch 1 to 64, shuffled, in every format",
    run=run,
)
