"""Many elements to one, along axes: sums, means, extremes; running sums; places of extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from needle.backend_ndarray import promotion
from needle.backend_ndarray.layout import Layout, normalize_axes
from needle.backend_ndarray.ndarray import NDArray, new_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.errors import DTypeError, OptionError, ShapeError, describe

__all__ = ["all", "any", "argmax", "argmin", "cumsum", "max", "mean", "min", "prod", "sum"]

Axis = int | Sequence[int] | None


def _axes(name: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    numbers = (axis,) if isinstance(axis, (int, np.integer)) else axis
    return normalize_axes(name, numbers, ndim)


def _kept(x: NDArray, axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The result's shape."""
    if keepdims:
        return tuple([1 if i in axes else n for i, n in enumerate(x.shape)])
    return tuple([n for i, n in enumerate(x.shape) if i not in axes])


def _reduction(name: str, doc: str) -> Callable[..., NDArray]:
    plans = Plans()

    def function(x: NDArray, axis: Axis = None, keepdims: bool = False) -> NDArray:
        key = (x._layout, tuple(axis) if isinstance(axis, list) else axis, keepdims)
        plan = plans.get(key)
        if plan is None:
            plan = plans.keep(key, _plan(name, x, axis, keepdims))
        return new_array(plan.layout, plan.run(x._memory, x._offset))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _plan(name: str, x: NDArray, axis: Axis, keepdims: bool) -> Plan:
    axes = _axes(name, axis, x.ndim)
    if name in ("max", "min") and x.size == 0 and 0 in [x.shape[i] for i in axes]:
        raise ShapeError(
            f"{name}: expected at least one element along axes {axes}, got {describe(x)}."
        )
    dtype = promotion.reduction_dtype(name, x.dtype)
    out = Layout.of(x.device, dtype, _kept(x, axes, keepdims))
    return Plan(out, checked(name, x.device.reduce(name, x._layout, axes, out), out))


sum = _reduction(
    "sum", "Σ x over `axis`; small integers widen to 64 bits, 16-bit floats add up in float32."
)
prod = _reduction("prod", "Π x over `axis`; small integers widen to 64 bits.")
max = _reduction("max", "The largest element over `axis`; NaN if there is one.")
min = _reduction("min", "The smallest element over `axis`; NaN if there is one.")
all = _reduction("all", "Whether every element over `axis` is true; of nothing: True.")
any = _reduction("any", "Whether some element over `axis` is true; of nothing: False.")


def mean(x: NDArray, axis: Axis = None, keepdims: bool = False) -> NDArray:
    """Σ x / N over `axis`; of integers in float64, of nothing NaN."""
    if x.dtype.kind in "iub":
        x = x.astype("float64")
    total = sum(x.astype("float32") if x.dtype.itemsize < 4 else x, axis, keepdims)
    count = math.prod(x.shape[i] for i in _axes("mean", axis, x.ndim))
    return (total / float(count)).astype(x.dtype, copy=False)  # type: ignore[no-any-return]


def _arg_reduction(name: str, doc: str) -> Callable[..., NDArray]:
    plans = Plans()

    def function(x: NDArray, axis: int | None = None, keepdims: bool = False) -> NDArray:
        if axis is None:
            found = function(x.reshape((x.size,)), 0)
            return found.reshape((1,) * x.ndim) if keepdims else found
        key = (x._layout, axis, keepdims)
        plan = plans.get(key)
        if plan is None:
            plan = plans.keep(key, _arg_plan(name, x, axis, keepdims))
        return new_array(plan.layout, plan.run(x._memory, x._offset))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _arg_plan(name: str, x: NDArray, axis: int, keepdims: bool) -> Plan:
    if not isinstance(axis, (int, np.integer)):
        raise DTypeError(f"{name}: expected one axis, an int, got {axis!r}.")
    axes = _axes(name, axis, x.ndim)
    if x.shape[axes[0]] == 0:
        raise ShapeError(
            f"{name}: expected at least one element along axis {axis}, got {describe(x)}."
        )
    out = Layout.of(x.device, np.dtype(np.int64), _kept(x, axes, keepdims))
    return Plan(out, checked(name, x.device.arg_reduce(name, x._layout, axes[0], out), out))


argmax = _arg_reduction("argmax", "The index (int64) of the first largest element; NaN wins.")
argmin = _arg_reduction("argmin", "The index (int64) of the first smallest element; NaN wins.")

_scans = Plans()


def cumsum(x: NDArray, axis: int | None = None) -> NDArray:
    """Running sums along `axis`; of the flattened array by default. Dtypes as `sum`'s."""
    if axis is None:
        return cumsum(x.reshape((x.size,)), 0)
    return _run_scan(x, axis)


def _run_scan(x: NDArray, axis: int) -> NDArray:
    plan = _scans.find((x._layout, axis), lambda: _scan_plan(x, axis))
    return new_array(plan.layout, plan.run(x._memory, x._offset))


def _scan_plan(x: NDArray, axis: int) -> Plan:
    if not isinstance(axis, (int, np.integer)):
        raise OptionError(f"cumsum: expected one axis, an int, got {axis!r}.")
    (number,) = _axes("cumsum", axis, x.ndim)
    out = Layout.of(x.device, promotion.reduction_dtype("cumsum", x.dtype), x.shape)
    return Plan(out, checked("cumsum", x.device.scan("cumsum", x._layout, number, out), out))
