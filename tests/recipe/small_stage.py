"""One stage run in this process on a tiny model and a few documents."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from kweek.compute.hardware import Peak
from kweek.compute.ledger import Ledger
from kweek.data import stories
from kweek.model.config import ModelConfig
from kweek.model.initial import initialise
from kweek.model.network import Network
from kweek.protocols import ShouldStop, never, silent
from kweek.recipe.context import StageContext
from kweek.recipe.materials import save
from kweek.store.artifact import Artifact, ArtifactWriter
from kweek.store.records import Records
from kweek.tokenize import bpe

DOCUMENTS = [f"The function number {n} returns the list of all names it was given." for n in range(400)]


def corpus(folder: Path) -> Artifact:
    """A corpus of one source."""
    with ArtifactWriter(folder, kind="corpus", fingerprint="c") as out:
        for split in ("train", "validation", "test"):
            table = pa.table({"source": ["docs"] * len(DOCUMENTS), "text": DOCUMENTS})
            pq.write_table(table, out.path(f"{split}.parquet"))
    return Artifact.open(folder)


def model(folder: Path, seed: int = 0) -> Artifact:
    """A network 32 wide that has learnt nothing, and draws many different answers."""
    tokenizer = bpe.train([*stories.sample_texts("small", 200, "train"), *DOCUMENTS[:20]], 416)
    network = Network(ModelConfig(tokenizer.vocab_size, 32, 64, 2, 1, 1, 32, max_positions=256))
    initialise(network, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        network.lm_head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(seed + 1))
    with ArtifactWriter(folder, kind="pretrain", fingerprint=f"m{seed}") as out:
        save(out, network, tokenizer)
    return Artifact.open(folder)


def run(
    kind: str,
    folder: Path,
    inputs: dict[str, Artifact],
    *,
    seed: int = 0,
    should_stop: ShouldStop = never,
    **settings: Any,
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Run a stage of a kind with these settings; its artifact and its records."""
    module = importlib.import_module(f"kweek.recipe.stages.{kind}")
    records = folder / "records.jsonl"
    (folder / "state").mkdir(parents=True, exist_ok=True)
    with ArtifactWriter(folder / "out", kind=kind, fingerprint="s") as out:
        module.run(
            StageContext(
                "stage", module.Config(**settings), inputs, out, Records(records), folder / "state", silent,
                should_stop, Ledger(), seed, 1, None, None, Peak(1e10, None, 1e9, 1),
            )
        )  # fmt: skip
    return Artifact.open(folder / "out"), list(Records.read(records))
