"""Many elements to one: sums, means, extremes; and running sums.

The functions take `axis=` too for what is `axes=` here.
"""

from __future__ import annotations

import math
from typing import Any

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.errors import OptionError, ShapeError, describe
from needle.ops.broadcasting import (
    Axes,
    expand_reduced,
    named_axes,
    normalize_axes,
    normalize_axis,
)
from needle.ops.comparison import equal, indicator, where

__all__ = [
    "AllTrue",
    "AnyTrue",
    "ArgMax",
    "ArgMin",
    "CumSum",
    "Max",
    "Mean",
    "Min",
    "Std",
    "Summation",
    "Var",
    "all",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "max",
    "mean",
    "min",
    "std",
    "summation",
    "var",
]


class Reduction(TensorOp):
    """An op over `axes` (None: all), which go, or stay at length 1 with `keepdims`."""

    expects = "numbers, and axes that the array has"

    def __init__(self, axes: Axes = None, keepdims: bool = False) -> None:
        self.axes, self.keepdims = axes, keepdims

    def _axes(self, x: Any) -> tuple[int, ...]:
        return normalize_axes(self.name, self.axes, len(x.shape))

    def _expanded(self, reduced: Tensor, x: Tensor) -> Tensor:
        return expand_reduced(reduced, self._axes(x), x)


class Summation(Reduction):
    """y = Σ x over `axes`.

    x: any shape -> y: without `axes` (0-d for all), x's dtype; small integers widen as in NumPy.
    Gradient: dx = dy, repeated along `axes`.
    """

    def compute(self, x: Array) -> Array:
        return primitives.total(x, self._axes(x), self.keepdims)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        return self._expanded(out_grad, x).broadcast_to(x.shape)


