"""The own provider: masks of an automaton's states, each computed when it is first met and kept.

Legend: V vocabulary, N nodes of the prefix tree, S states.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kweek.engine.constraints.automaton import Automaton
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

    def start(self) -> Constraint:
        """A fresh constraint, at the beginning of a text."""
        return AutomatonConstraint(self)

    def mask(self, state: int) -> npt.NDArray[np.bool_]:
        """(V,) read-only: the tokens that may follow in a state."""
        found = self._masks.get(state)
        if found is None:
            if len(self._masks) * len(self.vocabulary) > _CACHE_BYTES:
                self._masks.clear()
            found = self._masks[state] = self._compute(state)
        return found

    def _compute(self, state: int) -> npt.NDArray[np.bool_]:
        """Walk the whole prefix tree at once, one step of arrays per level."""
        automaton, tree = self.automaton, self.vocabulary.tree
        columns_N = automaton.class_of[tree.byte_N]
        states_N = np.empty(len(columns_N), dtype=np.int32)
        states_N[0] = state
        for first, past in tree.levels:
            states_N[first:past] = automaton.table_SC[
                states_N[tree.parent_N[first:past]], columns_N[first:past]
            ]
        mask_V = np.zeros(len(self.vocabulary), dtype=np.bool_)
        mask_V[tree.ids] = automaton.live_S[states_N[tree.nodes]]
        for symbol, index in enumerate(automaton.controls, start=256):
            mask_V[index] = automaton.live_S[automaton.table_SC[state, automaton.class_of[symbol]]]
        mask_V[self._eos] |= automaton.accepting_S[state]
        mask_V.setflags(write=False)
        return mask_V

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
    """The state of one generation under an `AutomatonGrammar`."""

    def __init__(self, grammar: AutomatonGrammar) -> None:
        self._grammar, self._state, self._ended = grammar, 0, False

    def allowed(self) -> npt.NDArray[np.bool_]:
        """See `kweek.protocols.Constraint`."""
        return self._grammar.vocabulary.end_mask if self._ended else self._grammar.mask(self._state)

    def advance(self, token_id: int) -> None:
        """See `kweek.protocols.Constraint`.

        Raises:
            GrammarError: the token was not allowed; the state stays.
        """
        automaton, vocabulary = self._grammar.automaton, self._grammar.vocabulary
        if 0 <= token_id < len(vocabulary):
            if token_id in vocabulary.eos_ids and (self._ended or automaton.accepting_S[self._state]):
                self._ended = True
                return
            following = self._grammar.following(self._state, token_id)
            if not self._ended and automaton.live_S[following]:
                self._state = following
                return
        raise GrammarError(f"token {token_id} is not allowed here")
