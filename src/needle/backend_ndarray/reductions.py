"""Many elements to one, along axes: sums, means, extremes; running sums; places of extremes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.backend_ndarray import elementwise, promotion
from needle.backend_ndarray.layout import Layout, as_shape, normalize_axes
from needle.backend_ndarray.ndarray import NDArray, new_array, require_array
from needle.backend_ndarray.plans import Plan, Plans, checked
from needle.errors import DTypeError, ShapeError, describe

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "max",
    "mean",
    "min",
    "prod",
    "std",
    "sum",
    "var",
]

Axis = int | Sequence[int] | None


def _kept(x: NDArray, axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The result's shape."""
    if keepdims:
        return tuple([1 if i in axes else n for i, n in enumerate(x.shape)])
    return tuple([n for i, n in enumerate(x.shape) if i not in axes])


def _reduction(name: str, doc: str) -> Callable[..., NDArray]:
    plans = Plans()

    def function(
        x: NDArray, axis: Axis = None, keepdims: bool = False, dtype: Any = None
    ) -> NDArray:
        if axis is not None and type(axis) is not int:
            axis = as_shape(name, axis)  # 0.0 must not pass for a remembered 0
        try:
            key: Any = (x._layout, axis, keepdims)
        except AttributeError:
            require_array(name, x)
            raise
        if dtype is not None:
            dtype = _wanted(name, dtype)
            key = (*key, dtype)
        plan = plans.get(key)
        if plan is None:
            plan = plans.keep(key, _plan(name, x, axis, keepdims, dtype))
        return new_array(plan.layout, plan.run(x._memory, x._offset))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _wanted(name: str, dtype: Any) -> np.dtype[Any]:
    """The dtype that is asked for. Raises DTypeError where the result has that of the elements."""
    if name not in ("sum", "prod", "mean"):
        raise DTypeError(f"{name}: expected no dtype, got {dtype}. Use astype(dtype).")
    return promotion.as_supported(dtype)


def _plan(name: str, x: NDArray, axis: Axis, keepdims: bool, dtype: np.dtype[Any] | None) -> Plan:
    axes = normalize_axes(name, axis, x.ndim)
    if name in ("max", "min") and x.size == 0 and 0 in [x.shape[i] for i in axes]:
        raise ShapeError(
            f"{name}: expected at least one element along axes {axes}, got {describe(x)}."
        )
    dtype = dtype or promotion.reduction_dtype(name, x.dtype)
    how = name
    if name == "mean":  # which is a sum to begin with
        dtype, how = promotion.sum_dtype(dtype), "sum"
    out = Layout.of(x.device, dtype, _kept(x, axes, keepdims))
    return Plan(out, checked(name, x.device.reduce(how, x._layout, axes, out), out))


sum = _reduction(
    "sum",
    "Σ x over `axis`; small integers widen to 64 bits, 16-bit floats add up in float32.\n\n"
    "dtype: what elements become before, and the result has.",
)
prod = _reduction(
    "prod", "Π x over `axis`; small integers widen to 64 bits. `dtype` as that of `sum`."
)
max = _reduction("max", "The largest element over `axis`; NaN if there is one.")
min = _reduction("min", "The smallest element over `axis`; NaN if there is one.")
all = _reduction("all", "Whether every element over `axis` is true; of nothing: True.")
any = _reduction("any", "Whether some element over `axis` is true; of nothing: False.")


