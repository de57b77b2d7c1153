"""The funnel: how many documents and bytes of each source remain after every step of building a corpus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kweek.data.document import Document


class Tally:
    """Documents and bytes by source."""

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] = {}

    def add(self, source: str, num_bytes: int, documents: int = 1) -> None:
        """Count some documents."""
        number, size = self.counts.get(source, (0, 0))
        self.counts[source] = (number + documents, size + num_bytes)

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Tally:
        """The tally of some documents."""
        tally = cls()
        for document in documents:
            tally.add(document.source, document.num_bytes)
        return tally


class Funnel:
    """How many documents and bytes of each source remain after each step, and what each rule took out.

    `rows` are in order of happening: {"step", "source", "documents", "bytes"}; those of the step "dropped"
    carry the "rule" as well.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, step: str, tally: Tally, sources: Iterable[str]) -> None:
        """Add one row per source with what remains after a step."""
        for source in sorted(sources):
            number, size = tally.counts.get(source, (0, 0))
            self.rows.append({"step": step, "source": source, "documents": number, "bytes": size})

    def dropped(self, rule: str, tally: Tally) -> None:
        """Add one row per source that lost something to a rule."""
        for source, (number, size) in sorted(tally.counts.items()):
            row = {"step": "dropped", "rule": rule, "source": source, "documents": number, "bytes": size}
            self.rows.append(row)

    def total(self, step: str) -> tuple[int, int]:
        """Documents and bytes of all sources after a step."""
        rows = [row for row in self.rows if row["step"] == step]
        return sum(row["documents"] for row in rows), sum(row["bytes"] for row in rows)
