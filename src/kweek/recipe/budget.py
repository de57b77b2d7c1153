"""How much a run may spend."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kweek.errors import ConfigError

_FORM = re.compile(r"\s*([0-9.]+(?:e[-+]?[0-9]+)?)\s*([a-z]+)\s*\Z", re.IGNORECASE)
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Budget:
    """How much a run may spend: a time on this machine in seconds, or FLOP. Exactly one is set."""

    seconds: float | None = None
    flop: float | None = None

    @staticmethod
    def parse(text: object, where: str = "budget") -> Budget:
        """Read "10min", "90s", "2h", "1d" or "1e15FLOP".

        Raises:
            ConfigError: anything else, or not above zero.
        """
        match = _FORM.match(text) if isinstance(text, str) else None
        unit = match[2].lower() if match else ""
        try:
            amount = float(match[1]) if match else 0.0
        except ValueError:
            amount = 0.0
        if 0.0 < amount < float("inf"):
            if unit == "flop":
                return Budget(flop=amount)
            if unit in _SECONDS:
                return Budget(seconds=amount * _SECONDS[unit])
        raise ConfigError(f"{text!r} is not a budget", where=where, fix="write 10min, 2h or 1e15FLOP")

    def __str__(self) -> str:
        if self.flop is not None:
            return f"{_digits(self.flop)}FLOP"
        assert self.seconds is not None
        return f"{_digits(self.seconds)}s" if self.seconds % 60 else f"{_digits(self.seconds / 60)}min"


def _digits(number: float) -> str:
    """A number with as many digits as give it back exactly: 10, 1e15, 0.1."""
    short = f"{number:g}"
    return (short if float(short) == number else repr(number)).replace("e+", "e")
