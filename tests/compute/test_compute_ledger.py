"""The ledger: sums, round trips, children's CPU time, and energy measured or estimated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kweek.compute.energy import WATTS_PER_BUSY_CORE, EnergyMeter
from kweek.compute.ledger import Ledger

BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_costs_add_up_by_kind_and_precision() -> None:
    ledger = Ledger()
    ledger.add("pretrain", 1e12, "fp32", tokens=100)
    ledger.add("pretrain", 1e12, "fp32", tokens=100)
    ledger.add("pretrain", 4e12, "bf16")
    ledger.add("sample", 8e12, "int4", tokens=7)
    found = ledger.to_dict()
    assert found["flop"] == {"pretrain": {"fp32": 2e12, "bf16": 4e12}, "sample": {"int4": 8e12}}
    assert found["flop_total"] == 14e12
    assert found["flop_standardised"] == 2e12 * 2 + 4e12 + 8e12 / 4
    assert found["tokens"] == 207


def test_a_ledger_survives_json_and_merges() -> None:
    ledger = Ledger()
    ledger.add("pretrain", 3e9, "fp32", tokens=5)
    with ledger.time():
        time.sleep(0.01)
    back = Ledger.from_dict(json.loads(json.dumps(ledger.to_dict())))
    assert back.to_dict() == ledger.to_dict()
    back.merge(ledger)
    for key in ("flop_total", "flop_standardised", "tokens", "seconds", "cpu_seconds", "joules"):
        assert back.to_dict()[key] == pytest.approx(2 * ledger.to_dict()[key])
    assert back.joules_source == ledger.joules_source


def test_one_estimate_makes_the_sum_an_estimate() -> None:
    measured, estimated = Ledger(), Ledger()
    estimated.joules_source = "estimated"
    measured.merge(estimated)
    assert measured.joules_source == "estimated"


def test_time_counts_the_children_too_and_also_when_the_block_fails() -> None:
    ledger = Ledger()
    with pytest.raises(ZeroDivisionError), ledger.time():
        subprocess.run([sys.executable, "-c", BURN], check=True)
        raise ZeroDivisionError
    assert ledger.cpu_seconds >= 0.28
    assert ledger.seconds >= 0.28
    if ledger.joules_source == "estimated":
        assert ledger.joules == pytest.approx(ledger.cpu_seconds * WATTS_PER_BUSY_CORE)


def machine(folder: Path, energy_uj: list[int], busy_ticks: int) -> tuple[Path, Path]:
    """Linux's files for a machine with some processor packages, each with one sub-zone that must not count."""
    for package, energy in enumerate(energy_uj):
        for name in (f"intel-rapl:{package}", f"intel-rapl:{package}:0"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "energy_uj").write_text(f"{energy}\n")
            (folder / name / "max_energy_range_uj").write_text("262143328850\n")
    (folder / "stat").write_text(f"cpu  {busy_ticks} 0 0 5000 10 0 0 0 0 0\ncpu0 1 0 0 0 0 0 0 0 0 0\n")
    return folder, folder / "stat"


def test_the_counters_are_shared_by_cpu_time(tmp_path: Path) -> None:
    meter = EnergyMeter(*machine(tmp_path, [1_000_000, 5_000_000], 1000))
    machine(tmp_path, [31_000_000, 15_000_000], 1400)  # 40 J in all while the cores worked 4 s
    assert meter.joules(1.0) == pytest.approx(10.0)
    assert meter.joules(4.0) == pytest.approx(40.0)
    assert meter.joules(9.0) == pytest.approx(40.0)  # clocks of different grain never give more than all


def test_a_counter_that_wraps(tmp_path: Path) -> None:
    meter = EnergyMeter(*machine(tmp_path, [262_143_000_000], 0))
    machine(tmp_path, [1_671_150], 100)
    assert meter.joules(1.0) == pytest.approx(2.0)


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may read everything")
def test_a_counter_that_only_root_may_read(tmp_path: Path) -> None:
    powercap, times = machine(tmp_path, [1], 0)
    (powercap / "intel-rapl:0" / "energy_uj").chmod(0)
    assert EnergyMeter(powercap, times).joules(1.0) is None


def test_no_counter(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path, tmp_path / "stat").joules(1.0) is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("not a number")
    assert EnergyMeter(tmp_path, tmp_path / "stat").joules(1.0) is None
