"""Made-up runs that the tests of the report share."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_run import fabricate

from kweek.report.render import render


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its report. Read it only."""
    run = fabricate(tmp_path_factory.mktemp("full") / "laptop")
    render(run)
    return run


@pytest.fixture(scope="session")
def full_page(full_run: Path) -> str:
    """The report of the finished run."""
    return (full_run / "report.html").read_text(encoding="utf-8")
