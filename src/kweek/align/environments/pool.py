"""A fixed set of items, in splits that no item crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kweek.align.environment import Item, Split
from kweek.data.packing import keyed_generator
from kweek.errors import DataError

_HELD_OUT: tuple[Split, ...] = (
    "test",
    "validation",
    "train",
)  # who keeps an item that several splits were given


class Pool:
    """Different items by split.

    Args:
        items: one sequence, split by the hash of what each asks; or sequences by split, for data that comes in
            splits of its own. What several of these ask stays in the one that is held out furthest.

    Attributes:
        num_repeated: items left out because another one asks the same.

    Raises:
        DataError: no items, or one question with two golds.
    """

    def __init__(self, items: Sequence[Item] | Mapping[Split, Sequence[Item]]) -> None:
        given = items if isinstance(items, Mapping) else _by_hash(items)
        seen: dict[str, Item] = {}
        self.num_repeated = 0
        self._items: dict[Split, list[Item]] = {}
        for split in _HELD_OUT:
            kept = self._items[split] = []
            for item in given.get(split, ()):
                before = seen.get(item.id)
                if before is None:
                    seen[item.id] = item
                    kept.append(item)
                    continue
                self.num_repeated += 1
                if before.gold != item.gold:
                    asked = str(item.messages[-1].get("content"))[:60]
                    raise DataError(
                        f"{asked!r} is asked twice with different answers, {before.gold[:30]!r} and {item.gold[:30]!r}",
                        fix="keep the right one",
                    )
            kept.sort(key=lambda item: item.id)
        if not seen:
            raise DataError("there are no items", fix="give at least one")

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def count(self, split: Split) -> int:
        """Items of a split."""
        return len(self._items[split])

    def draw(self, key: str, count: int, split: Split) -> list[Item]:
        """Different items of a split in an order that depends on the key; fewer where there are not so many.

        Raises:
            DataError: the split has none.
        """
        items = self._items[split]
        if not items:
            raise DataError(
                f"none of the {len(self)} items falls into the split {split}",
                fix="give more items (a sixteenth each is held out for validation and test), or splits of your own",
            )
        order = keyed_generator("items", key, split).permutation(len(items))[:count]
        return [items[int(number)] for number in order]


def split_of(item: Item) -> Split:
    """One sixteenth each is held out for validation and for test, by the hash of what is asked."""
    bucket = int(item.id[:8], 16) % 16
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def _by_hash(items: Sequence[Item]) -> dict[Split, list[Item]]:
    found: dict[Split, list[Item]] = {}
    for item in items:
        found.setdefault(split_of(item), []).append(item)
    return found
