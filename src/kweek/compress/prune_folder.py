"""From a model folder to a smaller model folder: cut, distil, compare, write; resumed where it was after a kill."""

from __future__ import annotations

import copy
import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from kweek.compress.prune import Cuts, prune_network
from kweek.compress.prune_comparison import compare_networks
from kweek.compress.prune_depth import LayerCost
from kweek.compress.prune_distil import Schedule, distil
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
from kweek.store.files import read_json, write_json
from kweek.tokenize.agreement import check_same_tokenizer
from kweek.tokenize.tokenizer import Tokenizer

#: Held-out bytes to measure on: tells differences of a percent or two.
EVAL_BYTES = 100_000
#: What calibration rows are drawn from; how many are read is said in `kweek.compress.prune`.
_CALIBRATION_DOCUMENTS = 200
_CODE = "2"  # raised when the same arguments would give another model
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
    material = read_text(
        text, tokenizer, max_eval_bytes=EVAL_BYTES, progress=progress, should_stop=should_stop
    )
    lineage = {"model": _identity(model)} | ({"teacher": _identity(teacher)} if teacher else {})
    plan = {"cuts": asdict(cuts), "schedule": None if schedule is None else asdict(schedule)}
    mark = fingerprint("prune", plan, lineage | {"text": material.mark}, _CODE)
    if (out / MANIFEST).exists() and (found := Artifact.open(out)).fingerprint == mark:
        return found
    state = out.parent / f".{out.name}.distilling" / f"{mark[:16]}.safetensors"
    job = _Job(network, tokenizer, material, schedule, state, progress, should_stop)
    with ArtifactWriter(out, kind="model", fingerprint=mark, lineage=lineage) as writer:
        job.make(cuts, load_model(teacher) if teacher else network)
        job.write(writer, *_stored(model))
    shutil.rmtree(state.parent, ignore_errors=True)
    return Artifact.open(out)


class _Job:
    """One pruning on its way.

    Attributes:
        networks: what is compared in the end, by name; the last is the result.
        layers: what was left out of the depth.
        ledger: with what an attempt spent that was stopped before this one.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        material: PruneText,
        schedule: Schedule | None,
        state: Path,
        progress: Progress,
        should_stop: ShouldStop,
    ) -> None:
        self.tokenizer, self.material, self.schedule, self.state = tokenizer, material, schedule, state
        self.progress, self.should_stop = progress, should_stop
        self.networks = {"original": network}
        self.layers: list[LayerCost] = []
        self.masks: dict[str, Tensor] = {}
        self.row_length = min((schedule or Schedule(0)).row_length, network.config.max_positions)
        account = state.with_suffix(".json")
        self.ledger = Ledger.from_dict(read_json(account)) if account.exists() else Ledger()

    def make(self, cuts: Cuts, teacher: Network) -> None:
        """Cut, then distil; what was spent is kept when this is stopped."""
        try:
            with self.ledger.time():
                self._cut(cuts)
                if self.schedule is not None:
                    self._distil(self.schedule, teacher)
        except (Interrupted, KeyboardInterrupt):
            if self.state.parent.exists():
                write_json(self.state.with_suffix(".json"), self.ledger.to_dict())
            raise

    def _cut(self, cuts: Cuts) -> None:
        calibration = _calibration(self.material, self.tokenizer, self.row_length)
        pruned = prune_network(self.networks["original"], cuts, calibration, self._watched)
        self.ledger.add("prune", pruned.flop, "fp32")
        self.layers, self.masks = pruned.layers, pruned.masks
        self.networks["cut"] = pruned.network
        if self.schedule is not None:
            self.networks["distilled"] = copy.deepcopy(pruned.network)
            if cuts == Cuts():
                del self.networks["cut"]

    def _distil(self, schedule: Schedule, teacher: Network) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        done = distil(
            self.networks["distilled"],
            teacher,
            [Source("text", self.material.training, 1.0)],
            self.tokenizer.eos_id,
            replace(schedule, row_length=self.row_length),
            masks=self.masks,
            state=self.state,
            progress=self.progress,
            should_stop=self.should_stop,
        )
        self.ledger.add("distil", done.flop, "fp32", tokens=done.num_tokens)

    def write(self, writer: ArtifactWriter, dtype: torch.dtype, original_bytes: int) -> None:
        """Store the result in `dtype`, then measure what is stored."""
        result = list(self.networks.values())[-1]
        save_model(writer, result, dtype)
        self.tokenizer.save(writer)
        for parameter in result.parameters():
            parameter.data = parameter.data.to(dtype).to(torch.float32)
        sizes = {name: _num_values(network) * dtype.itemsize for name, network in self.networks.items()}
        rows = compare_networks(
            self.networks,
            sizes | {"original": original_bytes},
            self.tokenizer,
            self.material.held_out,
            self.row_length,
            progress=self.progress,
            should_stop=self.should_stop,
        )
        writer.metrics["rows"] = [asdict(row) for row in rows]
        writer.metrics["layers_left_out"] = [asdict(cost) for cost in self.layers]
        writer.metrics["num_parameters"] = _num_values(result)
        writer.ledger = self.ledger.to_dict()

    def _watched(self, done: float, total: float, note: str = "", **values: float) -> None:
        """A `Progress` at which the work may be stopped, for steps that hold nothing to resume."""
        if self.should_stop():
            raise Interrupted
        self.progress(done, total, note, **values)


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
