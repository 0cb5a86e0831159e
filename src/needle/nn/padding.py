"""Layers that put a border around pictures (B, C, L) or (B, C, H, W), or crop them.

padding: a number for every side, or (left, right) and (left, right, top, bottom); below 0 it crops.
"""

from __future__ import annotations

import operator
from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.errors import OptionError
from needle.nn.spatial import SpatialLayer, channels_first
from needle.ops.padding import extended

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ZeroPad1d",
    "ZeroPad2d",
]


class _Padding(SpatialLayer):
    """Base: widths before and behind each spatial axis, of which the last is named first."""

    mode = "constant"
    value = 0.0

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = self._sides(padding)

    def _sides(self, padding: Any) -> tuple[int, ...]:
        count = 2 * self.spatial
        try:
            given = padding if isinstance(padding, (tuple, list)) else [padding] * count
            sides = tuple([operator.index(width) for width in given])
        except TypeError:
            sides = ()
        if len(sides) != count:
            raise OptionError(
                f"{type(self).__name__}: expected padding of an int or {count} of them, "
                f"got {padding!r}."
            )
        return sides

    def forward(self, x: Tensor) -> Tensor:
        pairs = list(zip(self.padding[::2], self.padding[1::2], strict=True))
        widths = [(0, 0), *pairs[::-1], (0, 0)]
        pictures = self._pictures(x)
        if self.mode == "constant":
            return channels_first(ops.pad(pictures, widths, self.value))
        return channels_first(extended(type(self).__name__, pictures, widths, self.mode))

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Padding):
    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"{self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """`value` at both ends. x: (B, C, L) -> y: (B, C, L + left + right)."""

    spatial = 1


class ConstantPad2d(_ConstantPad):
    """`value` around. x: (B, C, H, W) -> y: (B, C, H + top + bottom, W + left + right)."""


class ZeroPad1d(_Padding):
    """Zeros at both ends. x: (B, C, L) -> y: (B, C, L + left + right)."""

    spatial = 1


class ZeroPad2d(_Padding):
    """Zeros around. x: (B, C, H, W) -> y: (B, C, H + top + bottom, W + left + right).

    >>> import needle as ndl
    >>> ndl.nn.ZeroPad2d((1, 2, 0, -3))(ndl.init.ones(5, 3, 8, 8)).shape
    (5, 3, 5, 11)
    """


class ReflectionPad1d(_Padding):
    """x mirrored at its first and last elements: 3 2 | 1 2 3 | 2 1. Widths are below L.

    x: (B, C, L) -> y: (B, C, L + left + right)
    """

    spatial, mode = 1, "reflect"


class ReflectionPad2d(_Padding):
    """x mirrored at its edges: 3 2 | 1 2 3 | 2 1 along each axis. Widths are below its length.

    x: (B, C, H, W) -> y: (B, C, H + top + bottom, W + left + right)
    """

    mode = "reflect"


class ReplicationPad1d(_Padding):
    """The first and last elements again: 1 1 | 1 2 3 | 3 3.

    x: (B, C, L) -> y: (B, C, L + left + right)
    """

    spatial, mode = 1, "replicate"


class ReplicationPad2d(_Padding):
    """The edges again: 1 1 | 1 2 3 | 3 3 along each axis.

    x: (B, C, H, W) -> y: (B, C, H + top + bottom, W + left + right)
    """

    mode = "replicate"


class CircularPad1d(_Padding):
    """x as if it went round: 2 3 | 1 2 3 | 1 2. Widths are at most L.

    x: (B, C, L) -> y: (B, C, L + left + right)
    """

    spatial, mode = 1, "circular"


class CircularPad2d(_Padding):
    """x as if it went round: 2 3 | 1 2 3 | 1 2 along each axis. Widths are at most its length.

    x: (B, C, H, W) -> y: (B, C, H + top + bottom, W + left + right)
    """

    mode = "circular"
