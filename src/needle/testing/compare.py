"""Equality of arrays within the precision of their dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.dtypes import is_floating
from needle.errors import describe

__all__ = ["assert_close", "tolerance"]

# About 2^10 roundings of one part in 2^53, 2^24, 2^11, 2^8.
_RTOL = {"float64": 1e-12, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def tolerance(*dtypes: Any) -> float:
    """The relative tolerance for results of these dtypes: that of the coarsest float; else 0."""
    return max((_RTOL.get(np.dtype(dtype).name, 0.0) for dtype in dtypes), default=0.0)


def assert_close(
    actual: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    same_dtype: bool = False,
    what: str = "assert_close",
) -> None:
    """|actual - expected| ≤ atol + rtol · |expected|, everywhere; shapes equal, nothing broadcasts.

    actual, expected  Tensors or whatever NumPy makes an array of; NaN equals NaN
    rtol              default: by the coarser dtype, 1e-12 for float64, 1e-4 for float32; 0 for
                      integers and bools
    atol              default: as rtol, for values of about 1
    same_dtype        whether the dtypes must agree too
    what              what is compared, to start the message with

    >>> from needle.testing import assert_close
    >>> assert_close([1.0, 2.0], [1.0, 2.0 + 1e-14])
    >>> assert_close([1.0, 2.0], [1.0, 2.5])
    Traceback (most recent call last):
    AssertionError: assert_close: expected 2.5 at (1,), got 2.0: 1 of 2 elements differ by more \
than rtol 1e-12, atol 1e-12.
    """
    a, e = _array(actual), _array(expected)
    if a.shape != e.shape or (same_dtype and a.dtype != e.dtype):
        raise AssertionError(f"{what}: expected {describe(e)}, got {describe(a)}.")
    rtol = tolerance(a.dtype, e.dtype) if rtol is None else rtol
    atol = rtol if atol is None else atol
    wrong = ~_close(a, e, rtol, atol)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: expected {e[place]} at {place}, got {a[place]}: {int(wrong.sum())} of "
            f"{wrong.size} elements differ by more than rtol {rtol:g}, atol {atol:g}."
        )


def _array(value: Any) -> np.ndarray[Any, Any]:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)


def _close(a: Any, e: Any, rtol: float, atol: float) -> np.ndarray[Any, Any]:
    if not (is_floating(a.dtype) or is_floating(e.dtype)):
        return np.asarray(a == e)
    wide_a, wide_e = a.astype(np.float64), e.astype(np.float64)
    return np.asarray(np.isclose(wide_a, wide_e, rtol=rtol, atol=atol, equal_nan=True))
