"""GGUF out and in: no value changes on the way, llama.cpp reads the same ids and logits, damage does no harm.

Four parts. Round trips: for every type that is read, a file written by the format's own library is turned into a folder
whose values must be those of llama.cpp's own dequantisation, to the bit, and which `transformers` loads; for every type
that is written, and for codes of 2 to 8 bits, folder to file to folder changes no value. Ids: mixed text of 100,000
tokens and more for each pre-tokenizer and for SmolLM2's real vocabulary. Logits and greedy answers: every layout in
fp32, and SmolLM2. Damage: structured mutations of headers and tensors, counted with the memory that they cost.

It is not called gguf.py because every script of this folder would then import it in place of the package gguf.
"""

# ruff: noqa: E402 - the helpers of the tests are found by their path

from __future__ import annotations

import contextlib
import copy
import ctypes
import importlib.util
import os
import pydoc
import resource
import sys
import sysconfig
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from harness import ROOT, evidence, kept, kweek

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "model"), str(ROOT / "tests" / "compress")]

from export_folders import LAYOUTS, VOCABULARY, make_tokenizer, save_folder
from gguf_files import write_gguf as write_fixture
from gguf_mutations import damaged, header_numbers
from llama_cpp_peer import LlamaCpp
from model_networks import random_network, small_config

from kweek.compress.export import export_gguf, import_gguf
from kweek.data import stories
from kweek.errors import CheckpointError
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import RopeScaling
from kweek.model.gguf import load_gguf, open_gguf, read_weight
from kweek.model.gguf_file import TYPE_NAMES
from kweek.model.layout import tensor_shapes
from kweek.model.network import Network
from kweek.model.quantized import QuantizedTensor, code_range
from kweek.tokenize.bpe import train
from kweek.tokenize.bytelevel import PATTERNS
from kweek.tokenize.encoding import PROBE
from kweek.tokenize.tokenizer import Tokenizer

NUM_MUTATIONS, NUM_TOKENS = 1_000_000, 100_000
PARTS = 40  # a minute or two each
#: Smaller files count as this many bytes: what opening any file takes in objects.
SMALLEST = 1 << 14
#: Address space that a damaged file may ask for beyond what the sound ones needed, reading and loading included.
MOST_EXTRA = 1 << 28
LOGIT_TOLERANCE = 5e-5
_LLAMA_CPP_NAMES = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}


# -- round trips


def library() -> ctypes.CDLL:
    """llama.cpp's functions in the peer's package."""
    found = importlib.util.find_spec("xllamacpp.xllamacpp")
    assert found is not None and found.origin is not None
    return ctypes.CDLL(found.origin)


def llama_cpp_values(blocks: np.ndarray, type_name: str, num_values: int) -> np.ndarray:
    """Blocks as llama.cpp dequantises them, fp32."""
    if type_name == "F32":
        return blocks.view(np.float32).reshape(-1)
    function = getattr(
        library(), _LLAMA_CPP_NAMES.get(type_name, f"dequantize_row_{type_name.lower().replace('_k', '_K')}")
    )
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    raw, result = np.ascontiguousarray(blocks), np.empty(num_values, dtype=np.float32)
    function(raw.ctypes.data, result.ctypes.data, num_values)
    return result


