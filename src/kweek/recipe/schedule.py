"""In which order stages run, and which of them side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kweek.recipe.schema import Recipe


def threads_needed(recipe: Recipe, stage: str, threads: int) -> int:
    """CPU threads a stage occupies in a run that has `threads`."""
    return threads if recipe.stages[stage].config.threads == "all" else 1


def urgency(recipe: Recipe, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds from the start of each stage to the end of the longest chain that hangs on it."""
    order = recipe.order()
    result = {name: seconds.get(name, 0.0) for name in order}
    for name in reversed(order):
        for upstream in recipe.stages[name].inputs.values():
            result[upstream] = max(result[upstream], seconds.get(upstream, 0.0) + result[name])
    return result


def pick(
    recipe: Recipe,
    waiting: Collection[str],
    done: Collection[str],
    free: int,
    threads: int,
    urgent: Mapping[str, float],
) -> list[str]:
    """Stages to start now: those whose inputs are done, most urgent first, as far as the threads reach."""
    chosen: list[str] = []
    ready = [name for name in waiting if all(u in done for u in recipe.stages[name].inputs.values())]
    for name in sorted(ready, key=lambda n: (-urgent[n], n)):
        needed = threads_needed(recipe, name, threads)
        if needed <= free:
            chosen.append(name)
            free -= needed
    return chosen


def simulate(
    recipe: Recipe,
    waiting: Collection[str],
    seconds: Mapping[str, float],
    memory: Mapping[str, float],
    threads: int,
) -> tuple[float, float]:
    """Seconds until all waiting stages are done, and the most memory in bytes that they hold at a time."""
    urgent = urgency(recipe, {name: seconds.get(name, 0.0) for name in waiting})
    left = set(waiting)
    done = set(recipe.stages) - left
    running: dict[str, float] = {}
    clock = most = 0.0
    while left or running:
        free = threads - sum(threads_needed(recipe, name, threads) for name in running)
        for name in pick(recipe, left, done, free, threads, urgent):
            running[name] = clock + seconds.get(name, 0.0)
            left.discard(name)
        most = max(most, sum(memory.get(name, 0.0) for name in running))
        first = min(running, key=lambda n: (running[n], n))
        clock = running.pop(first)
        done.add(first)
    return clock, most
