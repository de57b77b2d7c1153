"""The model card of an exported file: what was measured, where the model comes from, under which licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kweek.compress.export import Exported
from kweek.compress.lineage import Ancestor
from kweek.compute.flops import format_bytes, format_flop, format_seconds
from kweek.errors import StoreError
from kweek.model.config import ModelConfig
from kweek.store.artifact import Artifact

_CACHE_BYTES = 2  # per value: llama.cpp and Ollama keep keys and values in fp16 unless told otherwise
_UNSTATED = (
    "Not stated: no licence file lies in the model's folder and none was named. Ask before you pass it on."
)


def card(
    name: str,
    folder: Path,
    config: ModelConfig,
    exported: Exported,
    lineage: Sequence[Ancestor],
    licence: str | None,
    modelfile_has_template: bool,
) -> str:
    """The text of README.md, in Markdown.

    Args:
        name: of the model.
        folder: it was exported from.
        config: of the network.
        exported: the file and how it compares with the folder.
        lineage: as `ancestors` finds it.
        licence: its name or text, None when not known.
        modelfile_has_template: whether the Modelfile says how a chat is put together.
    """
    sections = [
        f"# {name}\n",
        _use(name, exported, config, modelfile_has_template),
        "## Measured\n",
        _table(_measured(config, exported)),
        "Error is the root mean square of what rounding lost, over that of the values, read back from this file.\n",
        _table(_types(exported), ("stored as", "tensors", "error")),
        *(f"- {note}\n" for note in exported.notes),
        _history(folder),
        "## Where it comes from\n",
        _lineage(folder, lineage),
        "## Licence\n",
        (licence or _UNSTATED).strip() + "\n",
    ]
    return "\n".join(part for part in sections if part)


def _use(name: str, exported: Exported, config: ModelConfig, has_template: bool) -> str:
    file_name = exported.path.name
    lines = [
        f"    sh start.sh                               # llama.cpp's server on http://127.0.0.1:8080, else Ollama\n"
        f"    ollama create {name.lower()} -f Modelfile\n"
        f"    kweek export {file_name} --hf FOLDER       # back to a folder for transformers\n"
    ]
    if not has_template:
        lines.append("The Modelfile carries no chat template; Ollama will use the file's own or guess.\n")
    lines.append(f"Longest context: {config.max_positions:,} tokens.\n")
    return "\n".join(lines)


def _measured(config: ModelConfig, exported: Exported) -> list[tuple[str, str]]:
    cache = config.num_kv_bytes_per_token(_CACHE_BYTES) * config.max_positions
    return [
        ("parameters", f"{exported.num_parameters:,}"),
        ("layout", f"{config.architecture}, {config.num_layers} layers, {config.hidden_size} wide"),
        ("file", format_bytes(exported.num_bytes)),
        (
            "bits per parameter",
            f"{8 * exported.num_bytes / exported.num_parameters:.2f}, vocabulary included",
        ),
        ("memory with a full context", f"{format_bytes(exported.num_bytes + cache)} (cache in fp16)"),
        ("arithmetic per token", format_flop(config.num_flops_decode(0))),
        ("SHA-256", f"`{exported.sha256}`"),
    ]


def _types(exported: Exported) -> list[tuple[str, str, str]]:
    return [
        (kind, str(number), f"{exported.errors[kind]:.2%}" if exported.errors[kind] else "none")
        for kind, number in sorted(exported.types.items())
    ]


def _history(folder: Path) -> str:
    """What the manifest of the folder says was measured when it was made."""
    try:
        made = Artifact.open(folder)
    except StoreError:
        return ""
    rows = [
        (key.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
        for key, value in made.metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    ledger: Mapping[str, object] = made.ledger
    for key, show in (("flop_total", format_flop), ("seconds", format_seconds)):
        value = ledger.get(key)
        if isinstance(value, int | float) and value:
            rows.append((f"{key.removesuffix('_total')} of its last stage", show(value)))
    return "Of the folder it was made from, by its manifest:\n\n" + _table(rows) if rows else ""


def _lineage(folder: Path, lineage: Sequence[Ancestor]) -> str:
    if not lineage:
        return f"From the folder `{folder.resolve().name}`, which says nothing of where it comes from.\n"
    rows = [
        (f"{ancestor.name}", ancestor.kind or "source", f"`{ancestor.fingerprint[:16]}`", str(ancestor.depth))
        for ancestor in lineage
    ]
    text = _table(rows, ("made from", "kind", "fingerprint", "steps back"))
    licences = {key: number for ancestor in lineage for key, number in ancestor.licences.items()}
    if licences:
        found = [(licence, source, f"{number:,}") for (licence, source), number in sorted(licences.items())]
        text += "\nLicences of the documents it learnt from:\n\n"
        text += _table(found, ("licence", "source", "documents"))
    return text


def _table(rows: Iterable[Sequence[str]], header: Sequence[str] = ("", "")) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
