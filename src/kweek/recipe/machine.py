"""How fast this machine is, measured once a day and kept in the run folder."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from kweek.compute.hardware import Peak, detect, measure_peak
from kweek.errors import StoreError
from kweek.recipe.folder import RunFolder
from kweek.store.environment import describe_environment
from kweek.store.files import read_json, write_json

#: Measurements older than this are made again: machines are moved, throttled and upgraded.
_VALID_SECONDS = 86400.0


def default_threads() -> int:
    """CPUs that this process may use, the quota of its container included."""
    return detect().num_cores


def _cpu() -> Any:
    """The processor's name, without the import of torch that `detect` takes."""
    return describe_environment()["cpu"]


def _stored(folder: RunFolder) -> dict[str, Any]:
    """What was measured within the last day on this very CPU, empty otherwise."""
    try:
        found = read_json(folder.machine_json)
        age = time.time() - found["time"]
        return found if 0 <= age < _VALID_SECONDS and found["cpu"] == _cpu() else {}
    except (StoreError, KeyError, TypeError):
        return {}


def machine_peaks(folder: RunFolder, threads: int) -> dict[int, Peak]:
    """Measured peak of this machine with one thread and with `threads`, by number of threads.

    Read from RUN/machine.json when less than a day old, else measured (about a second) and stored there.
    """
    stored = _stored(folder)
    peaks = {int(count): Peak(**values) for count, values in stored.get("peaks", {}).items()}
    missing = [count for count in sorted({1, threads}) if count not in peaks]
    if missing:
        peaks.update({count: measure_peak(count) for count in missing})
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(
            folder.machine_json,
            {
                "time": stored.get("time", time.time()),
                "cpu": _cpu(),
                "machine": asdict(detect()),
                "peaks": {str(count): asdict(peak) for count, peak in sorted(peaks.items())},
            },
        )
    return peaks
