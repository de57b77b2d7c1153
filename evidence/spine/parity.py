"""Parity with `transformers`: folders of either side give the same logits in the other, and bad ones one clear error.

Four parts: folders that `transformers` makes, for every layout, plain, sharded and in bf16, loaded here, and our
folders loaded there, decoding with a cache included; the model of a run; the real SmolLM2-135M-Instruct, fetched
by `kweek get`, whose answer to a question must also be the same; broken folders. Where compressed-tensors is
installed, a 4-bit folder too. Differences are relative to the largest logit where that exceeds one: the real
model's logits reach 45, where fp32 itself has an error of 1e-4. How far two attention kernels of `transformers`
lie apart on the same model is given beside it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from harness import ROOT, evidence, kweek, run_folder
from safetensors.torch import load_file, save_file

from kweek.errors import CheckpointError, KweekError
from kweek.model.cache import KVCache
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig, RopeScaling
from kweek.model.network import Network
from kweek.model.quantized import GROUP_SIZE, QuantizedTensor
from kweek.tokenize.tokenizer import Tokenizer

TOLERANCE = 1e-4
TEXT = "The quick brown fox jumps over the lazy dog. What is 12 + 7? def add(a, b):\n    return a + b\n"
QUESTION = "What is the capital of France?"
LAYOUTS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3 tied": {"tied_embeddings": True, "num_kv_heads": 1, "head_dim": 32},
    "qwen2": {"architecture": "qwen2", "qk_norm": False, "qkv_bias": True, "head_dim": 32},
    "qwen2 tied": {
        "architecture": "qwen2", "qk_norm": False, "qkv_bias": True, "head_dim": 32, "tied_embeddings": True
    },
    "llama": {"architecture": "llama", "qk_norm": False, "head_dim": 32},
    "llama 3 rotations": {
        "architecture": "llama", "qk_norm": False, "head_dim": 32, "rope_scaling": RopeScaling(8, 1, 4, 64)
    },
    "smollm, tied": {"architecture": "llama", "qk_norm": False, "head_dim": 32, "tied_embeddings": True},
}  # fmt: skip


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest logit, or over one where that is smaller."""
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def open_theirs(folder: Path, **options: Any) -> Any:
    """The model as `transformers` loads it, in fp32, no code of the folder trusted."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False, **options
    )
    return model.eval()


def logits_by_cache(network: Network, ids: torch.Tensor) -> torch.Tensor:
    """Logits of every position, the second half of them token by token."""
    cache, half = KVCache(network.config, ids.shape[0], ids.shape[1]), ids.shape[1] // 2
    parts = [network(ids[:, :half], cache=cache)]
    parts += [network(ids[:, at : at + 1], cache=cache) for at in range(half, ids.shape[1])]
    return network.logits(torch.cat(parts, dim=1))


def their_logits_by_cache(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The same with the other side's cache."""
    half = ids.shape[1] // 2
    out = model(ids[:, :half], use_cache=True)
    parts = [out.logits]
    for at in range(half, ids.shape[1]):
        out = model(ids[:, at : at + 1], past_key_values=out.past_key_values, use_cache=True)
        parts.append(out.logits)
    return torch.cat(parts, dim=1)


def compare(folder: Path, ids: torch.Tensor) -> float:
    """The largest of three differences on one folder: whole, ours by cache, theirs by cache."""
    network, model = load_model(folder), open_theirs(folder)
    theirs = model(ids).logits
    ours = network.logits(network(ids))
    return max(
        relative(ours, theirs),
        relative(logits_by_cache(network, ids), theirs),
        relative(ours, their_logits_by_cache(model, ids)),
    )


