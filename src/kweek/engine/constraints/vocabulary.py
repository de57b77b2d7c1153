"""The vocabulary as a grammar sees it: the bytes of every token, laid out so that all of them are walked at once.

Legend: V vocabulary, N nodes of the prefix tree.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kweek.engine.constraints.library import tokenizer_of
from kweek.engine.constraints.limits import GrammarError
from kweek.engine.constraints.workers import Workers

if TYPE_CHECKING:
    from kweek.tokenize.tokenizer import Tokenizer


class Vocabulary:
    """Bytes of all tokens, which of them end a text, and which stand for no text.

    Made once per tokenizer. What grammars are compiled with (worker processes, the tables of llguidance) belongs to it
    and ends with it.

    Args:
        tokens: bytes by id; empty for ids that nothing stands for. Its length is the V of masks.
        eos_ids: tokens that end a text, allowed exactly where a grammar lets the text end.
        control_ids: tokens that stand for no text. No grammar allows them, except a tool form that names one.
        control_names: the names by which a tool form may name control tokens.

    Raises:
        GrammarError: there is no token that ends a text, or an id out of range.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        eos_ids: Iterable[int],
        control_ids: Iterable[int] = (),
        control_names: Mapping[str, int] | None = None,
    ) -> None:
        self.eos_ids = frozenset(eos_ids)
        self.control_names = dict(control_names or {})
        self.control_ids = frozenset(control_ids) | self.eos_ids | frozenset(self.control_names.values())
        if not self.eos_ids:
            raise GrammarError("no token ends a text", fix="name the end-of-text token of the tokenizer")
        if not all(0 <= index < len(tokens) for index in self.control_ids):
            raise GrammarError(f"a control token is not among the {len(tokens)} tokens")
        self.tokens = tuple(tokens)
        self.workers = Workers(self)

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int | None = None) -> Vocabulary:
        """The vocabulary of a tokenizer; text may end with any of its `stop_ids`.

        Args:
            tokenizer: of the model.
            size: V of the model's logits, where that is more than the tokenizer's; ids above are never allowed.

        Raises:
            GrammarError: the model has fewer logits than the tokenizer has tokens.
        """
        num_ids = tokenizer.vocab_size if size is None else size
        if num_ids < tokenizer.vocab_size:
            raise GrammarError(f"{tokenizer.vocab_size} tokens, but the model has {num_ids} logits")
        pieces = [tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)]
        pieces += [b""] * (num_ids - len(pieces))
        names = dict(tokenizer.special)
        return cls(pieces, tokenizer.stop_ids, names.values(), names)

    def __len__(self) -> int:
        return len(self.tokens)

    @functools.cached_property
    def spoken(self) -> npt.NDArray[np.bool_]:
        """(V,) which tokens stand for text."""
        found = np.array([bool(piece) for piece in self.tokens])
        found[list(self.control_ids)] = False
        return found

    @functools.cached_property
    def end_mask(self) -> npt.NDArray[np.bool_]:
        """(V,) read-only: nothing but the ends of text, what may follow when a text has ended."""
        found = np.zeros(len(self), dtype=np.bool_)
        found[list(self.eos_ids)] = True
        found.setflags(write=False)
        return found

    @functools.cached_property
    def twins(self) -> dict[int, int]:
        """Tokens whose bytes a later token has too, to the last of these; llguidance knows that one only."""
        last = {self.tokens[index]: index for index in np.flatnonzero(self.spoken).tolist()}
        return {
            index: last[self.tokens[index]]
            for index in np.flatnonzero(self.spoken).tolist()
            if last[self.tokens[index]] != index
        }

    @functools.cached_property
    def units(self) -> tuple[bytes, ...]:
        """Tokens that are no row of shorter ones: every text of tokens is a text of these.

        With a token for each byte they are the single bytes. They decide exactly whether a text that has begun can be
        finished with this vocabulary.
        """
        pieces = {self.tokens[index] for index in np.flatnonzero(self.spoken)}
        bytes_present = {piece for piece in pieces if len(piece) == 1}
        units = set(bytes_present)
        for piece in sorted(pieces, key=len):
            if all(piece[i : i + 1] in bytes_present for i in range(len(piece))):
                continue
            reachable = [True] + [False] * len(piece)
            for end in range(1, len(piece) + 1):
                reachable[end] = any(reachable[start] and piece[start:end] in units for start in range(end))
            if not reachable[-1]:
                units.add(piece)
        return tuple(sorted(units))

    @functools.cached_property
    def guidance(self) -> Any:
        """llguidance's own tables.

        Raises:
            GrammarError: the extra is not installed.
        """
        return tokenizer_of(self)

    @functools.cached_property
    def tree(self) -> PrefixTree:
        """The prefix tree of all tokens that stand for text."""
        return PrefixTree(self.tokens, np.flatnonzero(self.spoken).tolist())

    def split(self, text: str) -> list[bytes | int]:
        """A text of a trusted template in pieces: control tokens where it spells their names, else bytes."""
        names = sorted(self.control_names, key=len, reverse=True)
        pieces: list[bytes | int] = []
        run, place = "", 0
        while place < len(text):
            name = next((name for name in names if name and text.startswith(name, place)), None)
            if name is None:
                run += text[place]
                place += 1
                continue
            pieces += [run.encode(), self.control_names[name]] if run else [self.control_names[name]]
            run, place = "", place + len(name)
        return [*pieces, run.encode()] if run else pieces


class PrefixTree:
    """All beginnings of tokens, level by level and in order within each, so that children lie together.

    Args:
        tokens: bytes by id.
        ids: of the tokens to hold, none of them empty.

    Attributes:
        ids: as given, in the order of their bytes.
        nodes: node of each of them.
        byte_N: last byte of each beginning; the root is node 0 with byte 0.
        parent_N: the beginning without it.
        first_N, past_N: the first of the beginnings that are one byte longer, and one past the last.
        levels: first and one past the last node of each level below the root.
    """

    def __init__(self, tokens: Sequence[bytes], ids: Iterable[int]) -> None:
        ordered = sorted(ids, key=lambda index: tokens[index])
        nodes = dict.fromkeys(ordered, 0)
        parents, last_bytes = [0], [0]
        self.levels: list[tuple[int, int]] = []
        pending, depth = ordered, 0
        while pending:
            start, last = len(parents), (-1, -1)
            for index in pending:
                key = (nodes[index], tokens[index][depth])
                if key != last:
                    parents.append(key[0])
                    last_bytes.append(key[1])
                    last = key
                nodes[index] = len(parents) - 1
            self.levels.append((start, len(parents)))
            depth += 1
            pending = [index for index in pending if len(tokens[index]) > depth]
        self.ids = np.array(ordered, dtype=np.intp)
        self.nodes = np.array([nodes[index] for index in ordered], dtype=np.intp)
        self.byte_N = np.array(last_bytes, dtype=np.uint8)
        self.parent_N = np.array(parents, dtype=np.intp)
        everyone = np.arange(len(parents))
        self.first_N = np.searchsorted(self.parent_N[1:], everyone, side="left") + 1
        self.past_N = np.searchsorted(self.parent_N[1:], everyone, side="right") + 1
