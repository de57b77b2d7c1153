"""A pattern as a graph of states with edges over byte ranges: Thompson's construction (1968)."""

from __future__ import annotations

from kweek.engine.constraints.limits import BeyondAutomaton
from kweek.engine.constraints.pattern import (
    Chain,
    Characters,
    Control,
    Either,
    Literal,
    Members,
    Pattern,
    Repeat,
)
from kweek.engine.constraints.utf8 import ByteSequence, byte_sequences

_STATES_PER_DFA_STATE = 10  # a bound on the graph itself; patterns in use need 2 to 3


class Nfa:
    """The graph of one pattern.

    Symbols 0 to 255 are bytes; 256 onwards the control tokens in `controls`.

    Args:
        pattern: what to accept.
        max_states: of the automaton to come; the graph may have ten times as many.

    Attributes:
        edges: for each state (first symbol, last symbol, target) of each edge.
        free: for each state the states reached without reading.
        start, end: the one state to begin in and the one that accepts.
        controls: ids of control tokens.

    Raises:
        BeyondAutomaton: it has more states.
    """

    def __init__(self, pattern: Pattern, max_states: int) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []
        self.free: list[list[int]] = []
        self.controls: list[int] = []
        self._most = max_states * _STATES_PER_DFA_STATE
        self.start = self._state()
        self.end = self._add(pattern, self.start)

    def _state(self) -> int:
        if len(self.edges) >= self._most:
            raise BeyondAutomaton(f"its graph has over {self._most:,} states", fix="make the grammar smaller")
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def _add(self, pattern: Pattern, start: int) -> int:
        """Lay the pattern out from `start`; its end."""
        match pattern:
            case Literal(data):
                for byte in data:
                    start = self._edge(start, byte, byte)
                return start
            case Control(token_id):
                if token_id not in self.controls:
                    self.controls.append(token_id)
                symbol = 256 + self.controls.index(token_id)
                return self._edge(start, symbol, symbol)
            case Characters(ranges):
                return self._characters(byte_sequences(ranges), start)
            case Chain(parts):
                for part in parts:
                    start = self._add(part, start)
                return start
            case Either(options):
                end = self._state()
                for option in options:
                    first = self._state()
                    self.free[start].append(first)
                    self.free[self._add(option, first)].append(end)
                return end
            case Repeat(part, low, high):
                return self._repeat(part, low, high, start)
            case Members(items, separator):
                return self._members(items, separator, start)

    def _edge(self, start: int, low: int, high: int) -> int:
        end = self._state()
        self.edges[start].append((low, high, end))
        return end

    def _characters(self, sequences: tuple[ByteSequence, ...], start: int) -> int:
        """Byte sequences that end alike share their ends."""
        end = self._state()
        tails: dict[ByteSequence, int] = {(): end}
        for whole in sequences:
            for place in range(len(whole) - 1, 0, -1):
                if whole[place:] not in tails:
                    tails[whole[place:]] = state = self._state()
                    self.edges[state].append((*whole[place], tails[whole[place + 1 :]]))
            self.edges[start].append((*whole[0], tails[whole[1:]]))
        return end

    def _repeat(self, part: Pattern, low: int, high: int | None, start: int) -> int:
        for _ in range(low):
            start = self._add(part, start)
        if high is None:
            loop = self._state()
            self.free[start].append(loop)
            self.free[self._add(part, loop)].append(loop)
            return loop
        end = self._state()
        for _ in range(high - low):
            self.free[start].append(end)
            start = self._add(part, start)
        self.free[start].append(end)
        return end

    def _members(self, items: tuple[tuple[Pattern, bool], ...], separator: Pattern, start: int) -> int:
        """Two lanes, nothing written yet and something written; every item is laid out once and entered from both."""
        nothing: int | None = start
        something = self._state()
        for item, required in items:
            entry = self._state()
            if nothing is not None:
                self.free[nothing].append(entry)
            self.free[self._add(separator, something)].append(entry)
            following = self._state()
            self.free[self._add(item, entry)].append(following)
            if required:
                nothing = None
            else:
                self.free[something].append(following)
            something = following
        end = self._state()
        self.free[something].append(end)
        if nothing is not None:
            self.free[nothing].append(end)
        return end
