"""The own provider: masks of an automaton's states, each computed when it is first met and kept.

Legend: V vocabulary, N nodes of the prefix tree, S states.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kweek.engine.constraints.automaton import NEVER, Automaton
from kweek.engine.constraints.limits import GrammarError
from kweek.engine.constraints.vocabulary import Vocabulary
from kweek.protocols import Constraint

_CACHE_BYTES = 64 << 20  # all 20,000 states at V 3,000; at V 50,000 the last 1,300


class AutomatonGrammar:
    """A grammar that an automaton decides.

    Attributes:
        provider: "own".
        vocabulary: as given.
        automaton: as given.
    """

    provider = "own"

    def __init__(self, vocabulary: Vocabulary, automaton: Automaton) -> None:
        self.vocabulary, self.automaton = vocabulary, automaton
        self._masks: dict[int, npt.NDArray[np.bool_]] = {}
        self._eos = list(vocabulary.eos_ids)
        self._columns_N = automaton.class_of[vocabulary.tree.byte_N]
        finite = automaton.cost_S[automaton.cost_S < NEVER]
        self.highest_cost = int(finite.max())

    def start(self, max_tokens: int | None = None) -> Constraint:
        """See `Grammar.start`."""
        if max_tokens is not None and max_tokens < self.automaton.cost_S[0] + 1:
            raise GrammarError(
                f"{max_tokens} tokens may not be enough for any text; {self.automaton.cost_S[0] + 1} are",
                fix="allow more tokens",
            )
        return AutomatonConstraint(self, max_tokens)

    def mask(self, state: int) -> npt.NDArray[np.bool_]:
        """(V,) read-only: the tokens that may follow in a state."""
        found = self._masks.get(state)
        if found is None:
            if len(self._masks) * len(self.vocabulary) > _CACHE_BYTES:
                self._masks.clear()
            found = self._masks[state] = self.mask_within(state, NEVER - 1)
        return found

    def mask_within(self, state: int, most: int) -> npt.NDArray[np.bool_]:
        """(V,) read-only: the tokens that may follow where at most that many may follow them, the end not counted."""
        automaton, tree = self.automaton, self.vocabulary.tree
        mask_V = np.zeros(len(self.vocabulary), dtype=np.bool_)
        mask_V[tree.ids] = automaton.cost_S[self._walk(state)[tree.nodes]] <= most
        for symbol, index in enumerate(automaton.controls, start=256):
            mask_V[index] = automaton.cost_S[automaton.table_SC[state, automaton.class_of[symbol]]] <= most
        mask_V[self._eos] |= automaton.accepting_S[state]
        mask_V.setflags(write=False)
        return mask_V

    def _walk(self, state: int) -> npt.NDArray[np.int32]:
        """(N,) the states after every beginning of a token: a level at a time, below what is not dead."""
        automaton, tree, columns_N = self.automaton, self.vocabulary.tree, self._columns_N
        dead = automaton.num_states
        states_N = np.full(len(columns_N), dead, dtype=np.int32)
        states_N[0] = state
        alive = np.zeros(1, dtype=np.intp)
        for first, past in tree.levels:
            counts = tree.past_N[alive] - tree.first_N[alive]
            if (
                2 * int(counts.sum()) > past - first
            ):  # most of the level: taking all of it costs less than choosing
                nodes = np.arange(first, past)
            else:
                ends = np.cumsum(counts)
                nodes = np.repeat(tree.past_N[alive] - ends, counts) + np.arange(ends[-1])
            found = automaton.table_SC[states_N[tree.parent_N[nodes]], columns_N[nodes]]
            states_N[nodes] = found
            alive = nodes[found != dead]
            if not len(alive):
                break
        return states_N

    def following(self, state: int, token_id: int) -> int:
        """The state after a token that is not the end of the text; the dead state when it is not allowed."""
        automaton = self.automaton
        if token_id in automaton.controls:
            symbol = 256 + automaton.controls.index(token_id)
            return int(automaton.table_SC[state, automaton.class_of[symbol]])
        if not self.vocabulary.spoken[token_id]:
            return automaton.num_states
        return automaton.step(state, self.vocabulary.tokens[token_id])


class AutomatonConstraint:
    """The state of one generation under an `AutomatonGrammar`.

    Args:
        grammar: the grammar.
        left: tokens that may still come, the end of the text counted; None is without end.
    """

    def __init__(self, grammar: AutomatonGrammar, left: int | None) -> None:
        self._grammar, self._left, self._state, self._ended = grammar, left, 0, False
        self._mask: npt.NDArray[np.bool_] | None = None

    def allowed(self) -> npt.NDArray[np.bool_]:
        """See `kweek.protocols.Constraint`."""
        if self._mask is None:
            grammar = self._grammar
            if self._ended:
                self._mask = grammar.vocabulary.end_mask
            elif self._left is None or self._left - 2 >= grammar.highest_cost:
                self._mask = grammar.mask(self._state)
            else:  # this token and the end are two of those left
                self._mask = grammar.mask_within(self._state, self._left - 2)
        return self._mask

    def advance(self, token_id: int) -> None:
        """See `kweek.protocols.Constraint`.

        Raises:
            GrammarError: the token was not allowed; the state stays.
        """
        vocabulary = self._grammar.vocabulary
        if not (0 <= token_id < len(vocabulary) and self.allowed()[token_id]):
            raise GrammarError(f"token {token_id} is not allowed here")
        if self._ended:
            return
        # A control token may both end a text and stand inside a form; where the text may end, it ends it.
        if token_id in vocabulary.eos_ids and self._grammar.automaton.accepting_S[self._state]:
            self._ended = True
        else:
            self._state = self._grammar.following(self._state, token_id)
        self._left = None if self._left is None else self._left - 1
        self._mask = None
