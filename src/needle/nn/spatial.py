"""What layers for pictures share: options for each spatial axis, and where the channels are."""

from __future__ import annotations

from typing import Any

from needle.autograd import Tensor
from needle.errors import ShapeError, describe
from needle.nn.checks import require_tensors
from needle.nn.module import Module
from needle.ops.spatial import whole_numbers

__all__ = ["SpatialLayer", "channels_first", "channels_last"]

_SPATIAL = {1: "L", 2: "H, W"}


class SpatialLayer(Module):
    """Base: a layer for pictures (B, C, *spatial), which its operator has with channels last."""

    spatial = 2  # how many axes

    def _numbers(self, option: str, given: Any, least: int) -> tuple[int, ...]:
        """An option as one int for each spatial axis."""
        return tuple(whole_numbers(type(self).__name__, option, given, self.spatial, least))

    def _pictures(self, x: Any, channels: int | None = None) -> Tensor:
        """x with channels last. Raises unless it is a Tensor with the axes, and the channels."""
        name = type(self).__name__
        require_tensors(name, x)
        if x.ndim != self.spatial + 2 or channels not in (None, x.shape[1]):
            wanted = f"[B, {channels or 'C'}, {_SPATIAL[self.spatial]}]"
            raise ShapeError(f"{name}: expected x {wanted}, got {describe(x)}.")
        return channels_last(x)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, *spatial) as (B, *spatial, C), a view."""
    return x.permute((0, *range(2, x.ndim), 1))


def channels_first(x: Tensor) -> Tensor:
    """(B, *spatial, C) as (B, C, *spatial), a view."""
    return x.permute((0, x.ndim - 1, *range(1, x.ndim - 1)))
