"""Grammars under which a model cannot write a call that is not valid: one call, or text with calls in it.

Within text everything is free up to the mark that opens a call; from there on the grammar of the tools decides, up to
and including the mark that closes it. So a call of a tool that there is not, or with arguments that its schema does not
allow, cannot be generated; calls are valid before anything is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kweek.engine.constraints import Grammar, GrammarError, ToolForm, Vocabulary, compile_tools
from kweek.protocols import Constraint
from kweek.system.tools.calls import CLOSING, OPENING

#: A call with its marks, and the part of it that follows the mark.
FORM = ToolForm(prefix=f"{OPENING}\n", suffix=f"\n{CLOSING}")
_AFTER_OPENING = ToolForm(prefix="\n", suffix=f"\n{CLOSING}")
_MARK = OPENING.encode()

Described = Sequence[Mapping[str, Any]]


def call_grammar(tools: Described, vocabulary: Vocabulary) -> Grammar:
    """Exactly one call of one of the tools, and nothing else.

    Args:
        tools: as `described` gives them.
        vocabulary: of the model.

    Raises:
        GrammarError: no tools, or a schema that grammars do not cover.
    """
    return compile_tools(tools, vocabulary, form=FORM)


class TextWithCalls:
    """A `Grammar` of free text in which every call is valid.

    Args:
        tools: as `described` gives them.
        vocabulary: of the model.

    Raises:
        GrammarError: as `call_grammar`.
    """

    def __init__(self, tools: Described, vocabulary: Vocabulary) -> None:
        self._call = compile_tools(tools, vocabulary, form=_AFTER_OPENING)
        self.vocabulary = vocabulary
        self.mark_id = vocabulary.control_names.get(OPENING)
        self._masks: dict[int, npt.NDArray[np.bool_]] = {}

    @property
    def provider(self) -> str:
        """Who decides within calls."""
        return self._call.provider

    def start(self, max_tokens: int | None = None) -> Constraint:
        """See `Grammar.start`.

        Raises:
            GrammarError: a bound on tokens is asked for; text has none.
        """
        if max_tokens is not None:
            raise GrammarError("free text has no bound on its tokens", fix="bound the request instead")
        return _Writing(self)

    def start_call(self) -> Constraint:
        """What may follow the opening mark."""
        return self._call.start()

    def mask(self, num_begun: int) -> npt.NDArray[np.bool_]:
        """(V,) read-only: the tokens that may follow text that ends with so many bytes of the mark.

        All but those that go on past the mark: what follows it is for the grammar of calls.
        """
        if num_begun not in self._masks:
            self._masks[num_begun] = self._masked(num_begun)
        return self._masks[num_begun]

    def _masked(self, num_begun: int) -> npt.NDArray[np.bool_]:
        vocabulary = self.vocabulary
        mask_V = vocabulary.spoken.copy()
        mask_V[list(vocabulary.control_ids)] = True
        begun = _MARK[:num_begun]
        last = _MARK[-1:]
        for index in np.flatnonzero(vocabulary.spoken).tolist():
            piece = vocabulary.tokens[index]
            if last in piece[:-1] and 0 <= (begun + piece).find(_MARK) < len(begun + piece) - len(_MARK):
                mask_V[index] = False
        mask_V.setflags(write=False)
        return mask_V


class _Writing:
    """The state of one generation under `TextWithCalls`."""

    def __init__(self, grammar: TextWithCalls) -> None:
        self._grammar = grammar
        self._num_begun = 0
        self._call: Constraint | None = None
        self._ended = False

    def allowed(self) -> npt.NDArray[np.bool_]:
        """See `kweek.protocols.Constraint`."""
        if self._ended:
            return self._grammar.vocabulary.end_mask
        return self._grammar.mask(self._num_begun) if self._call is None else self._call.allowed()

    def advance(self, token_id: int) -> None:
        """See `kweek.protocols.Constraint`.

        Raises:
            GrammarError: the token was not allowed; the state stays.
        """
        vocabulary = self._grammar.vocabulary
        if self._call is not None:
            self._call.advance(token_id)
            if np.array_equal(
                self._call.allowed(), vocabulary.end_mask
            ):  # nothing but an end: the call is whole
                self._call = None
            return
        if not (0 <= token_id < len(vocabulary) and self.allowed()[token_id]):
            raise GrammarError(f"token {token_id} is not allowed here")
        if token_id == self._grammar.mark_id:
            self._num_begun = len(_MARK)
        elif token_id in vocabulary.eos_ids:
            self._ended = True
        elif token_id in vocabulary.control_ids:
            self._num_begun = 0
        else:
            self._num_begun = _num_begun(_MARK[: self._num_begun] + vocabulary.tokens[token_id])
        if self._num_begun == len(_MARK):
            self._call, self._num_begun = self._grammar.start_call(), 0


def _num_begun(text: bytes) -> int:
    """Length of the longest end of a text that begins the mark."""
    return next(n for n in range(min(len(text), len(_MARK)), -1, -1) if text.endswith(_MARK[:n]))
