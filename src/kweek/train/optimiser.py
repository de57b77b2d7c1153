"""AdamW with a learning rate of its own for each kind of parameter, and Muon for matrices.

Embedding rows are touched rarely and stand alone, so they bear a far larger step than matrices; the head
lies between. Splitting the learning rates (with an untied head) was worth a third of a bit per byte at 1M
parameters against one rate for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from kweek.errors import ConfigError
from kweek.model.adapter_linear import AdaptedLinear
from kweek.model.linear import FusedLinear
from kweek.model.network import Network

NUM_ADAMW_FLOPS_PER_PARAMETER = 14  # two moments (3 + 4), bias corrections, root, division, decay, step
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest slope at zero that stays near one


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates by kind of parameter. The defaults are tuned for a width of 128 and 512 tokens per step."""

    matrices: float = 2e-3
    embedding: float = 6e-2
    head: float = 3e-3
    norms: float = 2e-3

    def scaled(self, factor: float, embedding: float | None = None) -> LearningRates:
        """All rates times a factor; the embedding's has its own where one is given."""
        shared = self.embedding * (factor if embedding is None else embedding)
        return LearningRates(self.matrices * factor, shared, self.head * factor, self.norms * factor)


Kind = Literal["matrices", "embedding", "head", "norms"]


def kind_of(name: str, parameter: torch.Tensor) -> Kind:
    """Which learning rate a parameter takes, by its Hugging Face name and shape."""
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name or name == "score.weight":
        return "head"
    return "matrices" if parameter.ndim == 2 else "norms"


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton–Schulz (Jordan 2024), in fp32, matrices of equal shape in one batch.

    The update of an (O, I) matrix is scaled by sqrt(max(1, O/I)), so that its size does not depend on shape.

    Args:
        rows: for a parameter that holds several matrices one above the other, by its identity, the rows of each;
            they are orthogonalised apart.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,  # measured best at 1M parameters
        momentum: float = 0.95,  # as published
        weight_decay: float = 0.1,  # as for AdamW
        rows: Mapping[int, list[int]] | None = None,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.rows = rows or {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = torch.lerp(p.grad, state["momentum"], group["momentum"])
                rows = self.rows.get(id(p), [p.shape[0]])
                for matrix, part in zip(torch.split(p, rows), torch.split(update, rows), strict=True):
                    by_shape.setdefault(tuple(part.shape), []).append((matrix, part))
            for shape, members in by_shape.items():
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                updates = orthogonalise(torch.stack([part for _, part in members]))
                for (matrix, _), update in zip(members, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(
                        update, alpha=-group["lr"] * scale
                    )

    def num_flops_per_step(self) -> float:
        """Five Newton–Schulz iterations of every matrix, and the momentum."""
        total = 0.0
        for p in (p for group in self.param_groups for p in group["params"]):
            for rows in self.rows.get(id(p), [p.shape[0]]):
                small, large = sorted((rows, p.shape[1]))
                total += 5 * (4 * small * small * large + 2 * small**3)
            total += 8 * p.numel()
        return total


def orthogonalise(matrices_NOI: torch.Tensor, num_steps: int = 5) -> torch.Tensor:
    """Push all singular values of N matrices towards one by a quintic Newton–Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrices_NOI / (matrices_NOI.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    transposed = x.size(-2) > x.size(-1)
    if transposed:
        x = x.mT
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.mT if transposed else x
    return result


class SplitOptimiser:
    """One optimiser over groups of one kind each, whose rates all follow the same schedule factor.

    Args:
        network: those of its parameters that require a gradient are grouped by name and shape.
        rates: peak learning rates.
        weight_decay: on matrices and head only; 0.1 is the field's common value, not tuned here.
        betas: AdamW's; (.9, .95) as usual for language models, .99 measured within noise.
        muon: peak learning rate of Muon on the matrices instead of AdamW, or None.

    Raises:
        ConfigError: everything is frozen.
    """

    def __init__(
        self,
        network: Network,
        rates: LearningRates,
        *,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        muon: float | None = None,
    ) -> None:
        groups: dict[Kind, list[torch.nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(kind_of(name, parameter), []).append(parameter)
        if not groups:
            raise ConfigError("all of the network is frozen", fix="attach an adapter to train it")
        self.parameters = [p for group in groups.values() for p in group]
        self._muon = None
        if muon is not None:
            stacked = (m for m in network.modules() if isinstance(m, FusedLinear | AdaptedLinear))
            rows = {id(parameter): rows for m in stacked for parameter, rows in m.stacks()}
            self._muon = Muon(groups.pop("matrices"), lr=muon, weight_decay=weight_decay, rows=rows)
        decays = {"matrices", "head"}
        self._adamw = None
        if groups:  # with Muon over an adapter nothing is left
            self._adamw = torch.optim.AdamW(
                [
                    {
                        "params": params,
                        "lr": getattr(rates, kind),
                        "weight_decay": weight_decay if kind in decays else 0.0,
                    }
                    for kind, params in groups.items()
                ],
                betas=betas,
                fused=True,  # one pass over memory instead of ten
            )
        self._parts: list[torch.optim.Optimizer] = [p for p in (self._adamw, self._muon) if p is not None]
        self._peaks = [group["lr"] for part in self._parts for group in part.param_groups]

    def step(self, factor: float) -> None:
        """Update with every peak rate times `factor`, then clear the gradients."""
        groups = (group for part in self._parts for group in part.param_groups)
        for group, peak in zip(groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        for part in self._parts:
            part.step()
        self.clear()
        # The fused kernels write without saying so, and an engine over these weights would not see that they changed.
        torch.autograd.graph.increment_version(self.parameters)

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def num_flops_per_step(self) -> float:
        """Arithmetic of one update; for Muon with its Newton–Schulz iterations."""
        groups = self._adamw.param_groups if self._adamw else []
        plain: int = sum(p.numel() for group in groups for p in group["params"])
        return NUM_ADAMW_FLOPS_PER_PARAMETER * plain + (
            self._muon.num_flops_per_step() if self._muon else 0.0
        )

    def state(self) -> dict[str, torch.Tensor]:
        """All state as named tensors, for a safetensors file."""
        tensors: dict[str, torch.Tensor] = {}
        for i, part in enumerate(self._parts):
            for j, values in part.state_dict()["state"].items():
                for key, value in values.items():
                    tensors[f"optimiser.{i}.{j}.{key}"] = torch.as_tensor(value)
        return tensors

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `state` gave."""
        for i, part in enumerate(self._parts):
            state: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in tensors.items():
                owner, part_index, *rest = name.split(".")
                if owner == "optimiser" and int(part_index) == i:
                    state.setdefault(int(rest[0]), {})[rest[1]] = value
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
