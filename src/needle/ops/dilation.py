"""Zeros between the elements of an array, and without them again."""

from __future__ import annotations

from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, primitives
from needle.ops.spatial import whole_numbers

__all__ = ["Dilate", "UnDilate", "dilate", "undilate"]


class _Dilation(TensorOp):
    """The axes, and how many zeros stand behind each element."""

    def __init__(self, axes: Any, dilation: int) -> None:
        numbers = axes if isinstance(axes, (tuple, list)) else (axes,)
        self.axes = tuple(whole_numbers(self.name, "axes", numbers, len(numbers), 0))
        self.dilation = whole_numbers(self.name, "dilation", dilation, 1, 0)[0]

    def _key(self, ndim: int) -> tuple[slice, ...]:
        step = slice(None, None, self.dilation + 1)
        return tuple([step if axis in self.axes else slice(None) for axis in range(ndim)])


class Dilate(_Dilation):
    """y[..., i·(dilation + 1), ...] = x[..., i, ...] along `axes`, 0 elsewhere.

    Every element is followed by `dilation` zeros, the last one too: an axis of n becomes n ·
    (dilation + 1). Axes that x does not have are ignored. Gradient: dx = undilated dy.
    """

    def compute(self, x: Array) -> Array:
        longer = [
            n * (self.dilation + 1) if axis in self.axes else n for axis, n in enumerate(x.shape)
        ]
        return primitives.put(tuple(longer), self._key(x.ndim), x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return undilate(out_grad, self.axes, self.dilation)


def dilate(a: Tensor, axes: Any, dilation: int) -> Tensor:
    """Every element along `axes` followed by `dilation` zeros."""
    return Dilate(axes, dilation)(a)


class UnDilate(_Dilation):
    """y[..., i, ...] = x[..., i·(dilation + 1), ...] along `axes`. Gradient: dx = dilated dy."""

    def compute(self, x: Array) -> Array:
        return primitives.index(x, self._key(x.ndim))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        dilated = dilate(out_grad, self.axes, self.dilation)
        shape = node.inputs[0].shape
        # an axis whose length no multiple makes: the last element has fewer zeros behind it
        return dilated if dilated.shape == shape else dilated[tuple([slice(n) for n in shape])]


def undilate(a: Tensor, axes: Any, dilation: int) -> Tensor:
    """Every (dilation + 1)-th element along `axes`, from the first on."""
    return UnDilate(axes, dilation)(a)
