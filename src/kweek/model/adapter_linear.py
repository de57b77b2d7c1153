"""A linear layer with a low-rank adapter: W + s B A, with W frozen (Hu et al. 2021, arXiv 2106.09685, equation 3).

In training the product with W is made first and the adapter's share s B (A x) added to it in place; its gradients are
products of rank r, and none is computed for W. Whoever reads the layer's `weight`, as the engine does when it packs
and as `merge` does, gets the sum.
Shapes: N rows, I inputs, O outputs, K rank, P adapted parts, R = P K, U outputs of the adapted parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kweek.model.derived import DerivedLinear
from kweek.model.linear import Frozen, FusedLinear, Linear, Matrix, Plain


@dataclass(frozen=True)
class Block:
    """Where one part lies: its rows in the layer's matrix, in the stack of all A, and in the stack of all B."""

    outputs: slice
    ranks: slice
    rows: slice


@dataclass(frozen=True)
class Adapted:
    """W + s B A in each adapted part, W in the others. See `Matrix`; only A and B are trained."""

    base: Matrix
    a_RI: Tensor
    b_UK: Tensor
    blocks: tuple[Block, ...]
    scale: float

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """A and B, each stacked over the parts."""
        return self.a_RI, self.b_UK

    def whole(self) -> Tensor:
        """See `Matrix`: the sum."""
        sum_OI = self.base.whole()
        for block in self.blocks:
            sum_OI[block.outputs].addmm_(self.b_UK[block.rows], self.a_RI[block.ranks], alpha=self.scale)
        return sum_OI

    def make(self, dtype: torch.dtype) -> Tensor:
        """See `Matrix`: W."""
        return self.base.make(dtype)

    def keep(self, made_OI: Tensor) -> Tensor | None:
        """See `Matrix`: what is to be kept of W."""
        return self.base.keep(made_OI)

    def add(self, out_ON: Tensor, x_NI: Tensor) -> Tensor | None:
        """See `Matrix`: s B (A x); keeps A x, (R, N)."""
        a_RI, b_UK = self.a_RI.to(x_NI.dtype), self.b_UK.to(x_NI.dtype)
        inner_RN = a_RI @ x_NI.t()
        for block in self.blocks:
            out_ON[block.outputs].addmm_(b_UK[block.rows], inner_RN[block.ranks], alpha=self.scale)
        return inner_RN

    def gradients(
        self,
        needed: Sequence[bool],
        grad_ON: Tensor,
        x_NI: Tensor,
        added: Tensor | None,
        grad_x_NI: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """See `Matrix`: s B' (G X) and s (G X) A' without forming G X, which would be the gradient of W."""
        assert added is not None
        inner_RN, a_RI, b_UK = added, self.a_RI.to(x_NI.dtype), self.b_UK.to(x_NI.dtype)
        grad_inner_RN, grad_b_UK = torch.empty_like(inner_RN), torch.empty_like(b_UK)
        for block in self.blocks:
            grad_part_ON = grad_ON[block.outputs]
            torch.mm(b_UK[block.rows].t(), grad_part_ON, out=grad_inner_RN[block.ranks])
            torch.mm(grad_part_ON, inner_RN[block.ranks].t(), out=grad_b_UK[block.rows])
        if grad_x_NI is not None:
            grad_x_NI.addmm_(grad_inner_RN.t(), a_RI, alpha=self.scale)
        return (grad_inner_RN @ x_NI).mul_(self.scale), grad_b_UK.mul_(self.scale)


class AdaptedLinear(DerivedLinear):
    """A frozen layer with an adapter on some of its parts.

    Args:
        base: plain, or of codes; frozen by this. Its memory is used, not copied.
        parts: the parts to adapt, by their own names.
        sizes: rows of each part of the layer, by name, in order.
        rank: K, of every part.
        scale: s.
    """

    def __init__(
        self,
        base: Linear | FusedLinear | DerivedLinear,
        parts: Sequence[str],
        sizes: dict[str, int],
        rank: int,
        scale: float,
    ) -> None:
        super().__init__(base.in_features, sizes, base.bias)
        self.base = base.requires_grad_(False)
        self.scale = scale
        self._rounded: dict[torch.dtype, tuple[tuple[int, int], Tensor]] = {}
        self.blocks: dict[str, Block] = {}
        start = row = 0
        for name, size in sizes.items():
            if name in parts:
                ranks = slice(len(self.blocks) * rank, (len(self.blocks) + 1) * rank)
                self.blocks[name] = Block(slice(start, start + size), ranks, slice(row, row + size))
                row += size
            start += size
        device = next(base.parameters()).device
        self.a_RI = nn.Parameter(torch.zeros(len(self.blocks) * rank, base.in_features, device=device))
        self.b_UK = nn.Parameter(torch.zeros(row, rank, device=device))

    def matrix(self) -> Matrix:
        """What it multiplies by."""
        base = self.base.matrix()
        if isinstance(base, Plain):
            base = Frozen(base.weight_OI, self._rounded)
        return Adapted(base, self.a_RI, self.b_UK, tuple(self.blocks.values()), self.scale)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A (K, I) and B (O, K) of each adapted part: views, without a graph, that may be written into."""
        a_RI, b_UK = self.a_RI.detach(), self.b_UK.detach()
        return {name: (a_RI[block.ranks], b_UK[block.rows]) for name, block in self.blocks.items()}

    def stacks(self) -> list[tuple[nn.Parameter, list[int]]]:
        """Parameters that hold several matrices one above the other, with the rows of each."""
        ranks = [block.ranks.stop - block.ranks.start for block in self.blocks.values()]
        rows = [block.rows.stop - block.rows.start for block in self.blocks.values()]
        return [(self.a_RI, ranks), (self.b_UK, rows)]
