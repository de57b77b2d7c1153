"""The one training loop. It is blind to the algorithm: whoever builds a batch has written the weight of every token.

By default the loss is the sum over tokens of weight times negative log-likelihood. Next-token training writes 1/n on
each of n tokens, supervised chats write it on the assistant's tokens only, a policy gradient writes
advantage/n on what was sampled. Other losses come as an `Objective`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from kweek.data.batches import Batch
from kweek.errors import GuardError, Interrupted, StoreError
from kweek.model.network import Network
from kweek.protocols import Progress, ShouldStop, never, silent
from kweek.store import files
from kweek.train.objective import Likelihood, Loss, Objective
from kweek.train.optimiser import SplitOptimiser

CHECKPOINT_SECONDS = 20.0  # a killed run loses at most this much; saving takes some milliseconds
PROGRESS_SECONDS = 0.25  # faster than this a person cannot read


@dataclass(frozen=True)
class StepResult:
    """What one update measured. `loss` is the weighted sum in nats, `gradient_norm` before clipping.

    `nll` holds each micro-batch's negative log-likelihood by token (B*T, nats), as the update saw it, where the
    objective has one; `parts` the sums of what the objective named.
    """

    loss: float
    gradient_norm: float
    num_tokens: int
    flop: float
    nll: list[torch.Tensor]
    parts: dict[str, float] = field(default_factory=dict)


@dataclass
class Trained:
    """Running totals of a loop; `step` is the next step to do."""

    step: int = 0
    num_tokens: int = 0
    flop: float = 0.0


class Trainer:
    """Network, optimiser and the arithmetic between them.

    Args:
        clip: the largest norm of the gradient; 1.0 is the field's common value.
        compute_dtype: what the blocks compute in; weights and optimiser stay fp32.
        objective: what is lowered; by default the weighted negative log-likelihood.
    """

    def __init__(
        self,
        network: Network,
        optimiser: SplitOptimiser,
        *,
        clip: float = 1.0,
        compute_dtype: torch.dtype = torch.float32,
        objective: Objective | None = None,
    ) -> None:
        self.network, self.optimiser, self.clip, self.compute_dtype = network, optimiser, clip, compute_dtype
        self.objective = objective or Likelihood()

    def step(self, batches: Sequence[Batch], factor: float) -> StepResult:
        """One update at learning-rate `factor` on the summed loss of some micro-batches.

        Raises:
            GuardError: loss or gradient is not a number; the weights are still those of before the step.
        """
        value, flop, num_tokens = 0.0, self.optimiser.num_flops_per_step(), 0
        nll: list[torch.Tensor] = []
        parts: dict[str, float] = {}
        self.optimiser.clear()  # an update that broke off may have left some
        for batch in batches:
            loss = self.loss(batch)
            loss.value.backward()  # type: ignore[no-untyped-call]
            value += loss.value.item()
            num_tokens += batch.num_tokens
            if loss.nll_N is not None:
                nll.append(loss.nll_N)
            for name, part in loss.parts.items():
                parts[name] = parts.get(name, 0.0) + part
            num_flops = self.network.num_flops_per_token(batch.ids_BT.shape[1], backward=True)
            flop += batch.ids_BT.numel() * num_flops + loss.flop
        norm = float(torch.nn.utils.clip_grad_norm_(self.optimiser.parameters, self.clip))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise GuardError(
                f"the loss or its gradient is not finite (loss {value}, gradient norm {norm})",
                fix="lower the learning rate or look at the data of this step; the last checkpoint is intact",
            )
        # The moments of rows that no batch touches decay into denormals, on which a CPU is twenty times slower.
        torch.set_flush_denormal(True)
        self.optimiser.step(factor)
        torch.set_flush_denormal(False)
        return StepResult(value, norm, num_tokens, flop, nll, parts)

    def loss(self, batch: Batch) -> Loss:
        """What the objective makes of a batch."""
        network = self.network
        before, network.compute_dtype = network.compute_dtype, self.compute_dtype
        try:  # whoever measures the network between updates does so in its own precision
            hidden_BTD = network(batch.ids_BT, positions_BT=batch.positions_BT, mask=batch.mask_B1TT)
        finally:
            network.compute_dtype = before
        return self.objective(network, hidden_BTD, batch)

    def weights(self) -> dict[str, torch.Tensor]:
        """What is trained, by name; not copied, and without what is frozen."""
        return {
            name: parameter.detach()
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def set_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write values that `weights` gave back into the network."""
        for name, value in self.weights().items():
            value.copy_(tensors[name])

    def save(self, path: Path, totals: Trained, extra: dict[str, object] | None = None) -> None:
        """What is trained, optimiser state and position in one file, replaced atomically."""
        tensors = {f"network.{name}": value for name, value in self.weights().items()}
        tensors |= self.optimiser.state()
        about = {
            "step": totals.step,
            "num_tokens": totals.num_tokens,
            "flop": totals.flop,
            "extra": extra or {},
        }
        data = save({k: v.contiguous() for k, v in tensors.items()}, metadata={"kweek": json.dumps(about)})
        files.write_bytes(path, data)

    def load(self, path: Path) -> tuple[Trained, dict[str, object]]:
        """Go back to what `save` wrote."""
        try:
            tensors = load_file(path)
            about = _metadata(path)
        except Exception as error:
            raise StoreError(
                f"checkpoint cannot be read ({error})",
                where=str(path),
                fix="delete it to start this stage anew",
            ) from error
        weights = {n.removeprefix("network."): v for n, v in tensors.items() if n.startswith("network.")}
        present = {name: value.shape for name, value in self.weights().items()}
        if {name: value.shape for name, value in weights.items()} != present:
            raise StoreError(
                "the checkpoint is of a network with other trained weights",
                where=str(path),
                fix="delete it to start this stage anew",
            )
        self.set_weights(weights)
        self.optimiser.load_state({n: v for n, v in tensors.items() if n.startswith("optimiser.")})
        return Trained(about["step"], about["num_tokens"], about["flop"]), about["extra"]


