"""Constants and random draws.

All randomness is NumPy's global stream (`numpy.random.seed`), one call per function, on every
device: the same seed gives the same numbers everywhere. Draws are float64 until the last cast.
A shape is written as numbers, `zeros(2, 3)`, or as one tuple, `zeros((2, 3))`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.backend_selection import Device, cpu
from needle.errors import DeviceError, ShapeError

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


Extents = int | Sequence[int]


def _shape(function: str, extents: tuple[Extents, ...]) -> tuple[int, ...]:
    """The shape from `f(2, 3)` or `f((2, 3))`."""
    numbers: Any = extents
    if len(extents) == 1 and isinstance(extents[0], (tuple, list)):
        numbers = extents[0]
    try:
        shape = tuple([operator.index(number) for number in numbers])
    except TypeError:
        shape = (-1,)
    if min(shape, default=0) < 0:
        raise ShapeError(f"{function}: expected a shape of whole numbers, got {extents}.")
    return shape


def _on(device: Device | None) -> Device:
    if device is not None and not isinstance(device, Device):
        raise DeviceError(f"device: expected a device such as ndl.cpu(), got {device!r}.")
    return device or cpu()


def _tensor(array: Any, device: Device | None, dtype: Any, requires_grad: bool) -> Tensor:
    return Tensor(array, device=_on(device), dtype=dtype, requires_grad=requires_grad)


def rand(
    *shape: Extents,
    low: float = 0.0,
    high: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Uniform draws in [low, high). Draws: `numpy.random.rand(*shape)`."""
    draw = np.asarray(np.random.rand(*_shape("rand", shape))) * (high - low) + low
    return _tensor(draw, device, dtype, requires_grad)


def randn(
    *shape: Extents,
    mean: float = 0.0,
    std: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Normal draws, N(mean, std²). Draws: `numpy.random.randn(*shape)`."""
    draw = np.asarray(np.random.randn(*_shape("randn", shape))) * std + mean
    return _tensor(draw, device, dtype, requires_grad)


def randb(
    *shape: Extents,
    p: float = 0.5,
    device: Device | None = None,
    dtype: Any = "bool",
    requires_grad: bool = False,
) -> Tensor:
    """True (or 1) with probability p. Draws: `numpy.random.rand(*shape)`, true where ≤ p."""
    draw = np.asarray(np.random.rand(*_shape("randb", shape)))
    return _tensor(draw <= p, device, dtype, requires_grad)


def constant(
    *shape: Extents,
    c: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor filled with c."""
    data = _on(device).full(_shape("constant", shape), c, dtype=dtype)
    return Tensor.make_const(data, requires_grad=requires_grad)


def ones(
    *shape: Extents,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor of ones."""
    return constant(*shape, c=1, device=device, dtype=dtype, requires_grad=requires_grad)


def zeros(
    *shape: Extents,
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
    data = _on(device).one_hot(n, ids, dtype=dtype)
    return Tensor.make_const(data, requires_grad=requires_grad)


def zeros_like(
    array: Any, *, device: Device | None = None, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros with the shape, dtype and device of a Tensor, or of an array."""
    return zeros(*array.shape, requires_grad=requires_grad, **_like(array, device, dtype))


def ones_like(
    array: Any, *, device: Device | None = None, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones with the shape, dtype and device of a Tensor, or of an array."""
    return ones(*array.shape, requires_grad=requires_grad, **_like(array, device, dtype))


def _like(array: Any, device: Device | None, dtype: Any) -> dict[str, Any]:
    if device is None and isinstance(array, Tensor):
        device = array.device
    return {"device": device, "dtype": array.dtype if dtype is None else dtype}
