"""A game of several turns: guess a number, be told higher or lower, and find it in time.

The number follows from the range that is asked about, so an item is its question and splits by content hold. Whoever
halves the range finds it; whoever repeats a guess, or says many at once, does not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kweek.align.environment import Episode, Item, Split
from kweek.align.environments.pool import split_of
from kweek.align.environments.single_turn import answer_of
from kweek.data.packing import keyed_generator
from kweek.errors import ConfigError
from kweek.protocols import Message, Score, TokenInterceptor
from kweek.tokenize.tokenizer import Tokenizer

_GUESS = re.compile(r"-?[0-9]{1,9}")
_MAX_START = 900  # of a range: numbers of three digits
_MAX_DRAWS = 100_000


@dataclass(frozen=True)
class Guessing:
    """Ranges of several sizes, each with as many guesses as halving needs.

    Attributes:
        sizes: how many numbers a range may hold; by default 16 and more, so that luck stays below a third.
    """

    sizes: tuple[int, ...] = (16, 32, 64)
    name: str = "guessing"
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 2 or max(self.sizes) > _MAX_START:
            raise ConfigError(
                f"ranges of {self.sizes} numbers cannot be meant", fix=f"give sizes from 2 to {_MAX_START}"
            )

    @property
    def max_turns(self) -> int:
        """Guesses that the largest range needs."""
        return max(map(num_guesses, self.sizes))

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Different ranges of one split, a pure function of the key; fewer where there are not so many."""
        found: dict[str, Item] = {}
        draw = keyed_generator("guessing", key, split)
        for _ in range(_MAX_DRAWS):
            if len(found) == count:
                break
            size = int(draw.choice(self.sizes))
            item = game(int(draw.integers(0, _MAX_START)), size)
            if split_of(item) == split:
                found.setdefault(item.id, item)
        return list(found.values())

    def begin(self, item: Item) -> Episode:
        """A fresh game."""
        return _Game(item)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """None: nobody helps."""
        return None


def num_guesses(size: int) -> int:
    """Guesses with which halving always finds one of so many numbers: those of binary search."""
    return size.bit_length()


def game(start: int, size: int) -> Item:
    """The game about `size` numbers from `start` on."""
    last = start + size - 1
    digest = hashlib.sha256(f"guessing\x1f{start}\x1f{last}".encode()).digest()
    secret = start + int.from_bytes(digest[:8], "big") % size
    text = (
        f"I have thought of a whole number from {start} to {last}. Guess it: say one number, nothing else, and I "
        f"tell you whether mine is higher or lower. You have {num_guesses(size)} guesses."
    )
    data = {"start": start, "last": last, "guesses": num_guesses(size)}
    return Item(({"role": "user", "content": text},), str(secret), str(size), data)


class _Game:
    def __init__(self, item: Item) -> None:
        self._secret, self._left = int(item.gold), int(item.data["guesses"])
        self._range = f"{item.data['start']} to {item.data['last']}"
        self._guesses = self._unreadable = 0
        self._found = False

    def step(self, message: Message) -> Sequence[Message]:
        """Take a guess; what is no number costs one too."""
        if self._found or not self._left:
            return ()
        self._left -= 1
        self._guesses += 1
        text = answer_of(message)
        if _GUESS.fullmatch(text) is None:
            self._unreadable += 1
            said = f"That is not one whole number from {self._range}."
        else:
            guess = int(text)
            self._found = guess == self._secret
            said = "Higher." if guess < self._secret else "Lower."
        return () if self._found or not self._left else ({"role": "user", "content": said},)

    def score(self) -> Score:
        """1 when the number was found. Parts: guesses made, and those that were no number."""
        parts = {"guesses": float(self._guesses), "unreadable": float(self._unreadable)}
        return Score(float(self._found), parsed=self._unreadable < self._guesses, parts=parts)