def checkpoint_step(path: Path) -> int:
    """The step a checkpoint goes on from; 0 when there is none."""
    return int(_metadata(path)["step"]) if path.exists() else 0


def _metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as handle:
        about: dict[str, Any] = json.loads(handle.metadata()["kweek"])
    return about


def fit(
    trainer: Trainer,
    batches: Callable[[int], Iterator[Batch | Sequence[Batch]]],
    num_steps: int,
    schedule: Callable[[int], float],
    *,
    state: Path | None = None,
    on_step: Callable[[Trained, StepResult, float], None] | None = None,
    progress: Progress = silent,
    should_stop: ShouldStop = never,
) -> Trained:
    """Train for `num_steps`, resuming from `state` when it exists.

    Args:
        batches: gives the batch of each update from a step on, or its micro-batches; a pure function of the step, so
            that resuming sees the same.
        schedule: learning-rate factor by step.
        state: checkpoint file; written every 20 seconds and when asked to stop, removed by nobody. Its folder is
            made if need be.
        on_step: called after every update with totals, result and tokens per second since the last call.

    Raises:
        Interrupted: asked to stop; the checkpoint holds everything needed to go on.
    """
    totals = Trained()
    if state is not None:
        state.parent.mkdir(parents=True, exist_ok=True)  # now, and not when the first checkpoint is due
        if state.exists():
            totals, _ = trainer.load(state)
    saved = shown = last = time.monotonic()
    for batch in batches(totals.step):
        if totals.step >= num_steps:
            break
        if should_stop():
            if state is not None:
                trainer.save(state, totals)
            raise Interrupted
        update = [batch] if isinstance(batch, Batch) else batch
        result = trainer.step(update, schedule(totals.step))
        totals = Trained(totals.step + 1, totals.num_tokens + result.num_tokens, totals.flop + result.flop)
        now = time.monotonic()
        speed = result.num_tokens / max(now - last, 1e-9)
        if on_step is not None:
            on_step(totals, result, speed)
        last = time.monotonic()  # what a caller does between steps is not training time
        if state is not None and now - saved > CHECKPOINT_SECONDS:
            trainer.save(state, totals)
            saved = now
        if now - shown > PROGRESS_SECONDS:
            rate = result.flop * speed / result.num_tokens
            progress(totals.step, num_steps, loss=result.loss, tokens_per_second=speed, flop_per_second=rate)
            shown = now
    return totals