def summation(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """Σ x over `axes`; over all of them by default."""
    return Summation(named_axes("summation", axes, named), keepdims)(a)


def _count(x: Any, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


class Mean(Reduction):
    """y = Σ x / N over `axes`, N elements each.

    x: any shape -> y: without `axes`, x's dtype (float64 for integers); of nothing: NaN.
    Gradient: dx = dy / N, repeated along `axes`.
    """

    def compute(self, x: Array) -> Array:
        options = {"axis": self._axes(x), "keepdims": self.keepdims}
        return primitives.in_float32(array_api.mean, x, **options)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        share = out_grad / _count(x, self._axes(x))
        return self._expanded(share, x).broadcast_to(x.shape)


def mean(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """The mean over `axes`."""
    return Mean(named_axes("mean", axes, named), keepdims)(a)


class Var(Reduction):
    """y = Σ (x - mean)² / (N - correction) over `axes`.

    x: any shape, float -> y: without `axes`, same dtype. correction 0: biased, as NumPy's default
    (PyTorch's is 1).
    Gradient: dx = dy · 2 (x - mean) / (N - correction).
    """

    def __init__(self, axes: Axes = None, keepdims: bool = False, correction: int = 0) -> None:
        super().__init__(axes, keepdims)
        self.correction = correction

    def _degrees(self, x: Any) -> int:
        degrees = _count(x, self._axes(x)) - self.correction
        if degrees <= 0:
            raise OptionError(
                f"{self.name}: expected more than {self.correction} elements to reduce, "
                f"got {describe(x)} over axes {self.axes}."
            )
        return degrees

    def compute(self, x: Array) -> Array:
        return primitives.in_float32(self._variance, x)

    def _variance(self, x: Array) -> Array:
        axes = self._axes(x)
        degrees = self._degrees(x)
        centred = x - array_api.mean(x, axis=axes, keepdims=True)
        return primitives.total(centred * centred, axes, self.keepdims) / degrees

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        centred = x - mean(x, self._axes(x), keepdims=True)
        return self._expanded(out_grad * (2 / self._degrees(x)), x) * centred


def var(
    a: Tensor, axes: Axes = None, keepdims: bool = False, correction: int = 0, **named: Any
) -> Tensor:
    """The variance over `axes`, divided by N - correction."""
    return Var(named_axes("var", axes, named), keepdims, correction)(a)


class Std(Var):
    """y = √(Σ (x - mean)² / (N - correction)) over `axes`: the root of `Var`.

    Gradient: dx = dy · (x - mean) / (y · (N - correction)); 0 where all x are equal and y is 0.
    """

    def compute(self, x: Array) -> Array:
        return primitives.in_float32(self._root, x)

    def _root(self, x: Array) -> Array:
        return array_api.sqrt(self._variance(x))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        centred = x - mean(x, self._axes(x), keepdims=True)
        share = out_grad / self._degrees(x) / where(equal(node, 0), 1, node)
        return self._expanded(share, x) * centred


def std(
    a: Tensor, axes: Axes = None, keepdims: bool = False, correction: int = 0, **named: Any
) -> Tensor:
    """The standard deviation over `axes`: the root of `var`."""
    return Std(named_axes("std", axes, named), keepdims, correction)(a)


class Extreme(Reduction):
    """The largest or smallest element, to which the gradient goes; to several in equal parts."""

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        (x,) = node.inputs
        winners = indicator(equal(x, self._expanded(node, x)), x)
        share = winners / winners.sum(self._axes(x), keepdims=True)
        return self._expanded(out_grad, x) * share

    def _require_elements(self, x: Array) -> None:
        if _count(x, self._axes(x)) == 0:
            raise ShapeError(
                f"{self.name}: expected at least one element along axes {self._axes(x)}, "
                f"got {describe(x)}."
            )


class Max(Extreme):
    """y = max x over `axes`; NaN if there is one.

    x: any shape -> y: without `axes`, same dtype.
    Gradient: dy to the largest elements, in equal parts.
    """

    def compute(self, x: Array) -> Array:
        self._require_elements(x)
        return array_api.max(x, axis=self._axes(x), keepdims=self.keepdims)


def max(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """The largest element along `axes`."""
    return Max(named_axes("max", axes, named), keepdims)(a)


class Min(Extreme):
    """y = min x over `axes`; NaN if there is one.

    x: any shape -> y: without `axes`, same dtype.
    Gradient: dy to the smallest elements, in equal parts.
    """

    def compute(self, x: Array) -> Array:
        self._require_elements(x)
        return array_api.min(x, axis=self._axes(x), keepdims=self.keepdims)


def min(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """The smallest element along `axes`."""
    return Min(named_axes("min", axes, named), keepdims)(a)


class AllTrue(Reduction):
    """y = whether every x along `axes` is true, as bool; of nothing: True. Not differentiable.

    x: any shape; any number but 0 counts as true -> y: without `axes`.
    """

    name = "all"
    differentiable = False

    def compute(self, x: Array) -> Array:
        return array_api.all(x, axis=self._axes(x), keepdims=self.keepdims)


def all(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """Whether every element along `axes` is true."""
    return AllTrue(named_axes("all", axes, named), keepdims)(a)


class AnyTrue(Reduction):
    """y = whether some x along `axes` is true, as bool; of nothing: False. Not differentiable.

    x: any shape; any number but 0 counts as true -> y: without `axes`.
    """

    name = "any"
    differentiable = False

    def compute(self, x: Array) -> Array:
        return array_api.any(x, axis=self._axes(x), keepdims=self.keepdims)


def any(a: Tensor, axes: Axes = None, keepdims: bool = False, **named: Any) -> Tensor:
    """Whether some element along `axes` is true."""
    return AnyTrue(named_axes("any", axes, named), keepdims)(a)


class ArgMax(TensorOp):
    """y = the index (int64) of the first largest element along `axis`, or in all of x."""

    expects = "at least one element along the axis, and an axis that the array has"
    differentiable = False

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis

    def compute(self, x: Array) -> Array:
        return array_api.argmax(x, axis=self.axis)


def argmax(a: Tensor, axis: int | None = None) -> Tensor:
    """The index of the first largest element along `axis`, or in the flattened array."""
    return ArgMax(axis)(a)


class ArgMin(TensorOp):
    """y = the index (int64) of the first smallest element along `axis`, or in all of x."""

    expects = "at least one element along the axis, and an axis that the array has"
    differentiable = False

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis

    def compute(self, x: Array) -> Array:
        return array_api.argmin(x, axis=self.axis)


def argmin(a: Tensor, axis: int | None = None) -> Tensor:
    """The index of the first smallest element along `axis`, or in the flattened array."""
    return ArgMin(axis)(a)


class CumSum(TensorOp):
    """y[i] = x[0] + ... + x[i], along `axis`.

    x: any shape -> y: same shape; small integers widen as in NumPy.
    Gradient: the running sum from the other end.
    """

    expects = "numbers, and an axis that the array has"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def compute(self, x: Array) -> Array:
        axis = normalize_axis("cumsum", self.axis, x.ndim)
        return primitives.in_float32(array_api.cumsum, x, axis=axis)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        return out_grad.flip(self.axis).cumsum(self.axis).flip(self.axis)


def cumsum(a: Tensor, axis: int) -> Tensor:
    """Running sums along `axis`."""
    return CumSum(axis)(a)