def mean(x: NDArray, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> NDArray:
    """Σ x / N over `axis`; of integers in float64, of nothing NaN. `dtype` as that of `sum`."""
    found = _total(x, axis, keepdims, dtype) / _count("mean", x, axis)
    wanted = promotion.reduction_dtype("mean", x.dtype) if dtype is None else dtype
    return found.astype(wanted, copy=False)  # type: ignore[no-any-return]


_total = _reduction("mean", "Σ x over `axis` in the dtype that a mean is computed in.")


def _count(name: str, x: NDArray, axis: Axis) -> float:
    """How many elements become one."""
    return float(math.prod(x.shape[i] for i in normalize_axes(name, axis, x.ndim)))


def var(x: NDArray, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> NDArray:
    """Σ (x - mean)² / (N - correction) over `axis`; dtypes as `mean`'s. 16-bit in float32."""
    require_array("var", x)
    dtype = promotion.reduction_dtype("mean", x.dtype)
    if dtype.itemsize < 4:
        x = x.astype("float32")
    distance = x - mean(x, axis, True)
    freedom = _count("var", x, axis) - correction
    found = sum(distance * distance, axis, keepdims) / (freedom if freedom > 0 else 0.0)
    return found.astype(dtype, copy=False)  # type: ignore[no-any-return]


def std(x: NDArray, axis: Axis = None, keepdims: bool = False, correction: float = 0) -> NDArray:
    """√var: the standard deviation, of a sample if `correction` is 1."""
    return elementwise.apply("sqrt", var(x, axis, keepdims, correction))


def _arg_reduction(name: str, doc: str) -> Callable[..., NDArray]:
    plans = Plans()

    def function(x: NDArray, axis: int | None = None, keepdims: bool = False) -> NDArray:
        if axis is None:
            require_array(name, x)
            found = function(x.reshape((x.size,)), 0)
            return found.reshape((1,) * x.ndim) if keepdims else found
        if type(axis) is not int:
            axis = _one_axis(name, axis)
        try:
            key = (x._layout, axis, keepdims)
        except AttributeError:
            require_array(name, x)
            raise
        plan = plans.get(key)
        if plan is None:
            plan = plans.keep(key, _arg_plan(name, x, axis, keepdims))
        return new_array(plan.layout, plan.run(x._memory, x._offset))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _one_axis(name: str, axis: Any) -> int:
    try:
        return operator.index(axis)
    except TypeError:
        raise DTypeError(f"{name}: expected one axis, an int, got {axis!r}.") from None


def _arg_plan(name: str, x: NDArray, axis: int, keepdims: bool) -> Plan:
    axes = normalize_axes(name, axis, x.ndim)
    if x.shape[axes[0]] == 0:
        raise ShapeError(
            f"{name}: expected at least one element along axis {axis}, got {describe(x)}."
        )
    out = Layout.of(x.device, np.dtype(np.int64), _kept(x, axes, keepdims))
    return Plan(out, checked(name, x.device.arg_reduce(name, x._layout, axes[0], out), out))


argmax = _arg_reduction("argmax", "The index (int64) of the first largest element; NaN wins.")
argmin = _arg_reduction("argmin", "The index (int64) of the first smallest element; NaN wins.")

_scans = Plans()


def cumsum(x: NDArray, axis: int | None = None, dtype: Any = None) -> NDArray:
    """Running sums along `axis`; of the flattened array by default. Dtypes as `sum`'s."""
    require_array("cumsum", x)
    if axis is None:
        return cumsum(x.reshape((x.size,)), 0, dtype)
    wanted = None if dtype is None else promotion.as_supported(dtype)
    return _run_scan(x, _one_axis("cumsum", axis), wanted)


def _run_scan(x: NDArray, axis: int, dtype: np.dtype[Any] | None) -> NDArray:
    plan = _scans.find((x._layout, axis, dtype), lambda: _scan_plan(x, axis, dtype))
    return new_array(plan.layout, plan.run(x._memory, x._offset))


def _scan_plan(x: NDArray, axis: int, dtype: np.dtype[Any] | None) -> Plan:
    (number,) = normalize_axes("cumsum", axis, x.ndim)
    out = Layout.of(x.device, dtype or promotion.reduction_dtype("cumsum", x.dtype), x.shape)
    return Plan(out, checked("cumsum", x.device.scan("cumsum", x._layout, number, out), out))
