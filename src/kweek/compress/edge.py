"""A folder for a small machine: the model as GGUF, a Modelfile for Ollama, a start script, a model card.

On request also a program that needs nothing else on that machine, with the weights as it maps them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from kweek.compress.card import card
from kweek.compress.export import Exported, Kind, compare, write_model
from kweek.compress.lineage import ancestors, licence_text
from kweek.compress.modelfile import modelfile, read_pieces
from kweek.compress.runner import PROGRAM_FILE, WEIGHTS_FILE, Runner, write_runner
from kweek.model.checkpoint import open_tensors
from kweek.protocols import Progress, silent
from kweek.store.artifact import ArtifactWriter, fingerprint
from kweek.store.files import read_json
from kweek.tokenize.tokenizer import Tokenizer

MODEL_FILE, CARD_FILE = "model.gguf", "README.md"
_CODE = "2"  # raised when the same folder would be exported otherwise
_GIVEN_UP = "no llama-server and no ollama here: install llama.cpp or Ollama, then run this again"


@dataclass(frozen=True)
class Edge:
    """A finished folder: where it is, the file in it, and the names of all files."""

    path: Path
    exported: Exported
    files: list[str]


def export_edge(
    folder: Path,
    target: Path,
    kind: Kind | None = None,
    *,
    licence: str | None = None,
    runner: Runner | None = None,
    progress: Progress = silent,
) -> Edge:
    """Write the folder; it takes its place whole or not at all.

    Args:
        folder: a checkpoint folder with its tokenizer.
        target: the folder to write; one of an earlier export is replaced.
        kind: as in `export_gguf`; None keeps codes as they are and turns floats into Q8_0, which halves fp16 at
            errors that no task shows.
        licence: name of the model's licence; None takes the text of a licence file in `folder`.
        runner: the machine that a program of our own is added for; None adds none.
        progress: counts parameters.

    Raises:
        KweekError: there is no compiler for the runner's machine.
        CheckpointError: as `export_gguf`.
        StoreError: the disk refuses, or `target` is something else.
    """
    chosen = kind or default_kind(folder)
    tokenizer, lineage = Tokenizer.load(folder), ancestors(folder)
    name = model_name(folder)
    licence = licence or licence_text(folder)
    mark = fingerprint(
        "edge", {"folder": name, "kind": chosen, "licence": licence, "runner": runner}, {}, _CODE
    )
    with ArtifactWriter(target, kind="edge", fingerprint=mark) as out:
        with out.open(MODEL_FILE) as stream:
            notes = write_model(cast(BinaryIO, stream), folder, chosen, progress)
        exported = compare(folder, out.directory / MODEL_FILE, notes, progress)
        with open_tensors(folder) as (config, _):
            pass
        out.write_text("Modelfile", modelfile(tokenizer, config, MODEL_FILE, licence))
        out.write_text("start.sh", start_script(name, config.max_positions, runner is not None))
        if runner is not None:
            write_runner(out, folder, runner, chosen)
        has_template = read_pieces(tokenizer) is not None
        out.write_text(CARD_FILE, card(name, folder, config, exported, lineage, licence, has_template))
        out.lineage.update(
            {ancestor.name: ancestor.fingerprint for ancestor in lineage if ancestor.depth == 1}
        )
        out.metrics.update(num_bytes=exported.num_bytes, num_parameters=exported.num_parameters)
        names = sorted(file.name for file in out.directory.iterdir())
    return Edge(target, exported, names)


def default_kind(folder: Path) -> Kind:
    """ "stored" for a folder with codes, else "q8_0"."""
    document = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return "stored" if isinstance(document, dict) and document.get("quantization_config") else "q8_0"


def model_name(folder: Path) -> str:
    """The folder's name; for an artifact of a run the run's name before it ("laptop-quantized")."""
    path = folder.resolve()
    name = f"{path.parent.parent.name}-{path.name}" if path.parent.name == "artifacts" else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def start_script(name: str, context: int, has_program: bool) -> str:
    """A shell script that serves the model on this machine alone, with whatever engine is there."""
    alone = (
        f"""if [ -x {PROGRAM_FILE} ]; then
    echo "no llama-server and no ollama here: every line you type is a question of its own" >&2
    exec ./{PROGRAM_FILE} "$@" {WEIGHTS_FILE}
fi
"""
        if has_program
        else ""
    )
    return f"""#!/bin/sh
# Serves {MODEL_FILE} on http://127.0.0.1:8080 (PORT changes that), for this machine only.
# More words go to the engine: sh start.sh --threads 4
set -e
cd "$(dirname "$0")"
if command -v llama-server >/dev/null 2>&1; then
    exec llama-server --model {MODEL_FILE} --host 127.0.0.1 --port "${{PORT:-8080}}" --ctx-size {context} --jinja "$@"
fi
if command -v ollama >/dev/null 2>&1; then
    ollama create {name.lower()} -f Modelfile
    exec ollama run {name.lower()} "$@"
fi
{alone}echo "{_GIVEN_UP}" >&2
exit 1
"""
