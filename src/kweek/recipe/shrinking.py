"""What `kweek shrink` searches: models, layers and bits, each made, taught its task again and examined.

A model with fewer layers has lost what was spread over them, so an adapter is trained on the task's exercises before it
is rounded. That is done once for a number of layers, and each number of bits begins from it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kweek.align.domain import Domain, load_domain
from kweek.align.domain_reading import STORIES, Files, of_files, of_task
from kweek.align.environment import Split
from kweek.align.exam import examine
from kweek.align.specialist import Drill, Schooling, prepare, school
from kweek.compress.export import export_gguf
from kweek.compress.prune import Cuts, prune_network
from kweek.compress.quantize import QuantizedModel, calibration_batches, quantize_network
from kweek.compress.shrink import Candidate, Judged, Search, smallest
from kweek.compress.widths import file_bytes, uniform
from kweek.compute.hardware import measure_peak
from kweek.engine.engine import Engine
from kweek.model.adapter import merge
from kweek.model.checkpoint import load_model, save_model
from kweek.model.config import ModelConfig
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.recipe.precision import fast_dtype
from kweek.recipe.stages import compact
from kweek.store.artifact import ArtifactWriter, fingerprint
from kweek.store.files import read_json
from kweek.system.interceptors import say_inline_calculator
from kweek.tokenize.tokenizer import Tokenizer

_CODE = "1"  # raised when the same arguments would give another model
_DOMAIN_FILE = "domain.json"


@dataclass(frozen=True)
class Wish:
    """What is searched.

    Attributes:
        models: checkpoint folders.
        task: "stories", another environment, a file of examples, or the folder of a domain.
        target: share of right answers that the lower bound has to reach.
        bits: of the matrices; the embedding gets 8, below 4 bits 4.
        layers: shares to keep; below 1 an adapter heals the cut.
        heal: updates of that.
        questions: to examine on at most.
        seed, threads: as elsewhere.
    """

    models: Sequence[Path]
    task: str
    target: float
    bits: Sequence[int]
    layers: Sequence[float]
    heal: int
    questions: int
    seed: int = 0
    threads: int = 1


@dataclass
class _Made:
    """A candidate that exists."""

    quantized: QuantizedModel
    tokenizer: Tokenizer
    origin: Path
    bits: int


def shrink(
    wish: Wish,
    out: Path,
    *,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Search[Any]:
    """Search, and write the smallest model that is good enough, as folder with a GGUF file in it.

    Raises:
        ConfigError: a wish that cannot be met by any measurement, or that names what is not there.
    """
    domain = read_task(wish)
    environment, questions = domain.environment(), domain.items("test", wish.questions)

    def ask(made: _Made, first: int, last: int) -> list[bool]:
        engine = Engine(made.quantized.network, threads=wish.threads)
        standing = examine(engine, made.tokenizer, environment, questions[first:last])
        return [score == 1.0 for score in standing.scores]

    def told(judged: Judged) -> None:
        progress(0, 1, f"{judged.name}: {judged.right} of {judged.asked}, {judged.verdict}")

    with tempfile.TemporaryDirectory(prefix="kweek-shrink-") as bench:
        workshop = _Workshop(wish, domain, Path(bench), progress, should_stop)
        search = smallest(
            workshop.candidates(), ask, len(questions), wish.target, on_judged=told, should_stop=should_stop
        )
    if search.found is not None:
        _write(search, wish, domain.calculator, out, progress)
    return search


def read_task(wish: Wish) -> Domain:
    """The exercises of a task, by name, file or folder."""
    path, key = Path(wish.task), f"exercises/{wish.seed}"
    if (path / _DOMAIN_FILE).is_file():
        return load_domain(path)
    counts: dict[Split, int] = {"train": 2048, "validation": 16, "test": wish.questions}
    if wish.task != STORIES and path.exists():
        return of_files(Files(path, None, None, None, None, None, None, counts, 0.2), key).domain
    return of_task(wish.task, counts, key).domain


def embedding_bits(bits: int) -> int:
    """Of an embedding: 8, which loses nothing, unless every byte counts."""
    return 8 if bits >= 4 else 4


class _Workshop:
    """Makes candidates, each number of layers cut and healed once, and kept on disk."""

    def __init__(
        self, wish: Wish, domain: Domain, bench: Path, progress: Progress, should_stop: ShouldStop
    ) -> None:
        self.wish, self.domain, self.bench = wish, domain, bench
        self.progress, self.should_stop = progress, should_stop

    def candidates(self) -> list[Candidate[_Made]]:
        """All of them, with their sizes."""
        found = []
        for number, folder in enumerate(self.wish.models):
            config = ModelConfig.from_hf(read_json(folder / "config.json"))
            for share in self.wish.layers:
                num_layers = max(1, round(share * config.num_layers))
                for bits in self.wish.bits:
                    shape = replace(config, num_layers=num_layers)
                    size = file_bytes(shape, uniform(shape, bits, embedding_bits(bits)))
                    name = f"{folder.name}, {num_layers} layers, {bits} bits"
                    found.append(Candidate(name, size, self._maker(number, num_layers, bits)))
        return found

    def _maker(self, number: int, num_layers: int, bits: int) -> Callable[[], _Made]:
        folder = self.wish.models[number]

        def make() -> _Made:
            tokenizer = Tokenizer.load(folder)
            network = self._healed(number, tokenizer, num_layers)
            config = compact.Config(bits=bits)
            text = compact.calibration(self.domain, tokenizer, config, self.wish.seed)
            widths = uniform(network.config, bits, embedding_bits(bits))
            self.progress(0, 1, f"rounding to {bits} bits")
            made = quantize_network(
                network, text, widths=widths, row_length=config.row_length, seed=self.wish.seed
            )
            return _Made(made, tokenizer, folder, bits)

        return make

    def _healed(self, number: int, tokenizer: Tokenizer, num_layers: int) -> Network:
        kept = self.bench / f"{number}-{num_layers}"
        if kept.exists():
            return load_model(kept)
        network = load_model(self.wish.models[number])
        if num_layers < network.config.num_layers:
            network = self._cut_down(network, tokenizer, num_layers)
            save_model(kept, network, torch.float32)
        return network

    def _cut_down(self, network: Network, tokenizer: Tokenizer, num_layers: int) -> Network:
        """Leave layers out, then learn the task again."""
        segments = self.domain.segments(tokenizer, "train", 1024)
        ids = [[int(part.ids[0]), *map(int, part.targets)] for part in segments[:64]]
        self.progress(0, 1, f"cutting to {num_layers} layers")
        cut = prune_network(network, Cuts(num_layers=num_layers), calibration_batches(ids, 256, 0)).network
        schooling = Schooling(compute_dtype=fast_dtype(measure_peak(self.wish.threads)))
        drill = Drill(segments, schooling, self.wish.seed)
        prepare(cut, schooling, self.wish.seed)
        school(
            cut, drill, schooling, self.wish.heal, progress=self.progress,
            should_stop=self.should_stop,
        )  # fmt: skip
        merge(cut)
        return cut


def _write(search: Search[_Made], wish: Wish, calculator: bool, out: Path, progress: Progress) -> None:
    made = search.found
    assert made is not None
    mark = fingerprint("shrink", json.loads(json.dumps(asdict(wish), default=str)), {}, _CODE)
    with ArtifactWriter(
        out, kind="quantize", fingerprint=mark, lineage={"model": str(made.origin.name)}
    ) as writer:
        made.quantized.save(writer)
        made.tokenizer.save(writer)
        if calculator:
            say_inline_calculator(writer)
        exported = export_gguf(writer.directory, writer.path(compact.FILE), "stored", progress)
        writer.metrics.update(
            num_bytes=exported.num_bytes,
            num_parameters=made.quantized.network.config.num_parameters()["total"],
            bits=made.bits,
            target=wish.target,
            task=wish.task,
            judged=[asdict(one) for one in search.judged],
        )
