"""Axes and broadcasting: what several operators need, once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from needle.autograd.tensor import Tensor
from needle.dtypes import is_floating
from needle.errors import AxisError, DTypeError, describe

__all__ = [
    "Axes",
    "expand_reduced",
    "named_axes",
    "normalize_axes",
    "normalize_axis",
    "require_tensors",
    "unbroadcast",
]

Axes = int | Sequence[int] | None


def require_tensors(name: str, *values: Any) -> None:
    """Raise DTypeError unless all `values` are Tensors."""
    for value in values:
        if not isinstance(value, Tensor):
            raise DTypeError(
                f"{name}: expected Tensors, got {describe(value)}. Wrap it first: ndl.Tensor(...)."
            )


def named_axes(op: str, axes: Axes, named: dict[str, Any]) -> Axes:
    """The axes of a reduction, given as `axes` or as NumPy's `axis`.

    named  the further options of the call. NumPy's functions pass out=None and dtype=None; for
           whatever else than these and `axis`, TypeError.
    """
    if not named:
        return axes
    for name, value in named.items():
        if name != "axis" and (name not in ("out", "dtype") or value is not None):
            raise DTypeError(f"{op}: expected axes (or axis) and keepdims as options, got {name}.")
    axis: Axes = named.get("axis")
    if axis is not None and axes is not None:
        raise AxisError(f"{op}: expected axes or axis, got both, {axes} and {axis}.")
    return axes if axis is None else axis


def normalize_axes(op: str, axes: Axes, ndim: int) -> tuple[int, ...]:
    """Axes as a tuple of numbers in 0..ndim-1; None means all.

    Raises AxisError for an axis that is not there or is named twice.
    """
    if axes is None:
        return tuple(range(ndim))
    numbers = axes if isinstance(axes, (tuple, list)) else (axes,)
    result = []
    for axis in numbers:
        try:
            number = operator.index(axis)
        except TypeError:
            raise DTypeError(f"{op}: expected axes to be ints, got {axes!r}.") from None
        if not -ndim <= number < ndim:
            raise AxisError(
                f"{op}: expected axes in [{-ndim}, {ndim}) of an array with {ndim} axes, "
                f"got {number}."
            )
        result.append(number % ndim)
    if len(set(result)) != len(result):
        raise AxisError(f"{op}: expected each axis once, got {tuple(numbers)}.")
    return tuple(result)


def normalize_axis(op: str, axis: Any, ndim: int) -> int:
    """One axis as a number in 0..ndim-1. Raises AxisError, or DTypeError for None or several."""
    if axis is None or isinstance(axis, (tuple, list)):
        raise DTypeError(f"{op}: expected one axis, an int, got {axis!r}.")
    return normalize_axes(op, axis, ndim)[0]


def expand_reduced(reduced: Tensor, axes: tuple[int, ...], like: Tensor) -> Tensor:
    """Undo a reduction's loss of axes, so that it broadcasts: `axes` back with length 1."""
    if reduced.ndim == 0:
        return reduced
    shape = tuple([1 if axis in axes else extent for axis, extent in enumerate(like.shape)])
    return reduced if reduced.shape == shape else reduced.reshape(shape)


def unbroadcast(grad: Any, like: Any) -> Any:
    """The adjoint of broadcasting and of type promotion: sum `grad` down to what `like` is."""
    given, wanted = grad.shape, like.shape
    if given != wanted:
        new = len(given) - len(wanted)
        stretched = [new + i for i, n in enumerate(wanted) if n == 1 and given[new + i] != 1]
        grad = grad.sum((*range(new), *stretched), keepdims=new == 0)
        if new and stretched:
            grad = grad.reshape(wanted)
    dtype = like.dtype
    if grad.dtype != dtype and is_floating(dtype):
        grad = grad.astype(dtype)
    return grad
