"""Tasks of reasoning-gym 0.1.25 (Apache-2.0), with its known faults handled.

Its items are `Random(seed + index)`: item 1 of seed 42 is item 0 of seed 43, so that a test set of another seed is the
training set but for one item. Here a seed is the hash of task, split, key and number, and the split of an item is the
hash of its question: what is asked in one split is never asked in another. Some of its scorers raise on ordinary
answers, some pay any string; those of Kweek's own list are not used at all, the others run in a process of their own
and are audited like every verifier.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from kweek.align.environment import Episode, Item, Split
from kweek.align.environments.gym_tasks import TASKS, GymTask
from kweek.align.environments.pool import split_of
from kweek.align.environments.single_turn import OneAnswer
from kweek.align.verifiers.extras import require
from kweek.align.verifiers.function import FunctionVerifier
from kweek.errors import ConfigError, DataError
from kweek.protocols import Score, TokenInterceptor, Verifier
from kweek.tokenize.tokenizer import Tokenizer

VERSION = "0.1.25"
MAX_NEW_TOKENS = 96  # a short chain of thought and an answer of a dozen characters
_DRAWS_PER_ITEM = (
    200  # held-out splits take one item in sixteen; a task that needs more has too few questions
)


class Gym:
    """One task of the suite as an environment.

    Args:
        task: its name; those of `gym_tasks.TASKS` have sizes, format and verifier of ours.
        settings: of the generator, over ours.
        suite_scorer: judge with the suite's own scorer, in a process of its own, whatever it gives. For tasks that
            are not on the list it is the only judge there is.
        max_new_tokens: of an answer.

    Raises:
        ConfigError: reasoning-gym is not installed, in another version, or has no such task or setting.
    """

    max_turns = 1

    def __init__(
        self,
        task: str,
        settings: Mapping[str, Any] | None = None,
        *,
        suite_scorer: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        require("reasoning_gym", "gym", f"the task {task}")
        if (found := metadata.version("reasoning-gym")) != VERSION:
            raise ConfigError(
                f"reasoning-gym {found} is installed, and its faults are handled as they are in {VERSION}",
                fix="pip install 'kweek[gym]'",
            )
        self.name, self.task, self.max_new_tokens = f"gym:{task}", task, max_new_tokens
        own = TASKS.get(task)
        self._own = own or GymTask(form="")
        self._settings = {**self._own.settings, **(settings or {})}
        self._kept = _generator(task, self._settings, seed=0)  # settings that cannot be meant are found here
        self.verifier: Verifier = self._own.verifier
        if suite_scorer or own is None:
            self.verifier = FunctionVerifier(_Scorer(task, self._settings))

    def items(self, key: str, count: int, split: Split) -> list[Item]:
        """Different items of a split, a pure function of the key; fewer where the task has not so many.

        Raises:
            DataError: the task has none in that split.
        """
        found: dict[str, Item] = {}
        for number in range(_DRAWS_PER_ITEM * count):
            if len(found) == count:
                break
            item = self.item(seed_of(self.task, split, key, number))
            if item is not None and split_of(item) == split:
                found.setdefault(item.id, item)
        if not found:
            raise DataError(
                f"the task {self.task} has no question in the split {split}",
                fix="choose settings with more different questions",
            )
        return list(found.values())

    def item(self, seed: int) -> Item | None:
        """The item of a seed; None where the generator fails on it."""
        try:
            entry = self._generated(seed)
        except Exception:  # whatever a generator raises, the next seed is another item
            return None
        asked = f"{entry['question'].strip()}\n{self._own.form}".strip()
        gold = str(entry["answer"])
        data: dict[str, Any] = {"seed": seed}
        if isinstance(self.verifier, FunctionVerifier):
            data["reference"], gold = gold, json.dumps({"seed": seed})
        return Item(({"role": "user", "content": asked},), gold, data=data)

    def _generated(self, seed: int) -> dict[str, Any]:
        generator = self._kept
        if self._own.kept:
            generator.seed = seed
        else:
            generator = _generator(self.task, self._settings, seed)
        entry: dict[str, Any] = generator[0]
        return entry

    def begin(self, item: Item) -> Episode:
        """A fresh attempt."""
        return OneAnswer(item, self.verifier)

    def interceptor(self, tokenizer: Tokenizer) -> TokenInterceptor | None:
        """None: the tasks come without tools."""
        return None


def seed_of(task: str, split: Split, key: str, number: int) -> int:
    """A seed whose neighbours share nothing with it; below 2**32, as numpy wants it."""
    digest = hashlib.sha256(f"{task}\x1f{split}\x1f{key}\x1f{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def task_names() -> list[str]:
    """All tasks of the installed suite.

    Raises:
        ConfigError: it is not installed.
    """
    require("reasoning_gym", "gym", "the tasks of reasoning-gym")
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


class _Scorer:
    """The suite's scorer as a function of answer and gold; the gold names the seed, and the entry is made anew."""

    def __init__(self, task: str, settings: Mapping[str, Any]) -> None:
        @functools.lru_cache(maxsize=256)
        def generated(seed: int) -> tuple[Any, dict[str, Any]]:
            generator = _generator(task, settings, seed)
            return generator, generator[0]

        self._generated = generated

    def __call__(self, answer: str, gold: str) -> Score:
        generator, entry = self._generated(json.loads(gold)["seed"])
        return Score(float(generator.score_answer(answer, entry)), parsed=True)


def _generator(task: str, settings: Mapping[str, Any], seed: int) -> Any:
    """The suite's generator of one item, its item 0. Made anew for each: some draw from their seed when made."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=1)
        raise ConfigError(
            f"reasoning-gym has no task {task!r}",
            fix=f"write {near[0]!r}" if near else "choose one of its tasks",
        )
    try:
        return reasoning_gym.create_dataset(task, seed=seed, size=1, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        what = " ".join(str(error).split())[:120]
        raise ConfigError(f"the settings cannot be meant: {what}", where=f"gym:{task}") from None
