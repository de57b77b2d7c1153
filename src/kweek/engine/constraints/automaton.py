"""The deterministic automaton of a pattern as arrays, and which of its states can still come to an end.

Legend: S states, C classes of symbols.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kweek.engine.constraints.limits import BeyondAutomaton, GrammarError, Limits
from kweek.engine.constraints.nfa import Nfa
from kweek.engine.constraints.pattern import Pattern

_SHARE_OF_TIME = 0.6  # of the time for compiling; the rest is for liveness and the way back
NEVER = 1 << 30  # tokens; more than any text has
_CHECK_EVERY = 256  # states between two looks at the clock


@dataclass(frozen=True)
class Automaton:
    """Reads symbols: bytes 0 to 255, then the control tokens of `controls`.

    Attributes:
        table_SC: int32, the next state by state and class of symbol; S, the last row, is the dead state.
        class_of: uint8 (256 + controls,), class of each symbol.
        accepting_S: bool (S + 1,), whether the text may end.
        cost_S: int32 (S + 1,), a number of tokens of the vocabulary that surely lead from here to an end, `NEVER` where
            none do. A token may lead only to a state that has one.
        controls: ids of the control tokens that are symbols.
    """

    table_SC: npt.NDArray[np.int32]
    class_of: npt.NDArray[np.uint8]
    accepting_S: npt.NDArray[np.bool_]
    cost_S: npt.NDArray[np.int32]
    controls: tuple[int, ...]

    def __post_init__(self) -> None:
        """Arrays from another process are read at places that they name themselves, so they are checked."""
        num_rows, num_classes = self.table_SC.shape
        fits = (
            num_rows >= 2
            and self.class_of.shape == (256 + len(self.controls),)
            and self.accepting_S.shape == self.cost_S.shape == (num_rows,)
            and int(self.class_of.max()) < num_classes
            and 0 <= int(self.table_SC.min()) <= int(self.table_SC.max()) < num_rows
            and not self.accepting_S[-1]
            and self.cost_S[-1] == NEVER
            and 0 <= self.cost_S[0] < NEVER
        )
        if not fits:
            raise GrammarError("the automaton's arrays do not fit each other")

    @property
    def num_states(self) -> int:
        """S, without the dead state."""
        return len(self.table_SC) - 1

    def step(self, state: int, data: bytes) -> int:
        """The state after some bytes."""
        for byte in data:
            state = int(self.table_SC[state, self.class_of[byte]])
        return state

    def pack(self) -> tuple[dict[str, Any], list[bytes]]:
        """As a message and blobs."""
        arrays = (self.table_SC, self.class_of, self.accepting_S, self.cost_S)
        return {"shape": self.table_SC.shape, "controls": self.controls}, [a.tobytes() for a in arrays]

    @classmethod
    def unpack(cls, head: dict[str, Any], blobs: Sequence[bytes]) -> Automaton:
        """What `pack` packed.

        Raises:
            GrammarError: the arrays do not fit each other.
        """
        table, class_of, accepting, cost = blobs
        return cls(
            np.frombuffer(table, dtype=np.int32).reshape(head["shape"]),
            np.frombuffer(class_of, dtype=np.uint8),
            np.frombuffer(accepting, dtype=np.bool_),
            np.frombuffer(cost, dtype=np.int32),
            tuple(head["controls"]),
        )


def build(pattern: Pattern, units: Sequence[bytes], limits: Limits) -> Automaton:
    """Determinise a pattern for a vocabulary.

    Args:
        pattern: what to accept.
        units: the vocabulary's, see `Vocabulary.units`.
        limits: bounds on states and time.

    Raises:
        BeyondAutomaton: more states or more time than allowed.
        GrammarError: nothing satisfies the pattern, or nothing that this vocabulary can write.
    """
    deadline = time.monotonic() + limits.seconds * _SHARE_OF_TIME
    nfa = Nfa(pattern, limits.states)
    rows, accepting = _determinise(nfa, limits.states, deadline)
    class_of, firsts = _classes(rows, 256 + len(nfa.controls))
    dead = len(rows)
    table_SC = np.full((dead + 1, len(firsts)), dead, dtype=np.int32)
    for state, row in enumerate(rows):
        for low, high, target in row:
            table_SC[state, class_of[low] : class_of[high] + 1] = target
    accepting_S = np.array([*accepting, False])
    open_S = _costs(accepting_S, *_all_edges(table_SC)) < NEVER
    if not open_S[0]:
        raise GrammarError("nothing satisfies it", fix="look for parts that exclude each other")
    table_SC[~open_S[table_SC]] = dead
    cost_S = _costs(accepting_S, *_unit_edges(table_SC, class_of, units, len(nfa.controls)))
    if cost_S[0] == NEVER:
        raise GrammarError(
            "the vocabulary has no tokens for what it asks", fix="use characters that the model can write"
        )
    return Automaton(table_SC, class_of.astype(np.uint8), accepting_S, cost_S, tuple(nfa.controls))


Row = list[tuple[int, int, int]]  # (first symbol, last symbol, target), ascending and apart


def _determinise(nfa: Nfa, max_states: int, deadline: float) -> tuple[list[Row], list[bool]]:
    """Subset construction: rows of the reachable states, and which accept."""
    closures: dict[int, frozenset[int]] = {}

    def closure(states: frozenset[int]) -> frozenset[int]:
        """With what is reached without reading; states that read nothing and do not accept are left out."""
        if len(states) == 1:
            (only,) = states
            if only not in closures:
                closures[only] = _closure(nfa, states)
            return closures[only]
        return _closure(nfa, states)

    first = closure(frozenset([nfa.start]))
    numbers, order = {first: 0}, [first]
    rows: list[Row] = []
    while len(rows) < len(order):
        if len(rows) % _CHECK_EVERY == 0 and time.monotonic() > deadline:
            raise BeyondAutomaton("its automaton takes too long to build", fix="make the grammar smaller")
        row: Row = []
        for low, high, targets in _moves(nfa, order[len(rows)]):
            following = closure(targets)
            number = numbers.get(following)
            if number is None:
                if len(order) >= max_states:
                    raise BeyondAutomaton(
                        f"its automaton has over {max_states:,} states", fix="make the grammar smaller"
                    )
                number = numbers[following] = len(order)
                order.append(following)
            row.append((low, high, number))
        rows.append(row)
    return rows, [nfa.end in states for states in order]


def _closure(nfa: Nfa, states: frozenset[int]) -> frozenset[int]:
    seen, pending = set(states), list(states)
    while pending:
        for following in nfa.free[pending.pop()]:
            if following not in seen:
                seen.add(following)
                pending.append(following)
    return frozenset(state for state in seen if nfa.edges[state] or state == nfa.end)


def _moves(nfa: Nfa, states: frozenset[int]) -> list[tuple[int, int, frozenset[int]]]:
    """Where a set of states goes: ranges of symbols that do not overlap, each with all its targets."""
    by_range: dict[tuple[int, int], set[int]] = {}
    for state in states:
        for low, high, target in nfa.edges[state]:
            by_range.setdefault((low, high), set()).add(target)
    if len(by_range) == 1:
        ((low, high), targets), *_ = by_range.items()
        return [(low, high, frozenset(targets))]
    cuts = sorted({cut for low, high in by_range for cut in (low, high + 1)})
    place = {cut: index for index, cut in enumerate(cuts)}
    gathered: list[set[int]] = [set() for _ in cuts]
    for (low, high), targets in by_range.items():
        for index in range(place[low], place[high + 1]):
            gathered[index] |= targets
    return [
        (cuts[index], cuts[index + 1] - 1, frozenset(targets))
        for index, targets in enumerate(gathered)
        if targets
    ]


def _classes(rows: Sequence[Row], num_symbols: int) -> tuple[npt.NDArray[np.intp], list[int]]:
    """Class of each symbol, and the first symbol of each class: symbols that no row tells apart are one."""
    cuts = {0, 256} | {cut for row in rows for low, high, _ in row for cut in (low, high + 1)}
    firsts = sorted(cut for cut in cuts if cut < num_symbols)
    if len(firsts) > 256:
        raise BeyondAutomaton("it tells too many control tokens apart", fix="use fewer of them")
    return np.searchsorted(np.array(firsts), np.arange(num_symbols), side="right") - 1, firsts


Edges = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]  # sources and targets


def _all_edges(table_SC: npt.NDArray[np.int32]) -> Edges:
    num_rows, num_classes = table_SC.shape
    sources = np.repeat(np.arange(num_rows, dtype=np.int32), num_classes)
    return sources, table_SC.reshape(-1)


def _unit_edges(
    table_SC: npt.NDArray[np.int32],
    class_of: npt.NDArray[np.intp],
    units: Sequence[bytes],
    num_controls: int,
) -> Edges:
    """Steps by whole units of the vocabulary and by control tokens."""
    columns = {int(class_of[unit[0]]) for unit in units if len(unit) == 1}
    columns |= {int(class_of[256 + index]) for index in range(num_controls)}
    targets = [table_SC[:, column] for column in sorted(columns)]
    for unit in units:
        if len(unit) > 1:
            states = np.arange(len(table_SC), dtype=np.int32)
            for byte in unit:
                states = table_SC[states, class_of[byte]]
            targets.append(states)
    everyone = np.arange(len(table_SC), dtype=np.int32)
    if not targets:
        return everyone[:0], everyone[:0]
    return np.tile(everyone, len(targets)), np.concatenate(targets)


def _costs(
    goal_S: npt.NDArray[np.bool_], sources: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """int32 (S + 1,): the fewest edges from each state to a goal, backwards level by level; `NEVER` without any."""
    useful = targets < len(goal_S) - 1
    sources, targets = sources[useful], targets[useful]
    order = np.argsort(targets, kind="stable")
    sources, targets = sources[order], targets[order]
    starts = np.searchsorted(targets, np.arange(len(goal_S) + 1))
    cost_S = np.where(goal_S, 0, NEVER).astype(np.int32)
    frontier, level = np.flatnonzero(goal_S), 0
    while len(frontier):
        level += 1
        before = np.concatenate([sources[starts[state] : starts[state + 1]] for state in frontier.tolist()])
        frontier = np.unique(before[cost_S[before] == NEVER])
        cost_S[frontier] = level
    return cost_S
