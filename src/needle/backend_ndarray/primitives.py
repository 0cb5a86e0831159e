"""nd mode: what the operators need beside NumPy's names, on NDArrays.

The sibling of `needle.backend_numpy`, whose functions these are by name and meaning:

    arrays in, out     asarray, constant, from_dlpack, from_numpy, from_values, to_numpy
    devices            device_of, to_device
    elements by place  index, put, put_parts, take_along, scatter_along, add_along,
                       scatter_add, windows
    functions          total, einsum, multiply_add, erf, sigmoid
    step after step    recur
    how to compute     in_float32, scalar_for, quietly, require

What a function makes is on the device of the arrays that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from needle.backend_ndarray import creation, reductions
from needle.backend_ndarray.access import (
    along,
    index,
    put,
    put_parts,
    scatter_add,
    scatter_along,
    take_along,
)
from needle.backend_ndarray.device import Device
from needle.backend_ndarray.devices import as_device, note_condition
from needle.backend_ndarray.dlpack import from_dlpack
from needle.backend_ndarray.elementwise import broadcast_shapes, primitive, unary_function
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.linalg import einsum
from needle.backend_ndarray.ndarray import NDArray
from needle.backend_ndarray.recurrence import recur
from needle.dtypes import as_dtype, is_narrow
from needle.errors import DeviceError
from needle.fixed import as_values

__all__ = [
    "add_along",
    "asarray",
    "constant",
    "device_of",
    "einsum",
    "erf",
    "from_dlpack",
    "from_numpy",
    "from_values",
    "in_float32",
    "index",
    "multiply_add",
    "place",
    "put",
    "put_parts",
    "quietly",
    "recur",
    "require",
    "scalar_for",
    "scatter_add",
    "scatter_along",
    "sigmoid",
    "take_along",
    "to_device",
    "to_numpy",
    "total",
    "windows",
]

_FLOAT32 = np.dtype(np.float32)


# -- arrays in and out -------------------------------------------------------------------------


def asarray(value: Any, beside: Sequence[Any] = ()) -> NDArray:
    """`value` itself if it is an NDArray; else what an op of the user's may have computed.

    beside: the inputs, on whose device the array is made; without them on the default device.
    """
    if type(value) is NDArray:
        return value
    first = next((array for array in beside if type(array) is NDArray), None)
    return creation.asarray(value, device=None if first is None else first.device)


def from_numpy(array: Any, dtype: Any = None, device: Device | None = None) -> NDArray:
    """A fresh array with the values of `array` (anything `numpy.array` takes).

    dtype   default: what NumPy has for them; for what are no real numbers, TypeError
    device  default: an NDArray's own, else the default device
    """
    if device is not None and not isinstance(device, Device):
        raise DeviceError(f"device: expected a device such as ndl.cpu(), got {device!r}.")
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(array, NDArray):
        moved = array if device is None else array.to(device)
        same = moved is not array and wanted in (None, array.dtype)
        return moved if same else moved.astype(wanted or array.dtype)
    values = as_values(array) if wanted else creation.as_numbers(array)
    return creation.array(values, wanted or values.dtype, device)


def from_values(array: Any, device: Device | None = None) -> NDArray:
    """What a Tensor holds where no dtype is named: float32, but an NDArray keeps its dtype."""
    if isinstance(array, NDArray):
        return from_numpy(array, None, device)
    return from_numpy(creation.as_numbers(array), _FLOAT32, device)


@lru_cache(maxsize=256)
def _constant(number: float, sign: float, dtype: np.dtype[Any], device: Device) -> NDArray:
    return creation.array(np.asarray(number), dtype, device)


def constant(number: float, dtype: np.dtype[Any], device: Device) -> NDArray:
    """A number as a 0-d array, which nobody writes to."""
    return _constant(number, math.copysign(1.0, number), dtype, device)


def to_numpy(array: NDArray) -> np.ndarray[Any, Any]:
    """A NumPy copy of a raw array."""
    return array.numpy()


def device_of(array: NDArray) -> Device:
    """Where a raw array lives, or what has a layout will live."""
    return array.device


def place(device: Device) -> Device:
    """Where an array asked for on a device is to be made: on its trace, while one is made."""
    return as_device(device)


def to_device(array: NDArray, device: Device) -> NDArray:
    """A raw array on another device."""
    return array.to(device)  # type: ignore[no-any-return]


# -- how to compute ----------------------------------------------------------------------------


def in_float32(function: Callable[..., NDArray], x: NDArray, **options: Any) -> NDArray:
    """`function(x, **options)`, for which 16-bit floats are float32 on the way.

    For what takes several steps, each of which would round.
    """
    if not is_narrow(x.dtype):
        return function(x, **options)
    return function(x.astype(_FLOAT32), **options).astype(x.dtype)  # type: ignore[no-any-return]


def scalar_for(x: NDArray, number: Any) -> Any:
    """`number`: next to an NDArray of floats, Python's numbers take its dtype."""
    return number


def quietly(function: Callable[..., NDArray], *arguments: Any) -> NDArray:
    """`function(*arguments)`: here nothing warns of NaN."""
    return function(*arguments)


def require(holds: NDArray, error: Callable[[], Exception]) -> None:
    """Raise `error()` unless every element of the bool array `holds` is true.

    Where arrays have no data it is noted for those who will run what is traced.
    """
    if not holds.device.has_memory:
        note_condition(holds)
    elif not reductions.all(holds).item():
        raise error()


# -- elements by place -------------------------------------------------------------------------


def add_along(x: NDArray, indices: NDArray, axis: int, number: float) -> NDArray:
    """x with `number` added at the places that `take_along` reads, each of them named once."""
    mesh = along(x.shape, indices, axis)
    places = Layout.of(x.device, x.dtype, broadcast_shapes("add_along", mesh))
    numbers = creation.filled("add_along", places, number)
    return x + scatter_along(x.shape, indices, axis, numbers)  # type: ignore[no-any-return]


def windows(
    x: NDArray,
    axes: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> NDArray:
    """A view of x's windows, which nobody writes to.

    Axis `axes[i]` becomes the number of the window, of which there are (n - (size - 1) · dilation
    - 1) // stride + 1, one at least; a new axis at the end, in the order of `axes`, is the place in
    it.
    """
    view = x._layout.windows(tuple(axes), tuple(sizes), tuple(strides), tuple(dilations))
    return x._view(view)


# -- functions ---------------------------------------------------------------------------------


def total(x: NDArray, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> NDArray:
    """Σ x over `axis` (None: all); narrow floats add in float32. Integers widen as in NumPy."""
    return reductions.sum(x, axis, keepdims)


multiply_add = primitive("multiply_add")
erf = unary_function("erf")
sigmoid = unary_function("sigmoid")
