"""Elements picked by position; their gradients are scattered back, added where named twice.

An index is split in two: Tensors in it are inputs of the op, the rest is the op's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp, as_tensor
from needle.backend_selection import Array, Device, NDArray, primitives
from needle.dtypes import is_integer
from needle.errors import DTypeError, ShapeError, describe
from needle.fixed import fixed
from needle.ops.broadcasting import normalize_axis

__all__ = [
    "GetItem",
    "ScatterAdd",
    "ScatterAlong",
    "TakeAlong",
    "gather",
    "getitem",
    "take",
    "take_along",
]

_TENSOR = "a Tensor, given as an input"


def _split_index(index: Any, device: Device | None = None) -> tuple[tuple[Any, ...], list[Tensor]]:
    """`index` with a mark in place of each Tensor or array, and those as Tensors on `device`."""
    template: list[Any] = []
    tensors: list[Tensor] = []
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, (list, tuple, range, np.ndarray, NDArray)):
            part = _index_tensor(part, device)
        if isinstance(part, Tensor):
            if not is_integer(part.dtype) and part.dtype != np.bool_:
                raise DTypeError(
                    f"getitem: expected integer or bool indices, got {describe(part)}."
                )
            template.append(_TENSOR)
            tensors.append(part.detach())
        elif part is None or part is ... or isinstance(part, slice) or hasattr(part, "__index__"):
            template.append(part)
        else:
            raise DTypeError(
                f"getitem: expected ints, slices, None, ... and arrays as indices, got {part!r}."
            )
    return tuple(template), tensors


def _join_index(template: tuple[Any, ...], arrays: Sequence[Array]) -> tuple[Any, ...]:
    remaining = iter(arrays)
    return tuple([next(remaining) if part is _TENSOR else part for part in template])


class GetItem(TensorOp):
    """y = x[index], by NumPy's rules: ints, slices, None, ..., integer and bool arrays.

    Gradient: dx = zeros with dy added at `index`. Raises OutOfRangeError.
    """

    def __init__(self, template: tuple[Any, ...]) -> None:
        self.template = template
        self.expects = f"an index within its shape (the index is {_shown(template)})"

    def compute(self, x: Array, *arrays: Array) -> Array:
        return primitives.index(x, _join_index(self.template, arrays))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, *indices = node.inputs
        return (ScatterAdd(x.shape, self.template)(out_grad, *indices), *[None] * len(indices))


def _shown(template: tuple[Any, ...]) -> str:
    return "[" + ", ".join("array" if part is _TENSOR else str(part) for part in template) + "]"


def getitem(a: Tensor, index: Any) -> Tensor:
    """a[index], by NumPy's rules; Tensors of integers or bools may stand in the index."""
    template, tensors = _split_index(index, a.device)
    return GetItem(template)(a, *tensors)


class ScatterAdd(TensorOp):
    """y = zeros of `shape` with x added at an index; places named twice get both.

    Gradient: dx = dy[index].
    """

    name = "scatter_add"

    def __init__(self, shape: tuple[int, ...], template: tuple[Any, ...]) -> None:
        self.shape, self.template = shape, template

    def compute(self, x: Array, *arrays: Array) -> Array:
        if not arrays:  # slices name no place twice
            return primitives.put(self.shape, self.template, x)
        return primitives.scatter_add(self.shape, _join_index(self.template, arrays), x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        indices = node.inputs[1:]
        return (GetItem(self.template)(out_grad, *indices), *[None] * len(indices))


def take(a: Tensor, indices: Any, axis: int = 0) -> Tensor:
    """Slices of `a` along `axis`, picked by an integer array: an embedding is take(table, ids)."""
    position = normalize_axis("take", axis, a.ndim)
    return getitem(a, (*[slice(None)] * position, indices))


class TakeAlong(TensorOp):
    """y[..., j, ...] = x[..., indices[..., j, ...], ...], along `axis`.

    x: (..., N, ...), integer indices: (..., M, ...), the other axes broadcasting -> y:
    (..., M, ...), x's dtype.
    Gradient: dy added at the indices.
    """

    name = "take_along"
    expects = "integer indices within the axis, with as many axes"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, x: Array, indices: Array) -> Array:
        if not is_integer(indices.dtype) or x.ndim != indices.ndim:
            kind = ShapeError if is_integer(indices.dtype) else DTypeError
            raise kind(f"take_along: expected {self.expects}, got {describe(x, indices)}.")
        return primitives.take_along(x, indices, normalize_axis(self.name, self.axis, x.ndim))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        x, indices = node.inputs
        return ScatterAlong(x.shape, self.axis)(out_grad, indices), None


class ScatterAlong(TensorOp):
    """y = zeros of `shape` with x added at `indices` along `axis`. Gradient: take_along of dy."""

    name = "scatter_along"

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        self.shape, self.axis = shape, axis

    def compute(self, x: Array, indices: Array) -> Array:
        axis = normalize_axis(self.name, self.axis, len(self.shape))
        return primitives.scatter_along(self.shape, indices, axis, x)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return TakeAlong(self.axis)(out_grad, node.inputs[1]), None


def _index_tensor(indices: Any, device: Device | None) -> Tensor:
    """Indices as a constant on the device; a list of none is of integers."""
    if isinstance(indices, (list, tuple, range)) and not len(indices):
        indices = fixed(np.zeros(0, np.int64))
    return as_tensor(indices, device).detach()


def take_along(a: Tensor, indices: Any, axis: int) -> Tensor:
    """Elements picked along `axis`, one choice for each place on the other axes.

    As `numpy.take_along_axis`: the other axes broadcast.
    """
    return TakeAlong(axis)(a, _index_tensor(indices, a.device))


def gather(a: Tensor, axis: int, indices: Any) -> Tensor:
    """As `torch.gather`: y[i, j] = a[indices[i, j], j] for axis 0, y of the shape of `indices`.

    Along the other axes `indices` may be shorter than `a`.
    """
    indices = _index_tensor(indices, a.device)
    axis = normalize_axis("gather", axis, a.ndim)
    if indices.ndim != a.ndim or any(
        m > n for i, (m, n) in enumerate(zip(indices.shape, a.shape, strict=True)) if i != axis
    ):
        raise ShapeError(
            "gather: expected indices with as many axes as the array, no longer than it on the "
            f"others, got {describe(indices)} for {describe(a)}."
        )
    window = [slice(None) if i == axis else slice(m) for i, m in enumerate(indices.shape)]
    return take_along(getitem(a, tuple(window)), indices, axis)
