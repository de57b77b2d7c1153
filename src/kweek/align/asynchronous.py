"""Rollouts sampled beside the trainer, by weights that are a stated number of batches behind.

Batch n is sampled with the weights that have learnt from n - K batches (from none, at first), by a thread with a copy
of the network; the trainer learns from batch n - 1 meanwhile. The lag is K, never more: nothing has to be dropped, and
a run can be repeated and resumed to the same bits, which is not so where whoever is faster decides. K = 1 hides the
shorter of sampling and learning; more would only make rollouts older. Since they are not the policy's own, the
objective needs a ratio (`Course.require_sense`), whose old policy is the one that sampled.

K = 0 is the synchronous loop: the thread waits for the weights, the trainer for the thread.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kweek.align.collecting import Collected, Collector
from kweek.align.curriculum import Curriculum
from kweek.align.measures import network_gap, require_agreement
from kweek.engine.engine import Engine
from kweek.model.network import Network

CHECKED = 4  # rollouts of a batch on which engine and network are compared: a fiftieth of an update's work


class Asynchronous:
    """A `Source` with a thread of its own.

    Args:
        collector: makes the batches; its course says the lag.
        network: that is trained. It is copied whenever it is published.
    """

    def __init__(self, collector: Collector, network: Network) -> None:
        self._collector, self._network = collector, network
        self._lag, self._steps = collector.course.staleness, collector.course.steps
        self._copy = copy.deepcopy(network)
        self._engine = Engine(self._copy)
        self._changed = threading.Condition()
        self._weights: dict[int, tuple[dict[str, Tensor], Curriculum]] = {}
        self._ready: dict[int, Collected] = {}
        self._failed: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(
        self, step: int, curriculum: Curriculum, state: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """See `Source`."""
        for version, tallies in state.get("curricula", {}).items():
            weights = {
                name.removeprefix(f"{version}."): value
                for name, value in tensors.items()
                if name.startswith(f"{version}.")
            }
            self._weights[int(version)] = weights, Curriculum.restore(tallies)
        self.publish(step, curriculum)
        self._thread = threading.Thread(target=self._work, args=(step,), daemon=True, name="rollouts")
        self._thread.start()

    def take(self, step: int) -> Collected:
        """See `Source`. Raises what sampling raised."""
        with self._changed:
            self._changed.wait_for(lambda: step in self._ready or self._failed is not None)
            if step in self._ready:
                return self._ready.pop(step)
            assert self._failed is not None
            raise self._failed

    def publish(self, step: int, curriculum: Curriculum) -> None:
        """See `Source`."""
        weights = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
        with self._changed:
            self._weights[step] = weights, curriculum
            for old in [version for version in self._weights if version < step - self._lag]:
                del self._weights[old]
            self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """See `Source`."""
        newest = max(self._weights)
        return {"curricula": {str(v): c.state() for v, (_, c) in self._weights.items() if v < newest}}

    def tensors(self) -> dict[str, Tensor]:
        """See `Source`: the weights of the batches behind; the newest are the trainer's own."""
        newest = max(self._weights)
        return {
            f"{version}.{name}": value
            for version, (weights, _) in self._weights.items()
            if version < newest
            for name, value in weights.items()
        }

    def close(self) -> None:
        """See `Source`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self, first: int) -> None:
        try:
            for step in range(first, self._steps):
                version = max(0, step - self._lag)
                if (found := self._wait_for(version)) is None:
                    return
                weights, curriculum = found
                with torch.no_grad():
                    self._copy.load_state_dict(weights)
                batch = self._collector.collect(self._engine, step, version, curriculum)
                self._compare(batch)
                with self._changed:
                    self._ready[step] = batch
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _wait_for(self, version: int) -> tuple[dict[str, Tensor], Curriculum] | None:
        """Weights and curriculum of a version, once they are published; None when it is over."""
        with self._changed:
            self._changed.wait_for(lambda: version in self._weights or self._closed)
            return None if self._closed else self._weights[version]

    def _compare(self, batch: Collected) -> None:
        """Engine against network on a few rollouts; by the time the trainer reads them its weights are others."""
        if self._lag:
            few = [group[0] for group in batch.groups if group][:CHECKED]
            batch.gap = network_gap(self._copy, few, self._collector.drawing.temperature)
            require_agreement(batch.gap)
