"""What became of the records of a file: how many were used, which were left out and why, what was changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

NUM_EXAMPLES = 3  # places named per reason: enough to look at, few enough to read


class BadRow(Exception):
    """A record that cannot be used.

    Args:
        reason: the kind of fault, the same words for every such record, so that they can be counted.
        detail: what exactly it was in this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason} ({detail})" if detail else reason)


@dataclass
class Report:
    """Counts of one reading, filled as it goes.

    Attributes:
        source: what was read.
        format: in which format; empty until known.
        detected: whether the format was found out, not named.
        num_records: records met.
        num_rows: those that were used.
        skipped: those that were not, by reason.
        examples: the first places of each reason, with the detail.
        notes: what was changed or assumed, by kind.
    """

    source: str = ""
    format: str = ""
    detected: bool = False
    num_records: int = 0
    num_rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, where: str, reason: str, detail: str = "") -> None:
        """Count a record that is left out."""
        self.skipped[reason] += 1
        places = self.examples.setdefault(reason, [])
        if len(places) < NUM_EXAMPLES:
            places.append(f"{where}: {detail}" if detail else where)

    def note(self, what: str) -> None:
        """Count something that was changed or assumed."""
        self.notes[what] += 1

    @property
    def num_skipped(self) -> int:
        """Records left out, for whatever reason."""
        return self.skipped.total()

    def commonest(self) -> str:
        """The commonest reason with its count and first place; empty when nothing was left out."""
        if not self.skipped:
            return ""
        reason, count = self.skipped.most_common(1)[0]
        return f"{count:,} x {reason}, first at {self.examples[reason][0]}"

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON, for records and for machines; reasons by falling count."""
        return {
            "source": self.source,
            "format": self.format,
            "detected": self.detected,
            "records": self.num_records,
            "rows": self.num_rows,
            "skipped": [
                {"reason": reason, "count": count, "examples": self.examples[reason]}
                for reason, count in self.skipped.most_common()
            ],
            "notes": dict(self.notes.most_common()),
        }
