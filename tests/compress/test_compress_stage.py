"""The stage `quantize` on a small artifact: what it writes, records and measures; how it stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from compress_networks import make_network

from kweek.compute.hardware import Peak
from kweek.compute.ledger import Ledger
from kweek.data import stories
from kweek.errors import Interrupted
from kweek.model.checkpoint import load_model, save_model
from kweek.protocols import silent
from kweek.recipe.context import StageContext
from kweek.recipe.stages import quantize
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records
from kweek.tokenize.bpe import train
from kweek.tokenize.tokenizer import Tokenizer

SMALL: dict[str, Any] = {"calibration_tokens": 2048, "comparison_bytes": 3000, "problems": 20}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("inputs")
    texts = stories.sample_texts("test", 60, "train")
    tokenizer = train(texts, 320)
    with ArtifactWriter(folder / "model", kind="sft", fingerprint="m") as out:
        save_model(out, make_network(vocab_size=tokenizer.vocab_size), torch.float32)
        tokenizer.save(out)
    with ArtifactWriter(folder / "corpus", kind="corpus", fingerprint="c") as out:
        for split in ("train", "validation", "test"):
            documents = {"source": ["a", "b"] * 30, "text": [f"{split} {text}" * 3 for text in texts]}
            pq.write_table(pa.table(documents), out.path(f"{split}.parquet"))
    return {name: Artifact.open(folder / name) for name in ("model", "corpus")}


def run(
    inputs: dict[str, Artifact], folder: Path, should_stop: Any = lambda: False, **settings: Any
) -> Artifact:
    with ArtifactWriter(folder / "artifact", kind="quantize", fingerprint="f") as out:
        context = StageContext(
            name="quantized", config=quantize.Config(**(SMALL | settings)), inputs=inputs, out=out,
            records=Records(folder / "records.jsonl"), state=folder, progress=silent, should_stop=should_stop,
            ledger=Ledger(), seed=0, threads=1, budget_seconds=None, budget_flop=None,
            machine_peak=Peak(1e10, None, 1e9, 1),
        )  # fmt: skip
        quantize.run(context)
        out.ledger.update(context.ledger.to_dict())
    return Artifact.open(folder / "artifact")


def test_writes_a_folder_that_loads_and_says_what_it_saved_and_cost(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    found = run(inputs, tmp_path)
    network, original = load_model(found.path), load_model(inputs["model"].path)
    assert (
        json.loads(found.file("config.json").read_text())["quantization_config"]["format"] == "pack-quantized"
    )
    assert Tokenizer.load(found.path).fingerprint() == Tokenizer.load(inputs["model"].path).fingerprint()
    assert network.config == original.config
    metrics = found.metrics
    assert metrics["num_bytes"] == found.file("model.safetensors").stat().st_size
    assert metrics["num_bytes_fp32"] == 4 * sum(p.numel() for p in original.parameters())
    assert found.ledger["flop_total"] > 0
    records = Records.read(tmp_path / "records.jsonl")
    tensors = [record for record in records if record["kind"] == "tensor"]
    assert len(tensors) == 2 * 7 + 1
    assert all(0 < t["error_gptq"] < t["error_rtn"] and t["bits"] == 4.5 for t in tensors)
    rows = {record["method"]: record for record in records if record["kind"] == "comparison"}
    assert list(rows) == ["fp32", "rtn", "gptq"]
    assert rows["gptq"]["bits_per_byte"] == metrics["bits_per_byte"]
    losses = {name: row["bits_per_byte"] - rows["fp32"]["bits_per_byte"] for name, row in rows.items()}
    assert rows["gptq"]["difference"] == pytest.approx(losses["gptq"])
    assert rows["gptq"]["recovered"] == pytest.approx(1 - losses["gptq"] / losses["rtn"])
    assert rows["fp32"]["bytes"] == metrics["num_bytes_fp32"]


def test_again_gives_the_same_bits(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(run(inputs, tmp_path / name).files)
    assert files[0] == files[1]
    assert len(Records.read(tmp_path / "two/records.jsonl")) == len(
        Records.read(tmp_path / "one/records.jsonl")
    )


def test_rounding_alone_needs_no_calibration(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    found = run(inputs, tmp_path, method="nearest_mse")
    assert found.ledger["flop_total"] == 0
    methods = [r["method"] for r in Records.read(tmp_path / "records.jsonl") if r["kind"] == "comparison"]
    assert methods == ["fp32", "rtn", "rtn, searched scales"]


def test_stops_between_steps_without_an_artifact(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    asked = iter([False] * 3 + [True] * 100)
    with pytest.raises(Interrupted):
        run(inputs, tmp_path, lambda: next(asked))
    assert not (tmp_path / "artifact").exists()


def test_calibration_mixes_chats_and_documents_as_asked(inputs: dict[str, Artifact]) -> None:
    tokenizer = Tokenizer.load(inputs["model"].path)
    opening, end = tokenizer.special["<|im_start|>"], tokenizer.eos_id
    for share in (0.0, 0.5, 1.0):
        config = quantize.Config(calibration_tokens=4096, chat_share=share)
        found = quantize.calibration(inputs["corpus"], tokenizer, config, seed=1)
        tokens = [len(ids) for ids in found if ids[0] == opening]
        assert sum(tokens) == pytest.approx(4096 * share, abs=120)
        assert sum(map(len, found)) == pytest.approx(4096, rel=0.25)
        assert any(ids[0] == end for ids in found) == (share < 1)
        assert found == quantize.calibration(inputs["corpus"], tokenizer, config, seed=1)
        assert found != quantize.calibration(inputs["corpus"], tokenizer, config, seed=2)


def test_the_estimate_grows_with_the_work() -> None:
    base = {"num_parameters": 1_000_000, "flop_per_second": 5e10}
    small, large = (
        quantize.estimate(quantize.Config(calibration_tokens=n), None, {"model": base})
        for n in (8192, 65_536)
    )
    instant = quantize.estimate(quantize.Config(method="nearest"), None, {"model": base})
    assert instant.flop == 0 < small.flop < large.flop
    assert instant.seconds < small.seconds < large.seconds
