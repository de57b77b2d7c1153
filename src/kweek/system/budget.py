"""Budgets: a tree of scopes with limits on what may be spent, set aside before a call and settled after it.

What is set aside in a scope is set aside in all scopes around it, so no child can spend what its parent does not have,
and calls that run side by side cannot spend the same twice. (Trees of scopes: Inspect's limits.)
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import TracebackType

from kweek.errors import ConfigError, KweekError
from kweek.system.cost import Cost

Clock = Callable[[], float]
_WORDS = {
    "tokens": "{:,.0f} tokens",
    "flop": "{:.3g} FLOP",
    "seconds": "{:.3g} s",
    "tool_cpu_seconds": "{:.3g} CPU-seconds of tools",
    "money": "{:.4g} of money",
}


class BudgetExceeded(KweekError):
    """A call would cost more than a scope has left. Nothing of it has happened."""


@dataclass(frozen=True)
class Limits:
    """How much a scope may spend, or has left; infinite where nothing is said.

    Attributes:
        tokens: read and written.
        flop: of all models together.
        seconds: on the clock, from the beginning of the scope.
        tool_cpu_seconds: processor time of tools.
        money: in the currency of the prices.
    """

    tokens: float = math.inf
    flop: float = math.inf
    seconds: float = math.inf
    tool_cpu_seconds: float = math.inf
    money: float = math.inf

    def __post_init__(self) -> None:
        for one in fields(self):
            if not getattr(self, one.name) >= 0:
                raise ConfigError(
                    f"the limit is {getattr(self, one.name)}", where=one.name, fix="give 0 or more"
                )


@dataclass(frozen=True)
class Ticket:
    """What has been set aside for a call: it may spend that much. Good for one `settle`."""

    tokens: float
    flop: float
    tool_cpu_seconds: float
    money: float
    settled: list[bool] = field(default_factory=list, repr=False, compare=False)


class Budget:
    """One scope. Safe to use from several threads.

    Args:
        name: said when the scope is exceeded.
        limits: of this scope; those around it hold too.
        parent: the scope around it.
        clock: seconds from anywhere.
    """

    def __init__(
        self,
        name: str = "run",
        limits: Limits | None = None,
        parent: Budget | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.name, self.limits, self.parent = name, limits or Limits(), parent
        self._clock, self._started = clock, clock()
        self._lock: threading.RLock = parent._lock if parent is not None else threading.RLock()
        self._spent, self._earlier = Cost(), 0.0
        self._aside = dict.fromkeys(("tokens", "flop", "tool_cpu_seconds", "money"), 0.0)

    def scope(self, name: str, **limits: float) -> Budget:
        """A scope inside this one, whose seconds begin now; limits by name, as in `Limits`."""
        return Budget(name, Limits(**limits), self, self._clock)

    def __enter__(self) -> Budget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back: what was not spent is the parent's still."""

    @property
    def spent(self) -> Cost:
        """What has been settled here and in the scopes inside."""
        with self._lock:
            return self._spent

    def left(self) -> Limits:
        """What may still be set aside, here and in all scopes around."""
        with self._lock:
            own = self._own_left()
            if self.parent is None:
                return own
            around = self.parent.left()
            return Limits(*(min(getattr(own, one.name), getattr(around, one.name)) for one in fields(own)))

    def reserve(self, asked: Cost, least: Cost | None = None) -> Ticket:
        """Set aside what a call may cost.

        Args:
            asked: the most that it costs; its seconds do not count, they are unknown beforehand.
            least: with this, less than asked is granted where no more is left, but not less than this.

        Raises:
            BudgetExceeded: a scope has less left than the call needs, or no time.
            KweekError: a scope limits FLOP and those of the call are not known.
        """
        need, want = _amounts(least or asked), _amounts(asked)
        with self._lock:
            for scope in self._outwards():
                scope._require(need, asked.num_unknown)
            left = self.left()
            granted = {name: min(value, getattr(left, name)) for name, value in want.items()}
            for scope in self._outwards():
                for name, value in granted.items():
                    scope._aside[name] += value
        return Ticket(**granted)

    def settle(self, ticket: Ticket, cost: Cost) -> None:
        """Replace what was set aside by what the call cost; more than was set aside counts too."""
        with self._lock:
            assert not ticket.settled, "a ticket is settled once"
            ticket.settled.append(True)
            for scope in self._outwards():
                for name in scope._aside:
                    scope._aside[name] -= getattr(ticket, name)
                scope._spent += cost

    def take_up(self, cost: Cost) -> None:
        """Count what an earlier life of this run has spent, its seconds on the clock too."""
        with self._lock:
            for scope in self._outwards():
                scope._spent += cost
                scope._earlier += cost.seconds

    def _outwards(self) -> list[Budget]:
        return [self, *(self.parent._outwards() if self.parent is not None else [])]

    def _own_left(self) -> Limits:
        gone = _amounts(self._spent)
        left = {
            name: max(0.0, getattr(self.limits, name) - gone[name] - aside)
            for name, aside in self._aside.items()
        }
        elapsed = self._clock() - self._started + self._earlier
        return Limits(**left, seconds=max(0.0, self.limits.seconds - elapsed))

    def _require(self, need: dict[str, float], num_unknown: int) -> None:
        left = self._own_left()
        if num_unknown and self.limits.flop < math.inf:
            raise KweekError(
                "FLOP are limited, and those of a call are not known",
                where=f"budget {self.name}",
                fix="limit tokens or money where a model of unknown size is asked",
            )
        if left.seconds <= 0:
            raise self._exceeded("seconds", math.nan, 0.0)
        for name, value in need.items():
            if value > getattr(left, name):
                raise self._exceeded(name, value, getattr(left, name))

    def _exceeded(self, name: str, asked: float, left: float) -> BudgetExceeded:
        words = _WORDS[name]
        if name == "seconds":
            said = f"the {words.format(self.limits.seconds)} are over"
        else:
            said = f"a call needs {words.format(asked)}, {words.format(left)} are left"
        return BudgetExceeded(
            said, where=f"budget {self.name}", fix=f"raise the limit {name}, or ask for less"
        )


def _amounts(cost: Cost) -> dict[str, float]:
    """What is limited of a cost, but for the time."""
    return {
        "tokens": float(cost.tokens),
        "flop": cost.flop,
        "tool_cpu_seconds": cost.tool_cpu_seconds,
        "money": cost.money,
    }
