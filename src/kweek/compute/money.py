"""Money: what an answer costs on one's own machine, and behind an endpoint that charges for tokens."""

from __future__ import annotations

from dataclasses import dataclass

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Prices:
    """What things cost, in one currency, whichever the user means.

    Attributes:
        kwh: a kilowatt-hour of electricity.
        machine_hour: an hour of the machine besides its electricity: rent, or price over the hours of its life.
        million_read, million_written: a million tokens read and written by a remote model; None where unknown.
    """

    kwh: float = 0.30
    machine_hour: float = 0.0
    million_read: float | None = None
    million_written: float | None = None

    def own(self, joules: float, seconds: float) -> float:
        """Work on this machine."""
        return self.kwh * joules / JOULES_PER_KWH + self.machine_hour * seconds / 3600

    def remote(self, num_read: float, num_written: float) -> float | None:
        """Tokens of a remote model; None where no price is known."""
        if self.million_read is None or self.million_written is None:
            return None
        return (self.million_read * num_read + self.million_written * num_written) / 1e6
