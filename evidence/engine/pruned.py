"""Pruning against training: half the feed-forward removed and distilled, or a model of that size trained alone.

For every seed a model is trained, half of its feed-forward channels are taken out, and what is left is distilled from
it as `kweek prune` does by default. It is compared in two ways, with models of the small shape trained from nothing:

- Strict, and what the claim is judged by: the model alone has exactly as many FLOP as training the teacher, cutting and
  distilling took together. "Distillation Scaling Laws" (Busbridge et al. 2025, arXiv 2502.08606) expects training alone
  to win where a teacher is trained for one pupil only.
- The teacher is there already: the model alone has the FLOP of cutting and distilling. The question of whoever has a
  model and wants a smaller one.

A third network shows how far the strict comparison depends on distillation: cut at the plateau of the learning rate,
before the teacher is finished, it is trained on with the text alone, for the same total. Rates were tuned apart for the
two shapes on another seed, at a tenth of the FLOP. Baselines that know less (channels by magnitude, and by Wanda's
measure without the fit) are measured right after the cut.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from harness import evidence

from kweek.compress.hessians import collect
from kweek.compress.prune import Cuts, Pruned, prune_network
from kweek.compress.prune_distil import Schedule, distil
from kweek.compress.prune_width import ffn_weights, heaviest
from kweek.compress.quantize import calibration_batches
from kweek.data.batches import Batch
from kweek.data.docstrings import PYTHON_DOCS, PYTHON_SOURCE, builtin_documents
from kweek.data.packing import PackedMix, Source
from kweek.evaluate.bits import BitsPerByte, bits_per_byte, compare, pool
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.tokenize import bpe
from kweek.tokenize.tokenizer import Tokenizer
from kweek.train.optimiser import LearningRates, SplitOptimiser
from kweek.train.schedule import WarmupStableDecay, sequence_lengths
from kweek.train.trainer import Trainer, fit

SEEDS = (2, 3, 4)  # shares and schedules were chosen on seed 1
VOCABULARY, WIDTH, LAYERS, CHANNELS, LENGTH = 512, 32, 2, 256, 256
#: Widths this small bear more than the default rates, which are for 128; the larger shape bears a little more still.
RATES = {CHANNELS: 1.5, CHANNELS // 2: 1.0}
TOKENS_PER_STEP = 1024
#: FLOP of each side: all of a seed takes some three minutes of an idle core, and the smaller model alone reads fifty
#: tokens per parameter, well beyond the optimum of compute, as small models that are to be used do.
TOTAL, QUICK_TOTAL = 1.2e12, 8e10
#: Of the FLOP, for the teacher. With a half the teacher knows less than its pupil soon does.
TEACHER_SHARE = 0.85
#: Of the steps, for the larger shape where it is cut at the plateau: all of the plateau.
PLATEAU_SHARE = 0.5
WARMUP = (
    (64, 0.15),
    (128, 0.35),
    (LENGTH, 0.5),
)  # sequence lengths and their shares of the steps, as in recipes


@dataclass
class Corpus:
    """Standard-library documentation and source, a twentieth held out by content."""

    tokenizer: Tokenizer
    train: list[np.ndarray]
    held_out: list[str]


@cache
def corpus() -> Corpus:
    """The same for every seed."""
    documents = [d for name in (PYTHON_SOURCE, PYTHON_DOCS) for d in builtin_documents(name, 6_000_000)]
    documents.sort(key=lambda document: document.id)
    held = [d.text for d in documents if int(d.id[:8], 16) % 20 == 0]
    kept = [d.text for d in documents if int(d.id[:8], 16) % 20]
    tokenizer = bpe.train(kept[: len(kept) // 2], VOCABULARY)
    return Corpus(tokenizer, [np.asarray(ids) for ids in tokenizer.encode_batch(kept) if ids], held)


def shape(channels: int) -> ModelConfig:
    """One head of 32 per layer."""
    return ModelConfig(VOCABULARY, WIDTH, channels, LAYERS, 1, 1, head_dim=32, max_positions=LENGTH)


def trained(channels: int, flop: float, seed: int, share: float = 1.0) -> tuple[Network, float]:
    """A network after a share of the steps of a training of about `flop`; and the FLOP those took."""
    config, texts = shape(channels), corpus()
    network = Network(config)
    initialise(network, torch.Generator().manual_seed(seed))
    rate = RATES[channels] * 128 / WIDTH * (TOKENS_PER_STEP / 512) ** 0.5
    optimiser = SplitOptimiser(network, LearningRates().scaled(rate))
    per_token = sum(share * config.num_flops_per_token(length, backward=True) for length, share in WARMUP)
    steps = max(10, round(flop / (per_token * TOKENS_PER_STEP + optimiser.num_flops_per_step())))
    lengths = sequence_lengths(steps, *zip(*WARMUP, strict=True))
    mix = PackedMix(
        [Source("text", texts.train, 1.0)], lengths, TOKENS_PER_STEP, seed, texts.tokenizer.eos_id
    )
    done = fit(Trainer(network, optimiser), mix.batches, round(share * steps), WarmupStableDecay(steps))
    return network, done.flop


def bits(network: Network) -> BitsPerByte:
    """On the held-out documents."""
    texts = corpus()
    return bits_per_byte(network, texts.tokenizer, {"text": texts.held_out}, context_length=LENGTH)["text"]


def cut_by(network: Network, weights: Mapping[int, torch.Tensor]) -> Network:
    """The network with the heaviest half of the channels of each layer, nothing fitted."""
    state = network.state_dict()
    for layer, weights_F in weights.items():
        kept, at = heaviest(weights_F, CHANNELS // 2), f"model.layers.{layer}.mlp."
        for part in ("gate_proj", "up_proj"):
            state[f"{at}{part}.weight"] = state[f"{at}{part}.weight"][kept]
        state[f"{at}down_proj.weight"] = state[f"{at}down_proj.weight"][:, kept]
    result = Network(shape(CHANNELS // 2))
    result.load_state_dict(state)
    return result


def taught(
    teacher: Network, cut: Network, flop: float, seed: int, *, rate: float, text_share: float
) -> tuple[Network, float]:
    """What was cut, trained further with about `flop`; and the FLOP that took."""
    reading = teacher.config.num_flops_per_token(LENGTH) if text_share < 1 else 0
    per_token = cut.config.num_flops_per_token(LENGTH, backward=True) + reading
    schedule = Schedule(
        int(flop / per_token), row_length=LENGTH, tokens_per_step=TOKENS_PER_STEP, rate=rate, text_share=text_share,
        seed=seed + 1000,
    )  # fmt: skip
    pupil, texts = copy.deepcopy(cut), corpus()
    sources = [Source("text", texts.train, 1.0)]
    return pupil, distil(pupil, teacher, sources, texts.tokenizer.eos_id, schedule).flop


def cut_in_half(teacher: Network, seed: int) -> tuple[Pruned, list[Batch]]:
    """Half the channels gone; and the calibration text that decided which."""
    texts = corpus()
    start = [[texts.tokenizer.eos_id, *map(int, ids)] for ids in texts.train[:100]]
    calibration = calibration_batches(start, LENGTH, seed)
    return prune_network(teacher, Cuts(ffn=0.5), calibration), calibration


def of_seed(seed: int, total: float) -> dict[str, Any]:
    """Everything measured for one seed."""
    torch.set_num_threads(1)
    default = Schedule(0)
    teacher, teacher_flop = trained(CHANNELS, TEACHER_SHARE * total, seed)
    pruned, calibration = cut_in_half(teacher, seed)
    student, later = taught(
        teacher, pruned.network, total - teacher_flop - pruned.flop, seed, rate=default.rate,
        text_share=default.text_share,
    )  # fmt: skip
    later += pruned.flop
    moments = collect(teacher, calibration[:32]).moments
    wanda = {layer: ffn_weights(teacher, moments, layer) for layer in range(LAYERS)}
    magnitude = {
        layer: teacher.model.layers[layer].mlp.down_proj.weight.detach().norm(dim=0)
        for layer in range(LAYERS)
    }
    early, early_flop = trained(CHANNELS, total, seed, PLATEAU_SHARE)
    early_cut, _ = cut_in_half(early, seed)
    early_flop += early_cut.flop
    going_on, going_on_flop = taught(
        early, early_cut.network, teacher_flop + later - early_flop, seed, rate=RATES[CHANNELS // 2], text_share=1.0
    )  # fmt: skip
    alone, alone_flop = trained(CHANNELS // 2, teacher_flop + later, seed)
    short, short_flop = trained(CHANNELS // 2, later, seed)
    return {
        "seed": seed,
        "bits": {
            "teacher": bits(teacher),
            "cut": bits(pruned.network),
            "cut by Wanda": bits(cut_by(teacher, wanda)),
            "cut by magnitude": bits(cut_by(teacher, magnitude)),
            "distilled": bits(student),
            "cut at the plateau, text alone": bits(going_on),
            "alone": bits(alone),
            "alone, teacher free": bits(short),
        },
        "flop": {
            "teacher": teacher_flop,
            "teacher, cut, distilled": teacher_flop + later,
            "cut at the plateau, text alone": early_flop + going_on_flop,
            "alone": alone_flop,
            "cut, distilled": later,
            "alone, teacher free": short_flop,
        },
    }


def run(quick: bool) -> dict[str, Any]:
    """Three seeds on two cores; one, short, when quick."""
    seeds, total = (SEEDS[:1], QUICK_TOTAL) if quick else (SEEDS, TOTAL)
    with ProcessPoolExecutor(min(2, len(seeds)), get_context("spawn")) as processes:
        found = list(processes.map(of_seed, seeds, [total] * len(seeds)))
    pooled = {name: pool([one["bits"][name] for one in found]) for name in found[0]["bits"]}
    against = compare(pooled["distilled"], pooled["alone"])
    free = compare(pooled["distilled"], pooled["alone, teacher free"])
    early = compare(pooled["cut at the plateau, text alone"], pooled["alone"])
    return {
        "ours": pooled["distilled"].value,
        "reference": pooled["alone"].value,
        "unit": "bits per byte at equal total FLOP, the teacher's training included",
        "difference": against.difference,
        "interval": [against.lo, against.hi],
        "n": against.n,
        "seeds": list(seeds),
        "details": {
            "seeds": [
                one | {"bits": {name: part.value for name, part in one["bits"].items()}} for one in found
            ],
            "pooled": {name: part.value for name, part in pooled.items()},
            "strict: distilled minus alone": against._asdict(),
            "teacher free: distilled minus alone": free._asdict(),
            "strict: cut at the plateau, text alone minus alone": early._asdict(),
            "parameters": [shape(size).num_parameters()["total"] for size in (CHANNELS, CHANNELS // 2)],
        },
        "passed": against.hi <= 0,
    }


if __name__ == "__main__":  # the other processes import this file
    evidence(
        "engine/pruned",
        claim="half the feed-forward removed and distilled loses no more bits per byte than a model of that size "
        "trained alone with as many FLOP as training, cutting and distilling took (upper end of the paired interval)",
        run=run,
    )
