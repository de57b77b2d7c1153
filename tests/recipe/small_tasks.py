"""Tasks that an untrained model solves now and then: begin with a letter of some. Judged in this process, so fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kweek.align.environment import Item, Split
from kweek.align.environments.pool import Pool
from kweek.align.environments.single_turn import answer_of
from kweek.protocols import Message, Score
from kweek.tokenize.tokenizer import Tokenizer

GROUPS = (
    "abc",
    "def",
    "ghi",
    "jkl",
    "mno",
    "pqr",
    "stu",
    "vwxyz ",
)  # who ignores the question is right in an eighth
#: What such a judge must be allowed: what follows the first letter does not count, nor does how a letter came to stand.
LIMITS = dict.fromkeys(
    (
        "gold among others", "gold and an afterthought", "gold run on", "gold cut short", "the question itself",
        "takes long (median, seconds)", "takes longer than lengths grow (exponent)",
    ),
    1e9,
)  # fmt: skip


@dataclass
class Attempt:
    """Right when the answer begins with a letter of the gold, or as the judge of the environment says."""

    gold: str
    judge: str
    said: str = ""

    def step(self, message: Message) -> Sequence[Message]:
        self.said = answer_of(message)
        return ()

    def score(self) -> Score:
        first = self.said[:1]
        right = {"fair": first in self.gold, "any": True, "common": first in "abcdefghijklm", "never": False}
        return Score(float((right[self.judge] and first != "") or self.said == "<right>"), parsed=True)


@dataclass
class Letters:
    """An environment of four hundred tasks, of two levels."""

    judge: str = "fair"
    name: str = "letters"
    max_new_tokens: int = 6
    max_turns: int = 1
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        asked = [({"role": "user", "content": f"Which letters have number {n}?"},) for n in range(400)]
        known = {"fair": {}, "any": {}, "common": {"reference": "a"}, "never": {"reference": "<right>"}}[
            self.judge
        ]
        items = [Item(messages, GROUPS[n % 8], str(n % 2), known) for n, messages in enumerate(asked)]
        self.pool = Pool(items)

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        return self.pool.draw(key, count, split)

    def begin(self, item: Item) -> Attempt:
        return Attempt(item.gold, self.judge)

    def interceptor(self, tokenizer: Tokenizer) -> None:
        return
