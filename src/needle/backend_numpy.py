"""np mode: NumPy arrays are the arrays, and this file holds the little that NumPy lacks.

The reference device. Its results are the specification that every other device is held to.
The primitives, which every backend has under the same names and with the same meaning:

    arrays in, out     asarray, constant, from_dlpack, from_numpy, from_values, to_numpy
    devices            device_of, to_device
    elements by place  index, put, put_parts, take_along, scatter_along, add_along,
                       scatter_add, windows
    functions          total, einsum, multiply_add, erf, sigmoid
    step after step    recur
    how to compute     in_float32, scalar_for, quietly, require

Whatever looks at the values of an array stands here and not in an op's `compute`, which also runs
on arrays that have a shape and a dtype but no data. What a primitive makes is on the device of the
arrays that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import numpy as np

from needle.dtypes import as_dtype, is_floating, is_narrow
from needle.errors import DeviceError, OutOfRangeError
from needle.unrolled import unrolled

__all__ = [
    "Device",
    "add_along",
    "all_devices",
    "asarray",
    "constant",
    "cpu",
    "cpu_numpy",
    "cuda",
    "default_device",
    "device_of",
    "einsum",
    "erf",
    "from_dlpack",
    "from_numpy",
    "from_values",
    "in_float32",
    "index",
    "multiply_add",
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

Array = Any


class Device:
    """A place where arrays live and are computed on. In np mode there is one: `cpu()`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name}()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def enabled(self) -> bool:
        """Whether arrays can be made on this device here."""
        return self == _CPU

    def randn(self, *shape: int, dtype: Any = "float32") -> Array:
        """Normal draws, N(0, 1), from NumPy's global stream."""
        return np.asarray(np.random.randn(*shape)).astype(as_dtype(dtype))

    def rand(self, *shape: int, dtype: Any = "float32") -> Array:
        """Uniform draws in [0, 1) from NumPy's global stream."""
        return np.asarray(np.random.rand(*shape)).astype(as_dtype(dtype))

    def one_hot(self, n: int, i: Array, dtype: Any = "float32") -> Array:
        """1 at the class ids `i`, else 0; shape `i.shape + (n,)`."""
        with np.errstate(invalid="ignore"):  # NaN becomes a number that is no class
            ids = np.asarray(i).astype(np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < n:
            raise OutOfRangeError(
                f"one_hot: expected class ids in 0..{n - 1}, got {ids.min()}..{ids.max()}."
            )
        out = np.zeros((*ids.shape, n), dtype=as_dtype(dtype))
        np.put_along_axis(out, ids[..., None], 1, axis=-1)
        return out

    def empty(self, shape: tuple[int, ...], dtype: Any = "float32") -> Array:
        """An array with arbitrary contents."""
        return np.empty(shape, dtype=as_dtype(dtype))

    def full(self, shape: tuple[int, ...], fill_value: float, dtype: Any = "float32") -> Array:
        """An array filled with one value."""
        return np.full(shape, fill_value, dtype=as_dtype(dtype))


_CPU = Device("cpu")


def cpu() -> Device:
    """The CPU, computing with NumPy."""
    return _CPU


def cuda() -> Device:
    """A GPU, which np mode has none of: `enabled()` is False."""
    return Device("cuda")


def cpu_numpy() -> Device:
    """nd mode's reference device. Here it is not enabled; `cpu()` computes with NumPy."""
    return Device("cpu_numpy")


def default_device() -> Device:
    """Where a Tensor is made when no device is named."""
    return _CPU


def all_devices() -> list[Device]:
    """Every device of this mode."""
    return [_CPU]


def from_numpy(array: Any, dtype: Any = None, device: Device | None = None) -> Array:
    """A fresh array with the values of `array` (anything `numpy.array` takes).

    dtype  default: what NumPy has for them; for what are no numbers, TypeError
    """
    if device is not None and device != _CPU:
        of_nd = type(device).__module__.startswith("needle.backend_ndarray")
        raise DeviceError(
            f"device: expected np mode's cpu(), got {device!r}{' of nd mode' * of_nd}."
        )
    data = np.array(array, dtype=dtype if dtype is None else as_dtype(dtype))
    if data.dtype.kind in "OSUMm" and not all(isinstance(item, Number) for item in data.flat):
        raise TypeError(f"dtype {data.dtype}")
    return data


def from_dlpack(x: Any) -> Array:
    """The memory of another library's array as NumPy's array."""
    return np.from_dlpack(x)


def from_values(array: Any, device: Device | None = None) -> Array:
    """What a Tensor holds where no dtype is named: here the dtype that NumPy has for the values."""
    return from_numpy(array, None, device)


def constant(number: float, dtype: Any, device: Device) -> Array:
    """A number as a 0-d array, which nobody writes to."""
    return from_numpy(number, dtype, device)


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """A NumPy copy of a raw array."""
    return np.array(array)


def asarray(value: Any, beside: Sequence[Any] = ()) -> Array:
    """NumPy hands back scalars where a result is 0-d; graphs hold arrays. `beside`: the inputs."""
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def device_of(array: Array) -> Device:
    """Where a raw array lives."""
    return _CPU


def place(device: Device) -> Device:
    """Where an array asked for on a device is to be made."""
    return device


def to_device(array: Array, device: Device) -> Array:
    """A raw array on another device, of which there is none here. Raises DeviceError."""
    return array if device == _CPU else from_numpy(array, None, device)


# -- how to compute ----------------------------------------------------------------------------


def in_float32(function: Any, x: Array, **options: Any) -> Array:
    """`function(x, **options)`, for which 16- and 8-bit floats are float32 on the way.

    For what takes several steps, each of which would round.
    """
    if not is_narrow(x.dtype):
        return function(x, **options)
    return np.asarray(function(x.astype(np.float32), **options)).astype(x.dtype)


def scalar_for(x: Array, number: Any) -> Any:
    """`number`, to be computed with x, such that x keeps its dtype if that is a float.

    NumPy does not take the floats of ml_dtypes for floats: bfloat16 + 1.0 would be float32.
    """
    return number if x.dtype.kind != "V" else x.dtype.type(number)


def quietly(function: Callable[..., Array], *arguments: Any) -> Array:
    """`function(*arguments)`, where inf - inf and division by 0 are no cause for a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return function(*arguments)


def require(holds: Array, error: Callable[[], Exception]) -> None:
    """Raise `error()` unless every element of the bool array `holds` is true.

    Where arrays have no data there is nothing to find out: it does nothing.
    """
    if not np.logical_and.reduce(holds, axis=None):
        raise error()


# -- elements by place -------------------------------------------------------------------------


def index(x: Array, key: Any) -> Array:
    """x[key], by NumPy's rules: ints take their axis away; integer and bool arrays may be in it.

    key: a tuple of ints, slices, None, ... and arrays. Raises IndexError for a place outside x.
    """
    return x[key]


def put(shape: tuple[int, ...], key: Any, values: Array) -> Array:
    """Zeros of `shape` with `values` at `key`, which holds no arrays: ints, slices, None, ...

    values: broadcasts to the shape of what `index` gives for the key. Raises ValueError.
    """
    out = np.zeros(shape, dtype=values.dtype)
    out[key] = values
    return out


def put_parts(
    shape: tuple[int, ...], keys: Sequence[Any], parts: Sequence[Array], like: Array
) -> Array:
    """Zeros of `shape`, of the dtype of `like`, with each of `parts` at its key, as in `put`.

    No place is in two keys.
    """
    out = np.zeros(shape, dtype=like.dtype)
    for key, part in zip(keys, parts, strict=True):
        out[key] = part
    return out


def scatter_add(shape: tuple[int, ...], index: Any, values: Array) -> Array:
    """Zeros of `shape` with `values` added at `index`; places named twice get both."""
    out = np.zeros(shape, dtype=values.dtype)
    np.add.at(out, index, values)
    return out


def take_along(x: Array, indices: Array, axis: int) -> Array:
    """y[..., j, ...] = x[..., indices[..., j, ...], ...] along `axis`, 0 or more.

    x: (..., N, ...), integer indices: (..., M, ...), as many axes, the others broadcasting ->
    y: (..., M, ...). Negative ones count from the end. Raises IndexError outside -N..N-1.
    """
    return x[_along(x.shape, indices, axis)]


def scatter_along(shape: tuple[int, ...], indices: Array, axis: int, values: Array) -> Array:
    """Zeros of `shape` with `values` added at the places that `take_along` reads.

    values: broadcasts to the shape of those places. Raises as `take_along` does.
    """
    return scatter_add(shape, _along(shape, indices, axis), values)


def add_along(x: Array, indices: Array, axis: int, number: float) -> Array:
    """x with `number` added at the places that `take_along` reads, each of them named once.

    x is given up: its memory may be that of the result. Raises as `take_along` does.
    """
    x[_along(x.shape, indices, axis)] += number
    return x


def _along(shape: tuple[int, ...], indices: Array, axis: int) -> tuple[Array, ...]:
    """An index that runs over every axis in step, and along `axis` through `indices`."""
    if len(indices.shape) != len(shape):
        raise ValueError(f"expected indices with {len(shape)} axes, got {len(indices.shape)}")
    mesh = [
        indices if i == axis else np.arange(extent).reshape((extent, *(1,) * (len(shape) - i - 1)))
        for i, extent in enumerate(shape)
    ]
    return tuple(mesh)


def windows(
    x: Array,
    axes: Sequence[int],
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Array:
    """A view of x's windows, which nobody writes to.

    Axis `axes[i]` becomes the number of the window, of which there are (n - (size - 1) · dilation
    - 1) // stride + 1, one at least; a new axis at the end, in the order of `axes`, is the place in
    it.
    """
    shape, steps = list(x.shape), list(x.strides)
    for axis, size, stride, dilation in zip(axes, sizes, strides, dilations, strict=True):
        shape[axis] = (shape[axis] - (size - 1) * dilation - 1) // stride + 1
        steps[axis] *= stride
        steps.append(x.strides[axis] * dilation)
    return np.lib.stride_tricks.as_strided(x, (*shape, *sizes), steps, writeable=False)


# -- functions ---------------------------------------------------------------------------------


_sum: Any = np.add.reduce  # what np.sum comes to, by a shorter way


def total(x: Array, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Σ x over `axis` (None: all). Small integers widen as in NumPy; narrow floats add in float32.

    In its own dtype a sum of ones stops growing at 2048 (float16) or 256 (bfloat16).
    """
    if is_narrow(x.dtype):
        wide = x.astype(np.float32)
        return np.asarray(_sum(wide, axis=axis, keepdims=keepdims)).astype(x.dtype)
    return _sum(x, axis=axis, keepdims=keepdims)


_SMALL_EINSUM = 1000


def einsum(subscripts: str, *arrays: Array) -> Array:
    """The sum of products that `subscripts` spells: a letter per axis, commas, "->" and letters.

    Extents of 1 broadcast. Arrays of one dtype give that dtype; 16- and 8-bit floats add up in
    float32.
    """
    wide = [a.astype(np.float32) if is_narrow(a.dtype) else a for a in arrays]
    # two arrays at a time, as matrix products: it copies, and plans for some 20 us
    pays = len(arrays) > 2 or any(a.size > _SMALL_EINSUM for a in arrays)
    summed = np.einsum(subscripts, *wide, optimize=pays)
    dtypes = {array.dtype for array in arrays}
    return summed.astype(dtypes.pop(), copy=False) if len(dtypes) == 1 else summed


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a · b + c, elementwise; the three broadcast together."""
    return a * b + c


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written with exp(-|x|) so that it overflows nowhere."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay)).astype(
        _float_dtype(x), copy=False
    )


def _float_dtype(x: Array) -> Any:
    """As `exp` has it: int8 becomes float16, int64 float64."""
    return x.dtype if is_floating(x.dtype) else np.exp.resolve_dtypes((x.dtype, None))[-1]


# Rational Chebyshev approximations of erf on [0, 0.46875], and of erfc on [0.46875, 4] and
# [4, inf). W. J. Cody, "Rational Chebyshev approximations for the error function",
# Math. Comp. 23 (1969). Highest power first; relative error below 1e-15.
_ERF_SMALL = (
    (1.85777706184603153e-1, 3.16112374387056560e00, 1.13864154151050156e02,
     3.77485237685302021e02, 3.20937758913846947e03),
    (1.0, 2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03,
     2.84423683343917062e03),
)  # fmt: skip
_ERFC_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e00,
     6.61191906371416295e01, 2.98635138197400131e02, 8.81952221241769090e02,
     1.71204761263407058e03, 2.05107837782607147e03, 1.23033935479799725e03),
    (1.0, 1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02,
     1.62138957456669019e03, 3.29079923573345963e03, 4.36261909014324716e03,
     3.43936767414372164e03, 1.23033935480374942e03),
)  # fmt: skip
_ERFC_LARGE = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
     1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e00, 1.87295284992346725e00, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)  # fmt: skip
_SQRT_PI = 1.7724538509055160


def _rational(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    numerator, denominator = coefficients
    return np.polyval(numerator, x) / np.polyval(denominator, x)


def erf(x: Array) -> Array:
    """erf(x) = 2/√π ∫₀ˣ exp(-t²) dt, computed in float64 and rounded to x's dtype."""
    wide = np.asarray(x, dtype=np.float64)
    size = np.abs(wide)
    small = wide * _rational(_ERF_SMALL, np.minimum(size, 0.46875) ** 2)
    middle = np.clip(size, 0.46875, 4.0)
    erfc = np.exp(-(middle**2)) * _rational(_ERFC_MIDDLE, middle)
    large = np.clip(size, 4.0, 6.0)  # erf rounds to 1 from 5.93 on
    inverse_square = 1.0 / large**2
    tail = inverse_square * _rational(_ERFC_LARGE, inverse_square)
    erfc_large = np.exp(-(large**2)) * (1.0 / _SQRT_PI - tail) / large
    beyond = np.copysign(1.0 - np.where(size > 4.0, erfc_large, erfc), wide)
    result = np.where(size <= 0.46875, small, beyond)
    return np.where(np.isnan(wide), wide, result).astype(_float_dtype(x), copy=False)


# -- step after step -------------------------------------------------------------------------------


def recur(
    step: Callable[..., Any],
    states: Sequence[Array],
    inputs: Sequence[Array],
    reverse: bool = False,
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """`step` at each place of the inputs' first axis in turn; from the last on if `reverse`.

    step    (states, inputs at a place, without that axis) -> (states, outputs)
    inputs  one or more, their first axes of equal length, 1 or more

    Returns the states after the last step, and each output at all places, stacked.
    """
    return unrolled(step, states, inputs, reverse, at=lambda x, t: x[t], stack=np.stack)
