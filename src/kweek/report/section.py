"""A section of the page, or the plain statement that its records are not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kweek.report.history import History
from kweek.report.markup import Child


@dataclass(frozen=True)
class Section:
    """Content under a heading. `lede` says in a sentence or two what is shown and how to read it."""

    key: str
    title: str
    lede: Child
    body: Child


@dataclass(frozen=True)
class Missing:
    """A section that this run has nothing for."""

    title: str
    needs: str


#: Makes a section of a run's history; None where its recipe is not about it.
Author = Callable[[History], Section | Missing | None]
