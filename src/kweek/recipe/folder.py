"""The run folder: where everything of one run lies.

RUN/run.json          the recipe with every key resolved, the fingerprint of every stage, the command
RUN/machine.json      what this machine is and how fast, measured
RUN/summary.json      what came of it (see `kweek.recipe.summary`)
RUN/artifacts/NAME/   the finished artifact of a stage
RUN/records/NAME.jsonl
RUN/state/NAME/       what a killed stage goes on from; stage.json, ledger.json, stderr.txt are the frame's
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kweek.errors import StoreError
from kweek.store.artifact import Artifact
from kweek.store.files import read_json


@dataclass(frozen=True)
class RunFolder:
    """Paths below one run folder."""

    path: Path

    @property
    def run_json(self) -> Path:
        """The resolved recipe and fingerprints of the latest run."""
        return self.path / "run.json"

    @property
    def machine_json(self) -> Path:
        """The measured machine."""
        return self.path / "machine.json"

    @property
    def summary_json(self) -> Path:
        """The summary of the latest run."""
        return self.path / "summary.json"

    def artifact(self, stage: str) -> Path:
        """Folder of a stage's artifact."""
        return self.path / "artifacts" / stage

    def records(self, stage: str) -> Path:
        """File of a stage's records."""
        return self.path / "records" / f"{stage}.jsonl"

    def state(self, stage: str) -> Path:
        """Folder that a killed stage resumes from."""
        return self.path / "state" / stage

    def stage_json(self, stage: str) -> Path:
        """What the frame knows of a stage's latest start: fingerprint, threads, peak, planned seconds."""
        return self.state(stage) / "stage.json"

    def ledger_json(self, stage: str) -> Path:
        """Cost of earlier attempts at the stage in progress."""
        return self.state(stage) / "ledger.json"

    def stderr(self, stage: str) -> Path:
        """What the stage's latest process wrote to its standard error."""
        return self.state(stage) / "stderr.txt"

    def finished(
        self, stage: str, fingerprint: str, *, verify: Literal["size", "hash"] = "size"
    ) -> Artifact | None:
        """The stage's artifact when it is whole and has this fingerprint, else None.

        A missing or broken artifact counts as none, for the stage can make it anew.
        """
        try:
            artifact = Artifact.open(self.artifact(stage), verify=verify)
        except StoreError:
            return None
        return artifact if artifact.fingerprint == fingerprint else None

    def started(self, stage: str) -> dict[str, Any]:
        """Contents of `stage.json`, empty when the stage never started or the file is broken."""
        try:
            found = read_json(self.stage_json(stage))
        except StoreError:
            return {}
        return found if isinstance(found, dict) else {}

    def clear_state(self, stage: str, *, keep: tuple[str, ...] = ()) -> None:
        """Remove what a stage would resume from, except the named files."""
        folder = self.state(stage)
        if not folder.exists():
            return
        for entry in folder.iterdir():
            if entry.name in keep:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
