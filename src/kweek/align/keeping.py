"""What a run of reinforcement keeps on disk: where to go on from, and the best weights that a guard has seen.

A checkpoint is a main file, written last, and the files of the same step that it speaks of: the critic's, and older
weights of an asynchronous source. A crash between them leaves the checkpoint before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from kweek.align.learner import Learner
from kweek.errors import GuardError
from kweek.store import files
from kweek.train.trainer import Trained, checkpoint_step

MAIN = "train.safetensors"


class Keeper:
    """The files of one run in its folder.

    Args:
        folder: where, made if need be; None keeps what guards want in memory and writes nothing.
    """

    def __init__(self, learner: Learner, folder: Path | None) -> None:
        self._learner, self._folder = learner, folder
        if folder is not None:  # now, and not when the first checkpoint is due
            folder.mkdir(parents=True, exist_ok=True)
        self._kept: dict[str, int] = {}  # by guard, the step whose weights it wants
        self._in_memory: dict[int, dict[str, Tensor]] = {}

    def keep(self, guard: str, wanted: int, step: int) -> None:
        """Store the present weights where they are the ones wanted.

        Args:
            guard: who wants them.
            wanted: number of the step whose weights they are.
            step: the present one.
        """
        known = set(self._kept.values())
        self._kept[guard] = wanted
        if wanted == step and step not in known:
            weights = {
                name: value.clone() for name, value in self._learner.trainer.network.state_dict().items()
            }
            if self._folder is None:
                self._in_memory[step] = weights
            else:
                files.write_bytes(self._path("kept", step), save(_contiguous(weights)))
        for old in set(self._in_memory) - set(self._kept.values()):
            del self._in_memory[old]

    def go_back(self, wanted: int, step: int) -> int:
        """Put the weights of a step back; returns it. Raises GuardError for one that has not been kept."""
        if wanted == step:
            return step
        if wanted in self._in_memory:
            weights = self._in_memory[wanted]
        elif self._folder is not None and self._path("kept", wanted).exists():
            weights = load_file(self._path("kept", wanted))
        else:
            raise GuardError(
                f"a guard wants the weights of step {wanted} back, which it never asked to keep",
                fix="let its verdict name the present step when that is the best so far",
            )
        with torch.no_grad():
            self._learner.trainer.network.load_state_dict(weights)
        return wanted

    def save(self, totals: Trained, about: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint.

        Args:
            about: as JSON.
            tensors: further weights.
        """
        if self._folder is None:
            return
        if tensors:
            files.write_bytes(self._path("behind", totals.step), save(_contiguous(tensors)))
        if self._learner.critic is not None:
            self._learner.critic.trainer.save(self._path("critic", totals.step), totals)
        self._learner.trainer.save(self._folder / MAIN, totals, about | {"kept": self._kept})
        wanted = {self._path("kept", step) for step in self._kept.values()}
        wanted |= {self._path("behind", totals.step), self._path("critic", totals.step)}
        for kind in ("kept", "behind", "critic"):  # only now does no checkpoint speak of them
            for path in self._folder.glob(f"{kind}-*.safetensors"):
                if path not in wanted:
                    path.unlink()

    def load(self) -> tuple[Trained, dict[str, Any], dict[str, Tensor]] | None:
        """Go back to the last checkpoint; what `save` was given, None where there is none."""
        if self._folder is None or not checkpoint_step(self._folder / MAIN):
            return None
        totals, extra = self._learner.trainer.load(self._folder / MAIN)
        about: dict[str, Any] = dict(extra)
        if self._learner.critic is not None:
            self._learner.critic.trainer.load(self._path("critic", totals.step))
        behind = self._path("behind", totals.step)
        self._kept = about.pop("kept")
        return totals, about, load_file(behind) if behind.exists() else {}

    def _path(self, kind: str, step: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{step}.safetensors"


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in tensors.items()}
