"""Several Tensors as one value: making tuples, taking them apart, stacking and splitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import needle
from needle.autograd.tensor import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import DTypeError, OutOfRangeError, ShapeError, describe
from needle.ops.arithmetic import AddScalar
from needle.ops.broadcasting import normalize_axis, unbroadcast

__all__ = [
    "FusedAddScalars",
    "MakeTensorTuple",
    "Split",
    "Stack",
    "TupleGetItem",
    "fused_add_scalars",
    "make_tuple",
    "split",
    "stack",
    "tuple_get_item",
]


class MakeTensorTuple(TensorTupleOp):
    """(x0, x1, ...) as one value. Gradient: each Tensor's own."""

    name = "make_tuple"

    def compute(self, *arrays: Array) -> tuple[Array, ...]:
        return tuple(arrays)

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        return tuple([unbroadcast(out_grad[i], x) for i, x in enumerate(node.inputs)])


def make_tuple(*tensors: Tensor) -> TensorTuple:
    """The Tensors as one value of the graph."""
    return MakeTensorTuple()(*tensors)


class TupleGetItem(TensorOp):
    """y = t[index]. Gradient: dy in that slot, zeros in the others."""

    name = "tuple_get_item"
    takes_tuple = True

    def __init__(self, index: int) -> None:
        self.index = self.slot = index

    def __call__(self, *args: Any) -> Tensor:
        (values,) = args
        if not isinstance(values, TensorTuple):
            raise DTypeError(f"{self.name}: expected a TensorTuple, got {describe(values)}.")
        if not -len(values) <= self.index < len(values):
            raise OutOfRangeError(
                f"{self.name}: expected an index below {len(values)}, got {self.index}."
            )
        if self.index < 0:
            return TupleGetItem(self.index + len(values))(values)
        if isinstance(values.op, MakeTensorTuple):  # what was just put in
            return values.inputs[self.index]  # type: ignore[no-any-return]
        return super().__call__(values)

    def compute(self, values: tuple[Array, ...]) -> Array:
        return values[self.index]

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (values,) = node.inputs
        return make_tuple(
            *[
                out_grad if i == self.index else needle.init.zeros_like(value)
                for i, value in enumerate(values)
            ]
        )


def tuple_get_item(value: TensorTuple, index: int) -> Tensor:
    """The Tensor at `index` of a TensorTuple."""
    return TupleGetItem(index)(value)


class FusedAddScalars(TensorTupleOp):
    """(x + c0, x + c1). Gradient: the sum of both."""

    name = "fused_add_scalars"

    def __init__(self, c0: float, c1: float) -> None:
        self.c0, self.c1 = c0, c1

    def compute(self, x: Array) -> tuple[Array, ...]:
        return AddScalar(self.c0).compute(x), AddScalar(self.c1).compute(x)

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        return out_grad[0] + out_grad[1]


def fused_add_scalars(x: Tensor, c0: float, c1: float) -> TensorTuple:
    """(x + c0, x + c1)."""
    return FusedAddScalars(c0, c1)(x)


class Stack(TensorOp):
    """y = the Tensors of a tuple, of equal shapes, joined along a new axis. Gradient: split(dy)."""

    expects = "arrays of equal shape, and an axis that the result has"
    takes_tuple = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, arrays: tuple[Array, ...]) -> Array:
        return array_api.stack(arrays, axis=self.axis)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return split(out_grad, self.axis)


def stack(tensors: Sequence[Tensor] | TensorTuple, axis: int = 0) -> Tensor:
    """Tensors of equal shape joined along a new axis."""
    if len(tensors) == 0:
        raise ShapeError("stack: expected at least one Tensor, got none.")
    return Stack(axis)(tensors if isinstance(tensors, TensorTuple) else make_tuple(*tensors))


class Split(TensorTupleOp):
    """(y0, y1, ...) = the slices of x along `axis`, without that axis. Gradient: stack(dy)."""

    expects = "an axis that the array has"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, x: Array) -> tuple[Array, ...]:
        axis = normalize_axis("split", self.axis, len(x.shape))
        before = (slice(None),) * axis
        places = [(*before, i) for i in range(x.shape[axis])]
        return tuple([primitives.index(x, place) for place in places])

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> Any:
        return stack(out_grad, self.axis)


def split(a: Tensor, axis: int) -> TensorTuple:
    """The slices of x along `axis`, without that axis."""
    return Split(axis)(a)