def random_network(changes: dict[str, Any], seed: int) -> Network:
    """A small network of a layout with weights large enough that a mistake shows."""
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 352, "num_layers": 3, "num_heads": 4}
    network = Network(ModelConfig(**(sizes | {"num_kv_heads": 2, "max_positions": 512} | changes)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.1, generator=generator)
    return network


def layouts(folder: Path, seeds: tuple[int, ...]) -> dict[str, float]:
    """Our folder there; then the folders that side makes of it, here: one file, shards, bf16."""
    found: dict[str, float] = {}
    for name, changes in LAYOUTS.items():
        for seed in seeds:
            network = random_network(changes, seed)
            ids = torch.randint(512, (2, 96), generator=torch.Generator().manual_seed(seed))
            for target in ("ours", "theirs", "shards", "bf16"):
                shutil.rmtree(folder / target, ignore_errors=True)
            save_model(folder / "ours", network)
            model = open_theirs(folder / "ours")
            model.save_pretrained(folder / "theirs")
            model.save_pretrained(folder / "shards", max_shard_size="200KB")
            model.to(torch.bfloat16).save_pretrained(folder / "bf16")
            assert (folder / "shards" / "model.safetensors.index.json").exists()
            for target in ("ours", "theirs", "shards", "bf16"):
                key = f"{name}, {target}"
                found[key] = max(found.get(key, 0.0), compare(folder / target, ids))
    return found


def four_bits(folder: Path) -> dict[str, float]:
    """A folder of packed 4-bit weights, loaded by `transformers` through compressed-tensors."""
    if importlib.util.find_spec("compressed_tensors") is None:
        return {}
    found = {}
    for name in ("qwen3", "qwen3 tied"):
        network = random_network(LAYOUTS[name], 0)
        generator = torch.Generator().manual_seed(0)
        packed = {}
        for tensor_name, tensor in network.state_dict().items():
            if "_proj.weight" in tensor_name or tensor_name == "lm_head.weight":
                codes = torch.randint(-8, 8, tuple(tensor.shape), generator=generator)
                scale = 0.03 * torch.rand(tensor.shape[0], tensor.shape[1] // GROUP_SIZE, generator=generator)
                packed[tensor_name] = QuantizedTensor.from_codes(codes, scale)
        target = folder / name
        save_model(target, network, torch.float16, quantized_tensors=packed)
        found[f"{name}, 4 bits"] = compare(target, torch.randint(512, (2, 96)))
    return found


def grown(quick: bool) -> dict[str, float]:
    """The models of a run, base and last, on text: logits, and the same ids from the same tokenizer files."""
    named = os.environ.get("KWEEK_RUNS", "").split(os.pathsep)[0]
    default = ROOT / "runs" / "laptop"
    if quick and not named and not (default / "summary.json").exists():
        return {}
    folder = Path(named) if named else default if quick else run_folder(0)
    found = {}
    for stage in ("base", "rl"):
        target = folder / "artifacts" / stage
        ours, theirs = Tokenizer.load(target), transformers.AutoTokenizer.from_pretrained(target)
        ids = ours.encode(TEXT)
        assert ids == theirs.encode(TEXT, add_special_tokens=False), "the tokenizers differ"
        found[f"run, {stage}"] = compare(target, torch.tensor([ids]))
    return found


def smollm2() -> tuple[dict[str, float], dict[str, Any]]:
    """The real model: logits here and there, and the answer of `kweek chat` beside that of `generate`."""
    folder = ROOT / "runs" / "models" / "smollm2-135m"
    kweek("get", "smollm2-135m", "--out", str(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    network, model = load_model(folder), open_theirs(folder)
    ours, theirs = network.logits(network(ids)), model(ids).logits
    other = open_theirs(folder, attn_implementation="eager")(ids).logits
    generated = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    said = json.loads(kweek("chat", str(folder), "-m", QUESTION, "--max-tokens", "40", "--json").stdout)
    about = {
        "question": QUESTION,
        "kweek": said["content"] if "content" in said else said["answer"],
        "transformers": tokenizer.decode(generated, skip_special_tokens=True),
        "difference_absolute": float((ours - theirs).abs().max()),
        "largest_logit": float(theirs.abs().max()),
        "transformers_eager_against_sdpa": float((other - theirs).abs().max()),
    }
    return {"SmolLM2-135M-Instruct": max(relative(ours, theirs), compare(folder, ids))}, about


def damage(folder: Path) -> dict[str, str]:
    """What a user is told about each kind of broken folder. Raises AssertionError where it is not one line."""

    def config(**changes: Any) -> Callable[[], None]:
        path = folder / "config.json"
        return lambda: path.write_text(json.dumps(json.loads(path.read_text()) | changes)) and None

    def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[], None]:
        def apply() -> None:
            held = load_file(folder / "model.safetensors")
            change(held)
            save_file(held, folder / "model.safetensors", {"format": "pt"})

        return apply

    def cut() -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    kinds = {
        "unsupported architecture": config(model_type="mamba"),
        "own code": config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        "missing tensor": tensors(lambda held: held.pop("model.norm.weight")),
        "wrong shape": tensors(lambda held: held.update({"model.norm.weight": torch.ones(3)})),
        "corrupt file": cut,
        "broken config": lambda: (folder / "config.json").write_text('{"model_type": ') and None,
    }
    said = {}
    for kind, break_it in kinds.items():
        shutil.rmtree(folder, ignore_errors=True)
        save_model(folder, random_network({}, 0))
        break_it()
        try:
            load_model(folder)
            said[kind] = "loaded all the same"
        except CheckpointError as error:
            said[kind] = str(error).replace(str(folder), "FOLDER")
    return said


@torch.no_grad()
def run(quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        seeds = (0,) if quick else (0, 1, 2)
        found = layouts(Path(name), seeds) | four_bits(Path(name)) | grown(quick)
        errors = damage(Path(name) / "broken")
    try:
        real, about = smollm2()
    except (KweekError, OSError) as error:
        real, about = {}, {"error": str(error)}
    found |= real
    clear = all(message.startswith("FOLDER") and "\n" not in message for message in errors.values())
    same_answer = about.get("kweek", "").strip() == about.get("transformers", "").strip() != ""
    return {
        "ours": max(found.values()),
        "reference": TOLERANCE,
        "unit": "largest difference of logits, relative where they exceed 1",
        "difference": max(found.values()) - TOLERANCE,
        "interval": None,
        "n": len(found),
        "seeds": list(seeds),
        "passed": max(found.values()) <= TOLERANCE and clear and same_answer and bool(real),
        "details": {"differences": found, "smollm2": about, "errors": errors},
    }


evidence(
    "spine/parity",
    claim="Logits equal those of transformers to 1e-4 for Qwen3, Qwen2 and Llama folders of either side (tied, "
    "sharded, bf16), for a run's model and for SmolLM2-135M-Instruct, which gives the same answer; broken folders "
    "give one clear line.",
    run=run,
)
