"""The provider llguidance (Microsoft, MIT): Earley parsing over lazily built lexers, so it needs no table of states.

Legend: V vocabulary.

An extra: `pip install 'kweek[grammar]'`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from kweek.engine.constraints.library import library
from kweek.engine.constraints.limits import GrammarError, Limits
from kweek.engine.constraints.vocabulary import Vocabulary
from kweek.protocols import Constraint

#: Options for JSON, equal to the own provider's layout; see `kweek.engine.constraints.schema`.
SCHEMA_OPTIONS: dict[str, Any] = {
    "whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?", "coerce_one_of": False,
    "lenient": False,
}  # fmt: skip
_TRIALS, _TRIAL_TOKENS = 2, 48  # random texts that a grammar must survive; costs 2 to 10 ms
#: llguidance's own are 250,000 states of 1 to 2 kB and 200,000 steps of a lexer; these keep a grammar below 100 MB.
_LIMITS = {
    "max_lexer_states": 50_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "verbose_errors": False,
}


def regex_grammar(expression: str) -> str:
    """llguidance's form of a whole text under a Rust regular expression without slashes."""
    return lark_grammar(f"start: /{expression}/")


def schema_grammar(schema: Any) -> str:
    """llguidance's form of a JSON Schema."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    return lark_grammar("start: @value", {"value": schema})


def lark_grammar(source: str, schemas: Mapping[str, Any] = MappingProxyType({})) -> str:
    """llguidance's form of a grammar in its variant of Lark.

    Args:
        source: the grammar.
        schemas: JSON Schemas that it refers to as @NAME.
    """
    # Where only one text can follow, llguidance would allow only the tokens that a tokenizer gives for it, not all that
    # spell it; which those are would depend on the tokenizer, so every spelling is allowed, as the automaton does.
    head = {"lark_grammar": source + '\n%llguidance {"no_forcing": true}'}
    parts = [
        {"name": name, "json_schema": {**schema, "x-guidance": SCHEMA_OPTIONS}}
        for name, schema in schemas.items()
    ]
    return json.dumps({"grammars": [head, *parts]})


class GuidanceGrammar:
    """A grammar that llguidance decides.

    Args:
        vocabulary: of the model.
        grammar: in llguidance's form.
        controls: control tokens that this grammar may say.

    Attributes:
        provider: "llguidance".
        spoken_V: (V,) tokens that it may say at all.
        eos: tokens that end a text.

    Raises:
        GrammarError: llguidance refuses it, or is not installed.
    """

    provider = "llguidance"

    def __init__(self, vocabulary: Vocabulary, grammar: str, controls: frozenset[int] = frozenset()) -> None:
        self.vocabulary, self.grammar = vocabulary, grammar
        self.spoken_V = vocabulary.spoken.copy()
        self.spoken_V[list(controls | vocabulary.eos_ids)] = True
        self.eos = list(vocabulary.eos_ids)
        limits = library().LLParserLimits(**_LIMITS)
        self._matcher = library().LLMatcher(vocabulary.guidance, grammar, log_level=0, limits=limits)
        check(self._matcher)

    def start(self, max_tokens: int | None = None) -> Constraint:
        """See `Grammar.start`."""
        if max_tokens is not None:
            raise GrammarError("llguidance does not know how far the end is", fix='use provider="own"')
        return GuidanceConstraint(self, self._matcher.deep_copy())

    def trial(self, limits: Limits) -> None:
        """Walk through random texts as a model would.

        Raises:
            GrammarError: a mask takes too long or too much, or is empty.
        """
        for seed in range(_TRIALS):
            constraint, random = self.start(), np.random.default_rng(seed)
            for _ in range(_TRIAL_TOKENS):
                before = time.perf_counter()
                choices = np.flatnonzero(constraint.allowed())
                if (taken := time.perf_counter() - before) > limits.mask_seconds:
                    raise GrammarError(
                        f"a mask takes {taken * 1000:.0f} ms, more than {limits.mask_seconds * 1000:.0f}",
                        fix="make the grammar less ambiguous or its repeats smaller",
                    )
                token_id = int(random.choice(choices))
                constraint.advance(token_id)
                if token_id in self.vocabulary.eos_ids:
                    break


def check(matcher: Any) -> None:
    """Turn a matcher's error, if it has one, into ours.

    Raises:
        GrammarError: the first line of what llguidance says.
    """
    if matcher.is_error():
        lines = [" ".join(line.split()) for line in matcher.get_error().splitlines() if line.strip()]
        if lines and lines[0].startswith("NoExtension"):  # it stopped before it began
            raise GrammarError("nothing satisfies it", fix="look for parts that exclude each other")
        raise GrammarError((lines[0] if lines else "llguidance refuses it")[:300].rstrip("."))


class GuidanceConstraint:
    """The state of one generation under a `GuidanceGrammar`."""

    def __init__(self, grammar: GuidanceGrammar, matcher: Any) -> None:
        self._grammar, self._matcher = grammar, matcher
        self._mask: npt.NDArray[np.bool_] | None = None
        self._ended = False

    def allowed(self) -> npt.NDArray[np.bool_]:
        """See `kweek.protocols.Constraint`.

        Raises:
            GrammarError: the step costs more than allowed, or this vocabulary cannot go on; this generation must end.
        """
        if self._mask is None:
            vocabulary = self._grammar.vocabulary
            packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            check(self._matcher)
            bits = np.unpackbits(packed, count=len(vocabulary), bitorder="little")
            self._mask = bits.view(np.bool_) & self._grammar.spoken_V
            # A rule may name an end of text like any token; it ends the text only where the text may end.
            self._mask[self._grammar.eos] = self._matcher.is_accepting()
            if vocabulary.twins:
                self._mask[list(vocabulary.twins)] = self._mask[list(vocabulary.twins.values())]
            if not self._mask.any():
                raise GrammarError(
                    "no token can follow what was written", fix="look for parts that exclude each other"
                )
        return self._mask

    def advance(self, token_id: int) -> None:
        """See `kweek.protocols.Constraint`.

        Raises:
            GrammarError: the token was not allowed; the state stays.
        """
        mask = self.allowed()
        if not (0 <= token_id < len(mask) and mask[token_id]):
            raise GrammarError(f"token {token_id} is not allowed here")
        if self._ended:
            return
        if token_id in self._grammar.vocabulary.eos_ids:
            self._ended, self._mask = True, self._grammar.vocabulary.end_mask
            return
        self._matcher.consume_token(self._grammar.vocabulary.twins.get(token_id, token_id))
        check(self._matcher)
        self._mask = None
