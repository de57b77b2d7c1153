"""A person judges many pairs, one after the other: which comes next, what is shown again, and what it amounts to.

Everything follows from the records: a session that was left or killed goes on where it was, and the last judgement can
be taken back. Some pairs come again, the other way round, to see whether the person agrees with themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from kweek.data.chats import Messages
from kweek.stats.intervals import Interval, wilson
from kweek.store.records import Records
from kweek.system.blind import Choice, Coin, Pair, Tally, count, keep, pairs_of, toss

REPEAT_SHARE = 0.1  # ten of 110 judgements are second ones: they tell agreement of 90% from 60%
DISTANCE = 5  # judgements between a pair and its return, so that it is judged and not remembered
AHEAD = 8  # pairs answered at once: enough for the engine to work in batches, few enough to begin soon

Answers = Mapping[str, Messages]
Answer = Callable[[Sequence[Messages]], list[Answers]]
Judged = Mapping[str, Any]


@dataclass(frozen=True)
class Contest:
    """A prompt to be judged on, with the answers by name where they are already there."""

    prompt: Messages
    answers: Answers | None = None

    @property
    def item(self) -> str:
        """Hash of the prompt and the answers that came with it."""
        whole = json.dumps([self.prompt, self.answers], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(whole.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class Summary:
    """What judgements amount to.

    Attributes:
        tally: who won how often, with the interval of the first name's share.
        skipped: pairs passed over.
        agreement: share of pairs shown again that were judged as before, ties included; None without any.
        num_repeats: pairs shown again.
        median_seconds: from the pair on the screen to the key; None without any.
        first: how often the answer shown first was preferred, among decided pairs; None without any.
        position_p: p-value of the exact binomial test that the place does not matter; None without any.
    """

    tally: Tally
    skipped: int
    agreement: Interval | None
    num_repeats: int
    median_seconds: float | None
    first: Interval | None
    position_p: float | None


class Labels:
    """The pairs of two names, in an order that depends on their content only.

    Args:
        names: of the two sides.
        contests: what to judge; the same one twice counts once.
        records: where judgements are kept; those of these names already there count as done.
        answer: makes the answers of contests that have none.
        coin: true shows the first name first.
    """

    def __init__(
        self,
        names: tuple[str, str],
        contests: Sequence[Contest],
        records: Records,
        answer: Answer | None = None,
        coin: Coin = toss,
    ) -> None:
        by_item = {contest.item: contest for contest in contests}
        self.names, self._records, self._answer, self._coin = names, records, answer, coin
        self._contests = dict(
            sorted(by_item.items(), key=lambda entry: hashlib.sha256(entry[0].encode()).digest())
        )
        self._answers: dict[str, Answers] = {}
        self._number = max((r.get("number", 0) for r in Records.read(records.path)), default=0)

    @property
    def num_pairs(self) -> int:
        """All there are."""
        return len(self._contests)

    @property
    def num_done(self) -> int:
        """Those that have been judged or passed over, or are the same."""
        return len({r["item"] for r in self._judged()} & set(self._contests))

    def next(self) -> Pair | None:
        """The pair to show; None when all are judged. Pairs of equal answers are kept on the way, unasked.

        Raises:
            KweekError: an answer could not be made.
        """
        while True:
            judged = self._judged()
            if (again := self._again(judged)) is not None:
                return again
            done = {record["item"] for record in judged}
            waiting = [item for item in self._contests if item not in done]
            if not waiting:
                return None
            item = waiting[0]
            self._fill(waiting)
            order = self.names if self._coin() else (self.names[1], self.names[0])
            pair = Pair(self._contests[item].prompt, self._answers[item], order, item)
            if not pair.same:
                return pair
            self.judge(pair, "tie", None)

    def judge(self, pair: Pair, choice: Choice, seconds: float | None) -> None:
        """Keep what was said of a pair, and how long it took."""
        self._number += 1
        taken = None if seconds is None else round(seconds, 2)
        keep(self._records, pair, choice, seconds=taken, number=self._number)

    def undo(self) -> bool:
        """Take the last judgement back, so that its pair comes next; false when there is none."""
        asked = [record for record in self._judged() if not record["same"]]
        if not asked:
            return False
        last = asked[-1]
        self._records.rewind(lambda record: record != last)
        return True

    def summary(self) -> Summary:
        """Of everything on record for these names."""
        judged = self._judged()
        tally = count(self.names, judged)
        repeated = [r for r in judged if r.get("repeat") and r["choice"] != "skip"]
        before = {r["item"]: r["winner"] for r in judged if not r.get("repeat")}
        agreed = sum(before.get(r["item"]) == r["winner"] for r in repeated)
        seconds = [r["seconds"] for r in judged if r.get("seconds") is not None and r["choice"] != "skip"]
        decided = [r for r in judged if r["winner"] is not None]
        first = sum(r["winner"] == r["order"][0] for r in decided)
        return Summary(
            tally,
            sum(r["choice"] == "skip" and not r.get("repeat") for r in judged),
            wilson(agreed, len(repeated)) if repeated else None,
            len(repeated),
            float(np.median(seconds)) if seconds else None,
            wilson(first, len(decided)) if decided else None,
            float(stats.binomtest(first, len(decided)).pvalue) if decided else None,
        )

    def _judged(self) -> list[Judged]:
        return pairs_of(self.names, Records.read(self._records.path))

    def _again(self, judged: Sequence[Judged]) -> Pair | None:
        """A pair judged a while ago, the other way round, when it is time for one."""
        fresh = [r for r in judged if not r.get("repeat") and not r["same"] and r["choice"] != "skip"]
        repeated = {r["item"] for r in judged if r.get("repeat")}
        if len(repeated) >= int(len(fresh) * REPEAT_SHARE):
            return None
        old = [r for r in fresh[:-DISTANCE] if r["item"] not in repeated and r["item"] in self._contests]
        if not old:
            return None
        record = old[0]
        order = (record["order"][1], record["order"][0])
        return Pair(tuple(record["prompt"]), _answers_of(record), order, record["item"], repeat=True)

    def _fill(self, waiting: Sequence[str]) -> None:
        """Make sure that the first of the waiting contests has its answers."""
        if waiting[0] in self._answers:
            return
        batch = list(waiting[:AHEAD])
        missing = [item for item in batch if self._contests[item].answers is None]
        if missing:
            assert self._answer is not None
            made = self._answer([self._contests[item].prompt for item in missing])
            self._answers.update(zip(missing, made, strict=True))
        for item in batch:
            answers = self._contests[item].answers
            if answers is not None:
                self._answers[item] = answers


def _answers_of(record: Judged) -> Answers:
    """The answers of a kept pair by name; of a tie only their text is on record."""
    if record["winner"] is None:
        return {name: ({"role": "assistant", "content": text},) for name, text in record["answers"].items()}
    loser = next(name for name in record["order"] if name != record["winner"])
    return {record["winner"]: tuple(record["chosen"]), loser: tuple(record["rejected"])}
