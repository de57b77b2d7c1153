"""Tokens per second of reading a prompt, against llama.cpp on the same file and instruction set."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import evidence
from llama_api import LlamaCpp
from shapes import SHAPES, folder

from kweek.compress.export import export_gguf
from kweek.engine.backend import MAX_ROWS, Fed
from kweek.engine.native.decoder import NativeBackend
from kweek.model.checkpoint import load_model

LENGTH = 200
PAIRS = {"q4": "q4_0", "q8": "q8_0", "f16": "f16"}


def ours(backend: NativeBackend) -> float:
    """Tokens per second; the logits of the last are computed, as in llama.cpp."""
    ids = [7 + i % 200 for i in range(LENGTH)]
    started = time.perf_counter()
    for start in range(0, LENGTH, MAX_ROWS):
        piece = ids[start : start + MAX_ROWS]
        backend.forward([Fed(0, start, piece)], [len(piece) - 1])
    return LENGTH / (time.perf_counter() - started)


def theirs(peer: LlamaCpp) -> float:
    """Tokens per second."""
    peer.clear()
    ids = [7 + i % 200 for i in range(LENGTH)]
    started = time.perf_counter()
    peer.decode(ids, range(LENGTH), [0] * LENGTH, [0] * (LENGTH - 1) + [1])
    return LENGTH / (time.perf_counter() - started)


def run(quick: bool) -> dict[str, Any]:
    """All sizes and formats on one thread, interleaved; two sizes when quick."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        for name in ("1M", "10M") if quick else SHAPES:
            model = folder(name, out / name)
            for form, kind in PAIRS.items():
                path = out / f"{name}-{kind}.gguf"
                export_gguf(model, path, kind)  # type: ignore[arg-type]
                backend = NativeBackend(load_model(model), form, kv="f16", num_slots=1, target="avx2")  # type: ignore[arg-type]
                best = NativeBackend(load_model(model), form, kv="f16", num_slots=1)  # type: ignore[arg-type]
                peer = LlamaCpp(path, context=LENGTH + 8)
                rounds = [(ours(backend), theirs(peer), ours(best)) for _ in range(3 if quick else 9)]
                peer.close()
                avx2, llama, native = (median(values) for values in zip(*rounds, strict=True))
                found[f"{name} {form}"] = {"avx2": avx2, "llama.cpp": llama, "best instruction set": native}
    ratios = {case: speeds["avx2"] / speeds["llama.cpp"] for case, speeds in found.items()}
    return {
        "ours": median(ratios.values()),
        "reference": 1.0,
        "unit": "times llama.cpp's tokens per second, median over sizes and formats",
        "ratio": min(ratios.values()),
        "interval": [min(ratios.values()), max(ratios.values())],
        "n": len(ratios),
        "seeds": [0],
        "details": {"tokens_per_second": found, "ratios": ratios, "interval": "smallest and largest ratio"},
        "passed": all(ratio > 1.0 for ratio in ratios.values()),
    }


evidence(
    "engine/prefill", claim="reading a prompt is faster than in llama.cpp at every size and format", run=run
)
