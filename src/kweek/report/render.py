"""Rendering: a run folder becomes one self-contained HTML file.

The work writes records and knows nothing of this; the report reads records and knows nothing of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kweek import __version__
from kweek.report.history import History, read_history
from kweek.report.markup import Child, join
from kweek.report.page import page
from kweek.report.section import Author, Missing, Section
from kweek.report.sections import (
    accuracy,
    ages,
    behaviour,
    changes,
    chats,
    control,
    cost,
    data,
    derived,
    forecast,
    four_bits,
    guards,
    learning,
    lineage,
    paired,
    reproduction,
    specialist,
    tax,
    verdict,
    voting,
)
from kweek.store.files import write_text

REPORT = "report.html"

#: What the model became, what it can do, where that came from, what it is made of, what it cost, how to repeat it.
AUTHORS: Sequence[Author] = (
    ages.section,
    forecast.section,
    specialist.section,
    behaviour.section,
    accuracy.section,
    control.section,
    voting.section,
    chats.section,
    changes.section,
    paired.section,
    tax.section,
    four_bits.section,
    learning.section,
    data.section,
    derived.section,
    guards.section,
    cost.section,
    lineage.section,
    reproduction.section,
)


def render(run: Path) -> Path:
    """Write RUN/report.html from what lies in the run folder, however far the run has got.

    Returns:
        The path of the report.

    Raises:
        StoreError: no such folder, or the report cannot be written.
    """
    path = run / REPORT
    write_text(path, document(read_history(run)))
    return path


def document(history: History) -> str:
    """The report of a history as HTML."""
    made = [author(history) for author in AUTHORS]
    sections = [item for item in made if isinstance(item, Section)]
    missing = [item for item in made if isinstance(item, Missing)]
    title = f"{history.recipe_name}: Kweek run report"
    return page(title, verdict.verdict(history), sections, missing, _foot(history))


def _foot(history: History) -> Child:
    ended = history.ended()
    when = f", last record {ended:%Y-%m-%d %H:%M} UTC" if ended is not None else ""
    return join(
        f"Made by Kweek {__version__} from the records of this run{when}. Nothing here was typed by hand."
    )
