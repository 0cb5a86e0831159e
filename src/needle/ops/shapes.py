"""The same elements in another arrangement, and arrays put together."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api
from needle.errors import AxisError, ShapeError, describe
from needle.ops.broadcasting import Axes, normalize_axes, normalize_axis, unbroadcast

__all__ = [
    "BroadcastTo",
    "Concatenate",
    "ExpandDims",
    "Flip",
    "Permute",
    "Reshape",
    "Squeeze",
    "Transpose",
    "broadcast_to",
    "concatenate",
    "expand_dims",
    "flatten",
    "flip",
    "permute",
    "reshape",
    "squeeze",
    "transpose",
]


def _as_shape(op: str, shape: Any) -> tuple[int, ...]:
    try:
        return tuple([operator.index(n) for n in shape])
    except TypeError:
        pass
    try:
        return (operator.index(shape),)
    except TypeError:
        raise ShapeError(f"{op}: expected a shape (a tuple of ints), got {shape!r}.") from None


class Transpose(TensorOp):
    """y = x with two axes swapped; the last two by default. Gradient: the same swap of dy."""

    expects = "an array that has the two axes"

    def __init__(self, axes: Sequence[int] | None = None) -> None:
        if axes is not None and not (isinstance(axes, Sequence) and len(axes) == 2):
            raise AxisError(
                f"transpose: expected two axes to swap, got {axes}. "
                "Use permute for the order of all axes."
            )
        self.axes = axes

    def compute(self, x: Array) -> Array:
        if self.axes is None:
            if len(x.shape) < 2:
                raise AxisError(f"transpose: expected at least two axes, got {describe(x)}.")
            return array_api.swapaxes(x, -1, -2)
        return array_api.swapaxes(x, self.axes[0], self.axes[1])

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return transpose(out_grad, self.axes)


def transpose(a: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """x with two axes swapped; the last two by default."""
    return Transpose(axes)(a)


class Permute(TensorOp):
    """y = x with its axes in the order `axes`. Gradient: dy in the inverse order."""

    def __init__(self, axes: Sequence[int]) -> None:
        if not isinstance(axes, Sequence):
            raise AxisError(f"permute: expected every axis once, got {axes!r}.")
        self.axes = tuple(axes)

    def _order(self, x: Any) -> tuple[int, ...]:
        order = normalize_axes("permute", self.axes, len(x.shape))
        if len(order) != len(x.shape):
            raise AxisError(f"permute: expected every axis once, got {self.axes} of {describe(x)}.")
        return order

    def compute(self, x: Array) -> Array:
        return array_api.permute_dims(x, self._order(x))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        order = self._order(node)
        return permute(out_grad, sorted(range(len(order)), key=order.__getitem__))


def permute(a: Tensor, axes: Sequence[int]) -> Tensor:
    """x with its axes in another order."""
    return Permute(axes)(a)


class Reshape(TensorOp):
    """y = x's elements, in order, in another shape; one extent may be -1.

    Gradient: dy in x's shape.
    """

    def __init__(self, shape: Sequence[int] | int) -> None:
        self.shape = _as_shape("reshape", shape)
        negative = [extent for extent in self.shape if extent < 0]
        if negative and negative != [-1]:
            raise ShapeError(
                f"reshape: expected extents of 0 or more, and at most one -1, got {self.shape}."
            )
        self.expects = f"as many elements as shape {self.shape} has"

    def compute(self, x: Array) -> Array:
        return array_api.reshape(x, self.shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return reshape(out_grad, node.inputs[0].shape)


def reshape(a: Tensor, shape: Sequence[int] | int) -> Tensor:
    """The elements, in order, in another shape; one extent may be -1."""
    return Reshape(shape)(a)


def flatten(a: Tensor, start_axis: int = 0) -> Tensor:
    """The axes from `start_axis` on as one."""
    start = normalize_axis("flatten", start_axis, max(a.ndim, 1))
    size = 1
    for extent in a.shape[start:]:
        size *= extent
    return reshape(a, (*a.shape[:start], size))


class BroadcastTo(TensorOp):
    """y = x, repeated along its axes of length 1 and along new leading axes, by NumPy's rules.

    Gradient: dy summed over what was repeated.
    """

    name = "broadcast_to"

    def __init__(self, shape: Sequence[int] | int) -> None:
        self.shape = _as_shape("broadcast_to", shape)
        self.expects = f"a shape that broadcasts to {self.shape}"

    def compute(self, x: Array) -> Array:
        return array_api.broadcast_to(x, self.shape)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return unbroadcast(out_grad, node.inputs[0])


def broadcast_to(a: Tensor, shape: Sequence[int] | int) -> Tensor:
    """x, repeated to fill `shape`."""
    return BroadcastTo(shape)(a)


class Squeeze(TensorOp):
    """y = x without axes of length 1: those named, or all of them (None)."""

    expects = "length 1 along each axis to take away"

    def __init__(self, axes: Axes = None) -> None:
        self.axes = axes

    def compute(self, x: Array) -> Array:
        axes = None if self.axes is None else normalize_axes("squeeze", self.axes, len(x.shape))
        return array_api.squeeze(x, axis=axes)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return reshape(out_grad, node.inputs[0].shape)


def squeeze(a: Tensor, axes: Axes = None) -> Tensor:
    """x without axes of length 1: those named, or all of them."""
    return Squeeze(axes)(a)


class ExpandDims(TensorOp):
    """y = x with new axes of length 1, at positions `axes` of the result."""

    name = "expand_dims"
    expects = "axes that the result has"

    def __init__(self, axes: int | Sequence[int]) -> None:
        self.axes = axes

    def compute(self, x: Array) -> Array:
        new = len(self.axes) if isinstance(self.axes, (tuple, list)) else 1
        return array_api.expand_dims(x, normalize_axes("expand_dims", self.axes, x.ndim + new))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return reshape(out_grad, node.inputs[0].shape)


def expand_dims(a: Tensor, axes: int | Sequence[int]) -> Tensor:
    """x with new axes of length 1, at positions `axes` of the result."""
    return ExpandDims(axes)(a)


class Flip(TensorOp):
    """y = x reversed along `axes` (None: all). Gradient: dy reversed along them."""

    expects = "axes that the array has"

    def __init__(self, axes: Axes = None) -> None:
        self.axes = axes

    def compute(self, x: Array) -> Array:
        return array_api.flip(x, axis=normalize_axes("flip", self.axes, len(x.shape)))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return flip(out_grad, self.axes)


def flip(a: Tensor, axes: Axes = None) -> Tensor:
    """x reversed along `axes`."""
    return Flip(axes)(a)


class Concatenate(TensorOp):
    """y = the arrays one after another along an axis that they have.

    arrays of the same shape but for `axis` -> y, as long along `axis` as they are together.
    Gradient: dy cut where they met.
    """

    expects = "arrays of the same shape but for the axis they are joined along"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, *arrays: Array) -> Array:
        axis = normalize_axis("concatenate", self.axis, arrays[0].ndim)
        return array_api.concatenate(arrays, axis=axis)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        axis = normalize_axis("concatenate", self.axis, node.ndim)
        before = (slice(None),) * axis
        pieces, start = [], 0
        for x in node.inputs:
            stop = start + x.shape[axis]
            piece = (*before, slice(start, stop))
            pieces.append(unbroadcast(out_grad[piece], x))
            start = stop
        return pieces


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """The Tensors one after another along an axis that they have."""
    tensors = tuple(tensors)
    if not tensors:
        raise ShapeError("concatenate: expected at least one Tensor, got none.")
    return Concatenate(axis)(*tensors)
