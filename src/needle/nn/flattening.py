"""Layers that join axes, and take them apart."""

from __future__ import annotations

import math
import operator
from typing import Any

from needle.autograd import Tensor
from needle.errors import OptionError, ShapeError, describe
from needle.nn.checks import require_tensors
from needle.nn.module import Module

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """(B, d1, d2, ...) -> (B, d1 · d2 · ...): the axes start_dim..end_dim as one.

    start_dim, end_dim  may count from the end; with start_dim behind the last axis, y has a new
                        one of length 1, so that (B,) becomes (B, 1)
    """

    def __init__(self, *, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = _whole("Flatten", "start_dim", start_dim)
        self.end_dim = _whole("Flatten", "end_dim", end_dim)

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("Flatten", x)
        start, end = [d + x.ndim if d < 0 else d for d in (self.start_dim, self.end_dim)]
        behind = start == x.ndim == end + 1
        if not (0 <= start <= end < x.ndim or behind) or x.ndim == 0:
            usual = (self.start_dim, self.end_dim) == (1, -1)
            wanted = "[B, ...]" if usual else f"with axes {self.start_dim}..{self.end_dim}"
            raise ShapeError(f"Flatten: expected x {wanted}, got {describe(x)}.")
        joined = math.prod(x.shape[start : end + 1])
        return x.reshape((*x.shape[:start], joined, *x.shape[end + 1 :]))

    def extra_repr(self) -> str:
        usual = (self.start_dim, self.end_dim) == (1, -1)
        return "" if usual else f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Axis `dim` in the shape `unflattened_size`, of which one extent may be -1.

    >>> import needle as ndl
    >>> ndl.nn.Unflatten(1, (3, 4, -1))(ndl.init.ones(2, 60)).shape
    (2, 3, 4, 5)
    """

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self.dim = _whole("Unflatten", "dim", dim)
        self.unflattened_size = _extents(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        require_tensors("Unflatten", x)
        if not -x.ndim <= self.dim < x.ndim:
            raise ShapeError(f"Unflatten: expected x with axis {self.dim}, got {describe(x)}.")
        axis = self.dim % x.ndim
        known = math.prod(n for n in self.unflattened_size if n != -1)
        rest = x.shape[axis] // known if known else 0
        extents = [rest if n == -1 else n for n in self.unflattened_size]
        if math.prod(extents) != x.shape[axis]:
            raise ShapeError(
                f"Unflatten: expected axis {self.dim} with as many places as "
                f"{self.unflattened_size} has, got {describe(x)}."
            )
        return x.reshape((*x.shape[:axis], *extents, *x.shape[axis + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


def _whole(layer: str, option: str, number: Any) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise OptionError(f"{layer}: expected {option} to be an int, got {number!r}.") from None


def _extents(size: Any) -> tuple[int, ...]:
    try:
        extents = tuple([operator.index(n) for n in size])
    except TypeError:
        extents = ()
    if not extents or any(n < -1 for n in extents) or extents.count(-1) > 1:
        raise OptionError(
            "Unflatten: expected unflattened_size of ints of 0 or more, and at most one -1, got "
            f"{size!r}."
        )
    return extents