def random_blocks(kind: gguf.GGMLQuantizationType, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A matrix of a type: rounded by the format's library where it can, else noise with small scales."""
    generator = np.random.default_rng(seed)
    try:
        return gguf.quants.quantize(0.1 * generator.standard_normal(shape, dtype=np.float32), kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        raw = generator.integers(0, 256, (shape[0] * shape[1] // block, size), dtype=np.uint8)
        for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(
            kind.name, (0,)
        ):
            scales = (1e-3 * generator.random(len(raw), dtype=np.float32)).astype(np.float16)
            raw[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        return raw.reshape(shape[0], -1)


def read_types(folder: Path) -> dict[str, bool]:
    """For every type that is read: file, folder, values to the bit, and `transformers` loads the folder."""
    network = random_network(
        small_config(vocab_size=288, hidden_size=256, intermediate_size=256, num_layers=1, num_heads=8)
    )
    matrices = {name: tuple(t.shape) for name, t in network.state_dict().items() if t.dim() == 2}
    found = {}
    for type_id, type_name in TYPE_NAMES.items():
        kind = gguf.GGMLQuantizationType(type_id)
        blocks = {
            name: random_blocks(kind, shape, seed) for seed, (name, shape) in enumerate(matrices.items())
        }
        write_fixture(folder / "m.gguf", network, kind, blocks=blocks)
        target = folder / f"read {type_name}"
        import_gguf(folder / "m.gguf", target)
        loaded = load_model(target).state_dict()
        expected = {
            name: llama_cpp_values(blocks[name], type_name, shape[0] * shape[1])
            for name, shape in matrices.items()
        }
        same = all(np.array_equal(loaded[name].numpy().reshape(-1), expected[name]) for name in matrices)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
        found[f"read {type_name}"] = same and close(load_model(target), theirs)
    return found


def close(network: Network, theirs: Any) -> bool:
    """Whether `transformers` gives the same logits."""
    ids = torch.randint(network.config.vocab_size, (1, 48), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    largest = (network.logits(network(ids)) - expected).abs().max() / expected.abs().max().clamp_min(1.0)
    return float(largest) < 1e-4


def written_types(folder: Path) -> dict[str, bool]:
    """Folder to file to folder, for every layout and stored type, and for codes of every number of bits."""
    found = {}
    for layout in LAYOUTS:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            here = folder / "there"
            network = save_folder(here, layout, dtype)
            found[f"{layout}, {dtype}"] = unchanged(here, folder)
        for bits in (2, 3, 4, 5, 6, 8):
            codes = random_codes(network, bits)
            save_model(here, network, torch.float16, quantized_tensors=codes)
            found[f"{layout}, {bits} bits"] = unchanged(here, folder)
    return found


def random_codes(network: Network, bits: int) -> dict[str, QuantizedTensor]:
    """Codes for all linear matrices."""
    generator, result = torch.Generator().manual_seed(bits), {}
    lowest, highest = code_range(bits)
    for name, tensor in network.state_dict().items():
        if "_proj.weight" in name or name == "lm_head.weight":
            rows, columns = tensor.shape
            codes = torch.randint(lowest, highest + 1, (rows, columns), generator=generator)
            result[name] = QuantizedTensor.from_codes(
                codes, 0.02 * torch.randn(rows, columns // 32, generator=generator), bits
            )
    return result


def unchanged(source: Path, folder: Path) -> bool:
    """Whether a folder comes back from a file with every value as it was."""
    export_gguf(source, folder / "there.gguf")
    import_gguf(folder / "there.gguf", folder / "back")
    before, after = load_model(source).state_dict(), load_model(folder / "back").state_dict()
    return all(torch.equal(tensor, after[name]) for name, tensor in before.items())


# -- ids, logits, answers


def mixed_text() -> Iterator[str]:
    """Stories, documentation, source code and hard strings, in pieces of a few thousand characters."""
    hard = (
        PROBE
        + "a\u00a0b \u2003\t\t \n\n\r\n  \n 1234567 १२३ 'S 'LL don't 👩‍👩‍👧\u200d ...!!! Ünïcödé ﬁ Ǆ ß \u0085 x"
    )
    topics = importlib.import_module("pydoc_data.topics").topics
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    pools = [
        [hard], list(stories.sample_texts("evidence", 2000, "test")), list(topics.values()),
        [path.read_text(encoding="utf-8", errors="replace")[:6000] for path in sources], [pydoc.render_doc(str)],
    ]  # fmt: skip
    for number in range(max(map(len, pools))):
        for pool in pools:
            yield f"{pool[number % len(pool)][:6000]}\n"


def count_ids(peer: LlamaCpp, tokenizer: Tokenizer, wanted: int) -> tuple[int, int]:
    """Tokens compared, and texts whose ids differ."""
    number, different = 0, 0
    for text in mixed_text():
        ids = tokenizer.encode(text)
        number += len(ids)
        different += peer.tokenize(text) != ids
        if number >= wanted:
            break
    return number, different


def pre_tokenizers(folder: Path, package: Any, wanted: int) -> dict[str, tuple[int, int]]:
    """A vocabulary trained here under each of the patterns."""
    texts = [text for text, _ in zip(mixed_text(), range(400), strict=False)]
    trained = train(texts, 4096)
    found = {}
    for name, pattern in PATTERNS.items():
        definition = copy.deepcopy(trained.definition)
        definition["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        tokenizer = Tokenizer(definition, trained.config, trained.chat_template)
        save_model(
            folder / "ids", random_network(small_config(vocab_size=tokenizer.vocab_size, eos_token_id=0))
        )
        tokenizer.save(folder / "ids")
        export_gguf(folder / "ids", folder / "ids.gguf")
        found[name] = count_ids(LlamaCpp(package, folder / "ids.gguf"), tokenizer, wanted)
    return found


def parity(folder: Path, package: Any) -> dict[str, float]:
    """Largest difference of log-probabilities in fp32 by layout."""
    found = {}
    for layout in LAYOUTS:
        network = save_folder(folder / "parity", layout)
        export_gguf(folder / "parity", folder / "parity.gguf")
        peer, ids = LlamaCpp(package, folder / "parity.gguf"), make_tokenizer().encode(PROBE)[:120]
        ours = torch.log_softmax(network.logits(network(torch.tensor([ids])))[0].double(), -1)
        found[layout] = max(
            float((torch.from_numpy(peer.logprobs(ids[:length], VOCABULARY)) - ours[length - 1]).abs().max())
            for length in (1, 2, 20, 119, 120)
        )
    return found


def real_model(folder: Path, package: Any, wanted: int, num_prompts: int) -> dict[str, Any]:
    """SmolLM2: ids, greedy answers of the exported file, and back to a folder."""
    source = ROOT / "runs" / "models" / "smollm2-135m"
    kweek("get", "smollm2-135m", "--out", str(source))
    exported = export_gguf(source, folder / "smol.gguf")
    peer, tokenizer, network = (
        LlamaCpp(package, folder / "smol.gguf"),
        Tokenizer.load(source),
        load_model(source),
    )
    compared, different = count_ids(peer, tokenizer, wanted)
    same, ties = 0, 0
    for item in stories.problems("evidence/gguf", num_prompts, "test"):
        messages = [{"role": "user", "content": item.question}]
        ids = peer.tokenize(peer.template(messages), special=True)
        answer = peer.greedy(ids, 24)
        logits = network.logits(network(torch.tensor([ids + answer])))[0, len(ids) - 1 : -1]
        chosen = logits.gather(-1, torch.tensor(answer).unsqueeze(-1)).squeeze(-1)
        gap = float((logits.max(-1).values - chosen).max())
        same, ties = same + (gap == 0), ties + (0 < gap < 1e-3)
    import_gguf(folder / "smol.gguf", folder / "smol back")
    return {
        "tokens": compared, "different": different, "answers": num_prompts, "same": same, "ties": ties,
        "errors": exported.errors, "bytes": exported.num_bytes,
    }  # fmt: skip


# -- damage


def sound_files(folder: Path) -> list[tuple[bytes, list[tuple[int, str]], int]]:
    """Small files of three layouts and types, each with the places of its numbers."""
    found = []
    types = gguf.GGMLQuantizationType
    llama3 = LAYOUTS["llama 3"] | {"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192)}
    for changes, kind in (({}, types.Q8_0), (llama3, types.F32), (LAYOUTS["qwen2"], types.Q4_0)):
        config = small_config(vocab_size=288, num_layers=1, **changes)
        write_fixture(folder / "sound.gguf", random_network(config), kind)
        found.append(((folder / "sound.gguf").read_bytes(), *header_numbers(folder / "sound.gguf")))
    return found


def mutate(first: int, number: int) -> dict[str, Any]:
    """Open and read so many damaged files; runs in a process of its own, so that a crash is seen and counted."""
    outcome: Counter[str] = Counter()
    worst, faults = 0.0, list[str]()
    # In memory where the system has such a folder: a disk would wait for each of a million files to be safe.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        bases, path = sound_files(Path(name)), Path(name) / "m.gguf"
        for content, _, _ in bases:
            path.write_bytes(content)
            load_gguf(path)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_EXTRA, resource.RLIM_INFINITY))
        tracemalloc.start()
        for seed in range(first, first + number):
            content = damaged(*bases[seed % len(bases)], seed)
            path.write_bytes(content)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                with contextlib.suppress(CheckpointError), open_gguf(path):
                    pass
                peak = tracemalloc.get_traced_memory()[1] - before
                worst = max(worst, peak / max(len(content), SMALLEST))
                _use(path, seed, outcome)
            except CheckpointError as error:
                outcome["refused"] += 1
                if "\n" in str(error) or len(str(error)) > 600:
                    faults.append(f"{seed}: the error is not one short line")
            except Exception as error:
                faults.append(f"{seed}: {type(error).__name__} {error}"[:200])
    return {"outcome": dict(outcome), "worst": worst, "faults": faults[:20], "num_faults": len(faults)}


def _use(path: Path, seed: int, outcome: Counter[str]) -> None:
    """Check a file and read all its tensors; one in fifty is loaded whole, with network and tokenizer."""
    with open_gguf(path) as (config, file):
        for name in tensor_shapes(config):
            read_weight(file, name, config)
    if seed % 50 == 0:
        load_gguf(path)
        outcome["loaded whole"] += 1
    outcome["accepted"] += 1


def damage(number: int, workers: int) -> dict[str, Any]:
    """All mutations, on several processes, in parts that are kept."""
    share = -(-number // PARTS)
    found: list[dict[str, Any]] = []
    crashes = 0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(
                kept,
                "engine/gguf_both_ways",
                f"{first}-of-{number}",
                mutate,
                first,
                min(share, number - first),
            )
            for first in range(0, number, share)
        ]
        for one in waiting:
            try:
                found.append(one.result())
            except BrokenProcessPool:
                crashes += 1
    outcome = sum((Counter(one["outcome"]) for one in found), Counter[str]())
    return {
        "mutations": number, "crashed_processes": crashes, "outcome": dict(outcome),
        "peak_over_file": max((one["worst"] for one in found), default=0.0),
        "num_faults": sum(one["num_faults"] for one in found),
        "faults": [fault for one in found for fault in one["faults"]][:20],
    }  # fmt: skip


@torch.no_grad()
def run(quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    if importlib.util.find_spec("xllamacpp") is None:
        return {
            "ours": None, "reference": None, "unit": "", "n": 0, "seeds": [], "passed": False,
            "details": {"error": "the peer is missing: pip install 'kweek[peers]'"},
        }  # fmt: skip
    package = importlib.import_module("xllamacpp")
    wanted = NUM_TOKENS // (10 if quick else 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trips = read_types(folder) | written_types(folder)
        logits = parity(folder, package)
        ids = pre_tokenizers(folder, package, wanted)
        real = real_model(folder, package, wanted, 4 if quick else 50)
    harm = damage(NUM_MUTATIONS // (200 if quick else 1), 1 if quick else os.cpu_count() or 1)
    different = sum(wrong for _, wrong in ids.values()) + real["different"]
    passed = (
        all(trips.values())
        and different == 0
        and max(logits.values()) <= LOGIT_TOLERANCE
        and real["same"] + real["ties"] == real["answers"]
        and not any(real["errors"].values())
        and harm["crashed_processes"] == harm["num_faults"] == 0
        and harm["peak_over_file"] <= 2.0
    )
    return {
        "ours": harm["peak_over_file"],
        "reference": 2.0,
        "unit": "largest memory of opening and checking a damaged file, over the file",
        "difference": harm["peak_over_file"] - 2.0,
        "interval": None,
        "n": harm["mutations"],
        "seeds": [0],
        "passed": passed,
        "details": {
            "round_trips": trips,
            "ids": {
                key: {"tokens": tokens, "different_texts": wrong} for key, (tokens, wrong) in ids.items()
            },
            "logits": logits,
            "smollm2": real,
            "damage": harm,
        },
    }


if __name__ == "__main__":
    evidence(
        "engine/gguf_both_ways",
        claim="GGUF out and in: every supported type comes back to the bit, ids are llama.cpp's on 100,000 tokens of "
        "mixed text for each pre-tokenizer, and of one million damaged files none crashes the reader, gives other "
        "than one clear error, or costs more than twice its size in memory before it is found sound.",
        run=run,
    )
