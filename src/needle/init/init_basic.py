"""Constants and random draws.

All randomness is NumPy's global stream (`numpy.random.seed`), one call per function, on every
device: the same seed gives the same numbers everywhere. Draws are float64 until the last cast.
A shape is written as numbers, `zeros(2, 3)`, or as one tuple, `zeros((2, 3))`. A dtype of None is
the default: float32, but bool for `randb`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.autograd.modes import is_traced
from needle.autograd.random import drawn
from needle.autograd.tensor import as_tensor
from needle.backend_selection import Device, cpu, primitives
from needle.dtypes import as_dtype, is_floating
from needle.errors import DeviceError, DTypeError, OptionError, ShapeError, describe
from needle.fixed import fixed
from needle.ops.conditions import finite, require_to_be

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
    if device is not None and not device.enabled():
        raise DeviceError(f"device: expected one that is enabled here, got {device!r}.")
    return primitives.place(device or cpu())


def _or_default(dtype: Any, default: str = "float32") -> np.dtype[Any]:
    return as_dtype(default if dtype is None else dtype)


def _float_dtype(function: str, dtype: Any) -> np.dtype[Any]:
    """The dtype, if it can hold what lies between 0 and 1: others round all of it to 0."""
    found = _or_default(dtype)
    if not is_floating(found):
        raise DTypeError(f"{function}: expected a float dtype, got {found}.")
    return found


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
    """Uniform draws in [low, high), of a float dtype. Draws: `numpy.random.rand(*shape)`."""
    dtype = _float_dtype("rand", dtype)
    draw = drawn("rand", _shape("rand", shape)) * (high - low) + low
    return _tensor(draw, device, dtype, requires_grad)


def randn(
    *shape: Extents,
    mean: float = 0.0,
    std: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Normal draws, N(mean, std²), of a float dtype. Draws: `numpy.random.randn(*shape)`."""
    dtype = _float_dtype("randn", dtype)
    draw = drawn("randn", _shape("randn", shape)) * std + mean
    return _tensor(draw, device, dtype, requires_grad)


def randb(
    *shape: Extents,
    p: float = 0.5,
    device: Device | None = None,
    dtype: Any = "bool",
    requires_grad: bool = False,
) -> Tensor:
    """True (or 1) with probability p. Draws: `numpy.random.rand(*shape)`, true where ≤ p."""
    if not (isinstance(p, Real) and 0 <= p <= 1):
        raise OptionError(f"randb: expected a probability p in [0, 1], got {p!r}.")
    dtype = _or_default(dtype, "bool")
    draw = drawn("rand", _shape("randb", shape))
    return _tensor(draw <= p, device, dtype, requires_grad)


def constant(
    *shape: Extents,
    c: float = 1.0,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor filled with c."""
    return _filled("constant", shape, c, device, dtype, requires_grad)


def ones(
    *shape: Extents,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor of ones."""
    return _filled("ones", shape, 1, device, dtype, requires_grad)


def zeros(
    *shape: Extents,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """A Tensor of zeros."""
    return _filled("zeros", shape, 0, device, dtype, requires_grad)


def _filled(
    function: str,
    shape: tuple[Extents, ...],
    c: float,
    device: Device | None,
    dtype: Any,
    requires_grad: bool,
) -> Tensor:
    data = _on(device).full(_shape(function, shape), c, dtype=_or_default(dtype))
    return Tensor.make_const(data, requires_grad=requires_grad)


def one_hot(
    n: int,
    i: Any,
    device: Device | None = None,
    dtype: Any = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """y[..., c] = 1 where c = i[...], else 0; of shape i.shape + (n,).

    n  how many classes there are
    i  class ids of any shape and dtype (floats are truncated), as a Tensor or an array
    Raises OutOfRangeError for an id outside 0..n-1.
    """
    classes, ids = _classes(n), as_tensor(i)
    if is_traced():
        y = _one_hot_to_be(classes, ids.detach().to(device or cpu())).astype(_or_default(dtype))
        return Tensor.make_const(y.realize_cached_data(), requires_grad=requires_grad)
    data = _on(device).one_hot(classes, ids.numpy(), dtype=_or_default(dtype))
    return Tensor.make_const(data, requires_grad=requires_grad)


def _one_hot_to_be(n: int, ids: Tensor) -> Tensor:
    """The same while no values are known: the compiled function looks whether ids are classes."""
    rows = ids.astype("int64")
    holds = ops.logical_and(ops.greater_equal(rows, 0), ops.less(rows, n))
    if is_floating(ids.dtype):  # NaN and Inf are no numbers to cut off
        holds = ops.logical_and(holds, finite(ids))
    require_to_be(holds)
    numbers = Tensor(fixed(np.arange(n)), dtype="int64", device=ids.device, requires_grad=False)
    return ops.equal(rows.expand_dims(-1), numbers)


def _classes(n: Any) -> int:
    try:
        number = operator.index(n)
    except TypeError:
        number = -1
    if number < 0:
        raise OptionError(
            f"one_hot: expected a whole number n of classes, 0 or more, got {describe(n)}."
        )
    return number


def zeros_like(
    array: Any, *, device: Device | None = None, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros with the shape, dtype and device of a Tensor, or of an array."""
    _require_array("zeros_like", array)
    return zeros(*array.shape, requires_grad=requires_grad, **_like(array, device, dtype))


def ones_like(
    array: Any, *, device: Device | None = None, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """Ones with the shape, dtype and device of a Tensor, or of an array."""
    _require_array("ones_like", array)
    return ones(*array.shape, requires_grad=requires_grad, **_like(array, device, dtype))


def _require_array(function: str, array: Any) -> None:
    if not (hasattr(array, "shape") and hasattr(array, "dtype")):
        raise DTypeError(f"{function}: expected a Tensor or an array, got {describe(array)}.")


def _like(array: Any, device: Device | None, dtype: Any) -> dict[str, Any]:
    if device is None and isinstance(array, Tensor):
        device = array.device
    return {"device": device, "dtype": array.dtype if dtype is None else dtype}
