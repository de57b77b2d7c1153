"""A toy recipe, and a run folder whose machine is measured already."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from toy_recipes import TOY, recipe_of

from kweek.recipe.schema import Recipe
from kweek.store.environment import describe_environment


@pytest.fixture
def toy() -> Recipe:
    return recipe_of(TOY)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder whose machine is measured already."""
    out = tmp_path / "run"
    out.mkdir()
    peak = {"fp32_flop_per_second": 1e10, "bf16_flop_per_second": None, "memory_bytes_per_second": 1e9}
    stored: dict[str, Any] = {
        "time": time.time(),
        "cpu": describe_environment()["cpu"],
        "peaks": {str(n): {**peak, "threads": n} for n in (1, 2)},
    }
    (out / "machine.json").write_text(json.dumps(stored))
    return out
