"""What a compiled function returns, held against what it returns as it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import needle as ndl
from needle.jit import jit

# Eager sums in another order than a fused loop does, and contracts with a tail of another shape.
RTOL = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


def tensor(values: Any, requires_grad: bool = False) -> ndl.Tensor:
    """A Tensor of these values and their dtype."""
    values = np.asarray(values)
    return ndl.Tensor(values, dtype=values.dtype, requires_grad=requires_grad)


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    """Normal numbers, the same ones for the same shape and seed."""
    return np.random.RandomState(seed).standard_normal(shape).astype(dtype)


def assert_same(given: Any, expected: Any, rtol: float | None = None) -> None:
    """Same dtype, shape and values; NaN, infinities and signs of zeros too."""
    given, expected = given.numpy(), expected.numpy()
    assert (given.dtype, given.shape) == (expected.dtype, expected.shape)
    if rtol is None:
        rtol = RTOL.get(str(given.dtype), 0)
    wide = np.float64 if rtol else given.dtype
    a, b = given.astype(wide), expected.astype(wide)
    np.testing.assert_allclose(a, b, rtol, rtol, equal_nan=True)
    zeros = (a == 0) & (b == 0)
    assert np.array_equal(np.signbit(a[zeros]), np.signbit(b[zeros])) or not rtol


def assert_compiled_as_eager(
    function: Callable[..., Any], *values: Any, rtol: float | None = None
) -> Callable[..., Any]:
    """Run a function of Tensors both ways, compiled twice; returns the compiled one."""
    given = [x if isinstance(x, ndl.Tensor) else tensor(x) for x in values]
    expected = function(*given)
    compiled = jit(function)
    for _ in range(2):
        results = compiled(*given)
        if isinstance(expected, ndl.Tensor):
            assert_same(results, expected, rtol)
            continue
        assert len(results) == len(expected)
        for a, b in zip(results, expected, strict=True):
            assert_same(a, b, rtol)
    return compiled
