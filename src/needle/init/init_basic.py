"""Constants and random draws.

All randomness is NumPy's global stream (`numpy.random.seed`), one call per function, on every
device: the same seed gives the same numbers everywhere. Draws are float64 until the last cast.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_selection import Device, cpu

__all__ = [
    "constant",
    "one_hot",
    "ones",
    "ones_like",
    "rand",
    "randb",
    "randn",
    "zeros",
    "zeros_like",
]


def _tensor(array: Any, device: Device | None, dtype: Any, requires_grad: bool) -> Tensor:
    return Tensor(array, device=device or cpu(), dtype=dtype, requires_grad=requires_grad)


def rand(
    *shape: int,
    low: float = 0.0,
    high: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Uniform draws in [low, high). Draws: `numpy.random.rand(*shape)`."""
    draw = np.asarray(np.random.rand(*shape)) * (high - low) + low
    return _tensor(draw, device, dtype, requires_grad)


def randn(
    *shape: int,
    mean: float = 0.0,
    std: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Normal draws, N(mean, std²). Draws: `numpy.random.randn(*shape)`."""
    draw = np.asarray(np.random.randn(*shape)) * std + mean
    return _tensor(draw, device, dtype, requires_grad)


def randb(
    *shape: int,
    p: float = 0.5,
    device: Device | None = None,
    dtype: Any = "bool",
    requires_grad: bool = False,
) -> Tensor:
    """True (or 1) with probability p. Draws: `numpy.random.rand(*shape)`, true where ≤ p."""
    return _tensor(np.asarray(np.random.rand(*shape)) <= p, device, dtype, requires_grad)


def constant(
    *shape: int,
    c: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor filled with c."""
    data = (device or cpu()).full(shape, c, dtype=dtype)
    return Tensor.make_const(data, requires_grad=requires_grad)


def ones(
    *shape: int,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor of ones."""
    return constant(*shape, c=1, device=device, dtype=dtype, requires_grad=requires_grad)


def zeros(
    *shape: int,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor of zeros."""
    return constant(*shape, c=0, device=device, dtype=dtype, requires_grad=requires_grad)


def one_hot(
    n: int,
    i: Any,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """y[..., c] = 1 where c = i[...], else 0; of shape i.shape + (n,).

    i  class ids of any shape and dtype (floats are truncated), as a Tensor or an array
    Raises OutOfRangeError for an id outside 0..n-1.
    """
    ids = i.numpy() if isinstance(i, Tensor) else np.asarray(i)
    data = (device or cpu()).one_hot(n, ids, dtype=dtype)
    return Tensor.make_const(data, requires_grad=requires_grad)


def zeros_like(array: Any, *, device: Device | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, dtype and device of a Tensor."""
    device = device or getattr(array, "device", None)
    return zeros(*array.shape, dtype=array.dtype, device=device, requires_grad=requires_grad)


def ones_like(array: Any, *, device: Device | None = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, dtype and device of a Tensor."""
    device = device or getattr(array, "device", None)
    return ones(*array.shape, dtype=array.dtype, device=device, requires_grad=requires_grad)
