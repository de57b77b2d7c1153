"""Bits dealt out under a size: most where a byte saves most loss.

With the losses of single tensors taken to add up, the best allocation for a size is found up to one tensor by starting
with the fewest bits everywhere and buying, again and again, the upgrade that saves most loss per byte (Shoham and
Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers"): each tensor's choices are first reduced to
those on the lower convex hull of loss over bytes, so that gains per byte only fall.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from kweek.compress.sensitivity import Losses
from kweek.compress.widths import file_bytes, header_bytes
from kweek.errors import ConfigError
from kweek.model.config import ModelConfig
from kweek.model.layout import tensor_shapes
from kweek.model.quantized import BIT_WIDTHS, stored_bytes


def allocate(
    config: ModelConfig, losses: Losses, max_bytes: float, choices: Sequence[int] = BIT_WIDTHS
) -> dict[str, int]:
    """Bits of every tensor, so that the file has at most `max_bytes` and the sum of losses is least.

    Args:
        config: of the network.
        losses: nats per token of every matrix at every number of bits.
        max_bytes: of `model.safetensors`.
        choices: numbers of bits that may be given; all by default, fewer for formats that know fewer.

    Raises:
        ConfigError: the fewest bits everywhere are still too many; both sizes are named.
    """
    shapes = {name: tensor_shapes(config)[name] for name in losses}
    hulls = {name: _hull(shapes[name], losses[name], choices) for name in shapes}
    widths = {name: hull[0] for name, hull in hulls.items()}
    most = dict.fromkeys(widths, max(choices))
    # the header is taken as long as it can become
    least = file_bytes(config, widths) - header_bytes(config, widths) + header_bytes(config, most)
    left = max_bytes - least
    if left < 0:
        raise ConfigError(
            f"with {min(choices)} bits everywhere the file still has {least / 1e6:.2f} MB, "
            f"and {max_bytes / 1e6:.2f} MB were asked for",
            where="--size",
            fix="ask for more, or prune the model first",
        )
    waiting: list[tuple[float, str, int]] = []
    for name in hulls:
        _offer(waiting, name, 0, hulls, shapes, losses)
    while waiting:
        _, name, step = heapq.heappop(waiting)
        bits = hulls[name][step + 1]
        price = stored_bytes(shapes[name], bits) - stored_bytes(shapes[name], widths[name])
        if price <= left:  # one that is too dear is left for good, and smaller ones may still fit
            widths[name], left = bits, left - price
            _offer(waiting, name, step + 1, hulls, shapes, losses)
    return widths


def _offer(
    waiting: list[tuple[float, str, int]],
    name: str,
    step: int,
    hulls: Mapping[str, Sequence[int]],
    shapes: Mapping[str, tuple[int, ...]],
    losses: Losses,
) -> None:
    """Put a tensor's next upgrade into the queue, best first."""
    if step + 1 < len(hulls[name]):
        now, then = hulls[name][step], hulls[name][step + 1]
        price = stored_bytes(shapes[name], then) - stored_bytes(shapes[name], now)
        gain = losses[name][now] - losses[name][then]
        heapq.heappush(waiting, (-gain / price, name, step))


def _hull(shape: tuple[int, ...], loss: Mapping[int, float], choices: Sequence[int]) -> list[int]:
    """The numbers of bits on the lower convex hull of loss over bytes, fewest first."""
    hull: list[int] = []

    def slope(a: int, b: int) -> float:
        return (loss[b] - loss[a]) / (stored_bytes(shape, b) - stored_bytes(shape, a))

    for bits in sorted(choices):
        if hull and loss[bits] >= loss[hull[-1]]:
            continue  # more bytes for no less loss
        while len(hull) > 1 and slope(hull[-2], hull[-1]) >= slope(hull[-1], bits):
            hull.pop()
        hull.append(bits)
    return hull
