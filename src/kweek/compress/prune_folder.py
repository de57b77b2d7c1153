"""From a model folder to a smaller model folder: cut, distil, compare, write; resumed where it was after a kill."""

from __future__ import annotations

import copy
import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kweek.compress.prune import Cuts, prune_network
from kweek.compress.prune_comparison import compare_networks
from kweek.compress.prune_distil import Schedule, check_same_tokenizer, distil
from kweek.compress.prune_text import PruneText, read_text
from kweek.compress.quantize import calibration_batches
from kweek.compute.ledger import Ledger
from kweek.data.batches import Batch
from kweek.data.packing import Source
from kweek.errors import ConfigError, Interrupted
from kweek.model.checkpoint import load_model, save_model
from kweek.model.network import Network
from kweek.model.tensors import TensorFolder
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.store.artifact import MANIFEST, Artifact, ArtifactWriter, fingerprint
from kweek.tokenize.tokenizer import Tokenizer

#: Held-out bytes to measure on: tells differences of a percent or two.
EVAL_BYTES = 100_000
#: What calibration rows are drawn from; how many are read is said in `kweek.compress.prune`.
_CALIBRATION_DOCUMENTS = 200
_CODE = "1"  # raised when the same arguments would give another model
_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16}
_EMBEDDING = "model.embed_tokens.weight"


def prune_folder(
    model: Path,
    out: Path,
    cuts: Cuts,
    *,
    schedule: Schedule | None = None,
    teacher: Path | None = None,
    text: Path | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Artifact:
    """Prune a checkpoint folder; the result's metrics hold the comparison as `rows` (see `prune_comparison.Row`).

    Args:
        model: a checkpoint folder with its tokenizer.
        out: the folder to write; a finished one of the same arguments is left as it is.
        schedule: of the distillation; None leaves it out.
        teacher: another model to distil from than the unpruned one.
        text: folder or file of documents; None is the documentation of Python's standard library.
        progress: counts steps of what its note says.

    Raises:
        CheckpointError: a model that cannot be loaded.
        ConfigError: cuts that cannot be made, nothing to do, or a teacher with another tokenizer.
        DataError: too little text.
        StoreError: `out` holds something else, or the disk refuses.
        Interrupted: asked to stop; the same call goes on where it was.
    """
    if cuts == Cuts() and schedule is None:
        raise ConfigError(
            "there is nothing to cut and nothing to distil", fix="give a cut, such as --ffn 0.5"
        )
    if teacher is not None and schedule is None:
        raise ConfigError(
            "a teacher is given, but nothing to distil", fix="say on how many tokens: --distil 1M"
        )
    tokenizer, network = Tokenizer.load(model), load_model(model)
    cuts.check(network.config)
    if teacher is not None:
        check_same_tokenizer(Tokenizer.load(teacher), tokenizer)

    def watched(done: float, total: float, note: str = "", **values: float) -> None:
        if should_stop():
            raise Interrupted
        progress(done, total, note, **values)

    material = read_text(
        text, tokenizer, max_eval_bytes=EVAL_BYTES, progress=progress, should_stop=should_stop
    )
    lineage = {"model": _identity(model)} | ({"teacher": _identity(teacher)} if teacher else {})
    plan = {"cuts": asdict(cuts), "schedule": None if schedule is None else asdict(schedule)}
    mark = fingerprint("prune", plan, lineage | {"text": material.mark}, _CODE)
    if (out / MANIFEST).exists() and (found := Artifact.open(out)).fingerprint == mark:
        return found
    state = out.parent / f".{out.name}.distilling" / f"{mark[:16]}.safetensors"
    with ArtifactWriter(out, kind="model", fingerprint=mark, lineage=lineage) as writer:
        row_length = min((schedule or Schedule(0)).row_length, network.config.max_positions)
        ledger = Ledger()
        with ledger.time():
            calibration = _calibration(material, tokenizer, row_length)
            pruned = prune_network(network, cuts, calibration, watched)
        ledger.add("prune", pruned.flop, "fp32")
        networks = {"original": network}
        if cuts != Cuts():
            networks["cut"] = copy.deepcopy(pruned.network) if schedule else pruned.network
        if schedule is not None:
            state.parent.mkdir(parents=True, exist_ok=True)
            with ledger.time():
                done = distil(
                    pruned.network,
                    load_model(teacher) if teacher else network,
                    [Source("text", material.training, 1.0)],
                    tokenizer.eos_id,
                    replace(schedule, row_length=row_length),
                    masks=pruned.masks,
                    state=state,
                    progress=progress,
                    should_stop=should_stop,
                )
            ledger.add("distil", done.flop, "fp32", tokens=done.num_tokens)
            networks["distilled"] = pruned.network
        dtype, num_bytes = _stored(model)
        save_model(writer, pruned.network, dtype)
        tokenizer.save(writer)
        for parameter in pruned.network.parameters():  # what is measured is what is stored
            parameter.data = parameter.data.to(dtype).to(torch.float32)
        sizes = {name: _num_values(part) * dtype.itemsize for name, part in networks.items()}
        rows = compare_networks(
            networks,
            sizes | {"original": num_bytes},
            tokenizer,
            material.held_out,
            row_length,
            progress=progress,
            should_stop=should_stop,
        )
        writer.metrics["rows"] = [asdict(row) for row in rows]
        writer.metrics["layers_left_out"] = [asdict(cost) for cost in pruned.layers]
        writer.metrics["num_parameters"] = _num_values(pruned.network)
        writer.ledger = ledger.to_dict()
    shutil.rmtree(state.parent, ignore_errors=True)
    return Artifact.open(out)


def _calibration(material: PruneText, tokenizer: Tokenizer, row_length: int) -> list[Batch]:
    """Training documents as rows in keyed order."""
    documents = material.training[:_CALIBRATION_DOCUMENTS]  # they come in keyed order
    return calibration_batches([[tokenizer.eos_id, *map(int, ids)] for ids in documents], row_length, 0)


def _identity(model: Path) -> str:
    """The fingerprint of an artifact, or the hash of the weights and config of any other folder."""
    if (model / MANIFEST).exists():
        return Artifact.open(model).fingerprint
    digest = hashlib.sha256()
    for path in sorted([*model.glob("*.safetensors"), model / "config.json", model / "tokenizer.json"]):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _stored(model: Path) -> tuple[torch.dtype, int]:
    """The dtype to store in (16 bits where the model has them, else fp32), and the model's bytes as stored."""
    with TensorFolder(model) as tensors:
        return _FLOATS.get(tensors.dtypes.get(_EMBEDDING, ""), torch.float32), tensors.num_bytes


def _num_values(network: Network) -> int:
    return network.config.num_parameters()["total"]
