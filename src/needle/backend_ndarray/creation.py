"""Arrays from nothing, from values, and on memory that there is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from needle.backend_ndarray import promotion
from needle.backend_ndarray.device import Device, Scalar
from needle.backend_ndarray.devices import as_device, note_values
from needle.backend_ndarray.elementwise import as_number
from needle.backend_ndarray.layout import Layout, as_shape, require_extents
from needle.backend_ndarray.ndarray import NDArray, new_array, require_array
from needle.backend_ndarray.plans import Plan, Plans, checked, no_memory, require_memory
from needle.dtypes import is_floating, is_integer
from needle.errors import (
    DeviceError,
    DTypeError,
    OutOfRangeError,
    ShapeError,
    describe,
)
from needle.fixed import as_values

__all__ = [
    "arange",
    "array",
    "asarray",
    "empty",
    "eye",
    "full",
    "full_like",
    "make",
    "one_hot",
    "ones",
    "zeros",
]

_INT64 = np.dtype(np.int64)


def array(a: Any, dtype: Any = None, device: Device | None = None) -> NDArray:
    """A fresh array with the values of an NDArray, a NumPy array or whatever NumPy makes one of.

    dtype   default: an NDArray's own, else float32
    device  default: an NDArray's own, else `default_device()`

    Raises DTypeError for what are not numbers, and for Python numbers that an integer dtype
    cannot hold; values of a NumPy array wrap around as in NumPy.
    """
    if isinstance(a, NDArray):
        to = a.dtype if dtype is None else promotion.as_supported(dtype)
        return _copied(a, to, a.device if device is None else as_device(device))
    wanted = promotion.as_supported("float32" if dtype is None else dtype)
    return _uploaded(as_numbers(a, wanted), wanted, as_device(device), a)


def as_numbers(
    a: Any, dtype: np.dtype[Any] | None = None, name: str = "array"
) -> np.ndarray[Any, Any]:
    """The values as NumPy's. Python's own become integers only if they fit: DTypeError."""
    fits = dtype is not None and is_integer(dtype) and not hasattr(a, "dtype")
    try:
        values = as_values(a, dtype if fits else None)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        if hasattr(a, "__dlpack__"):  # PyTorch's bfloat16, or what has a graph
            return _by_dlpack(a, name)
        wanted = "numbers in rows of equal length" if dtype is None else f"values for {dtype}"
        raise DTypeError(f"{name}: expected {wanted}, got {_shown(a)}. ({error})") from None
    if values.dtype.kind in "biuf" or is_floating(values.dtype):
        return values
    if values.dtype == object and all(isinstance(x, Real) for x in values.flat):
        try:
            return values.astype(np.float64)
        except OverflowError:
            raise DTypeError(
                f"{name}: expected numbers that a float64 can hold, got {_shown(a)}."
            ) from None
    raise DTypeError(f"{name}: expected real numbers, got {_shown(a)} of dtype {values.dtype}.")


def _by_dlpack(a: Any, name: str) -> np.ndarray[Any, Any]:
    """The values of another library's array, without its graph, where NumPy does not get them."""
    from needle.backend_ndarray.dlpack import from_dlpack

    try:
        return np.asarray(from_dlpack(a.detach() if hasattr(a, "detach") else a))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DTypeError(f"{name}: expected numbers, got {_shown(a)}. ({error})") from None


def _shown(a: Any) -> str:
    return describe(a) if hasattr(a, "dtype") else f"a {type(a).__name__}"


def asarray(a: Any, dtype: Any = None, device: Device | None = None) -> NDArray:
    """`a` as an NDArray: itself if it is one, else a copy in the dtype that NumPy gives it."""
    if isinstance(a, NDArray):
        return a if dtype is None else a.astype(dtype, copy=False)
    values = as_numbers(a, None if dtype is None else promotion.as_supported(dtype))
    kind = promotion.as_supported(dtype or values.dtype)
    return _uploaded(values, kind, as_device(device), a)


def _copied(a: NDArray, dtype: np.dtype[Any], device: Device) -> NDArray:
    if device not in (a.device, a.device.real):
        if not a.device.has_memory:
            return a.to(device).astype(dtype, copy=False)  # type: ignore[no-any-return]
        return _uploaded(a.numpy(), dtype, device, a)
    return a.astype(dtype)  # type: ignore[no-any-return]


def _uploaded(
    values: np.ndarray[Any, Any], dtype: np.dtype[Any], device: Device, given: Any
) -> NDArray:
    """NumPy's values, of what was given, converted, in fresh memory of a device."""
    layout = Layout.of(device, dtype, values.shape)
    with np.errstate(all="ignore"):
        if not device.has_memory:
            note_values(given)
            return new_array(layout, device.adopt(values.astype(dtype)))
        memory = memory_for("array", layout)
        device.view(layout, memory, 0)[...] = values
    return new_array(layout, memory)


def memory_for(name: str, layout: Layout) -> Any:
    """Fresh memory for what `name` makes."""
    if layout.device.has_memory:
        require_memory(name, layout.nbytes)
    try:
        return layout.device.empty_memory(layout)
    except MemoryError:
        raise no_memory(name, layout.nbytes) from None


def _layout(name: str, shape: Any, dtype: Any, device: Device | None) -> Layout:
    extents = as_shape(name, shape)
    if any(n < 0 for n in extents):
        raise ShapeError(f"{name}: expected extents of 0 or more, got {extents}.")
    kind = promotion.as_supported("float32" if dtype is None else dtype)
    require_extents(name, extents, kind.itemsize)
    return Layout.of(as_device(device), kind, extents)


def empty(shape: Any, dtype: Any = "float32", device: Device | None = None) -> NDArray:
    """An array with arbitrary contents."""
    layout = _layout("empty", shape, dtype, device)
    return new_array(layout, memory_for("empty", layout))


_fills = Plans()


def filled(name: str, layout: Layout, value: Any) -> NDArray:
    """An array of that layout with one value, which `name` makes."""
    plan = fill_plan(layout)
    memory = memory_for(name, layout)
    plan.run(memory, 0, promotion.stored(value, layout.dtype))
    return new_array(layout, memory)


def fill_plan(layout: Layout) -> Plan:
    """What writes a number, as `promotion.stored` gives it, to all of an array."""
    kind = np.int64 if layout.dtype.kind in "iub" else np.float64
    return _fills.find(layout, lambda: assign_plan(Scalar(np.dtype(kind)), layout))


def assign_plan(source: Layout | Scalar, place: Layout) -> Plan:
    """What copies into a view."""
    device: Any = place.device
    return Plan(place, device.assign(source, place))


def full(
    shape: Any, fill_value: Any, dtype: Any = "float32", device: Device | None = None
) -> NDArray:
    """An array filled with one value."""
    layout = _layout("full", shape, dtype, device)
    value = fill_value.item() if isinstance(fill_value, NDArray) else as_number(fill_value)
    if value is None:
        raise DTypeError(f"full: expected a number, got {describe(fill_value)}.")
    return filled("full", layout, value)


def zeros(shape: Any, dtype: Any = "float32", device: Device | None = None) -> NDArray:
    """An array of zeros."""
    return filled("zeros", _layout("zeros", shape, dtype, device), 0)


def ones(shape: Any, dtype: Any = "float32", device: Device | None = None) -> NDArray:
    """An array of ones."""
    return filled("ones", _layout("ones", shape, dtype, device), 1)


def full_like(a: NDArray, fill_value: Any, dtype: Any = None) -> NDArray:
    """An array of the shape, dtype and device of another, filled with one value."""
    require_array("full_like", a)
    return full(a.shape, fill_value, dtype or a.dtype, a.device)


_iotas = Plans()


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: Device | None = None,
) -> NDArray:
    """start, start + step, ... as far as `stop`, which is left out; arange(n) is 0, ..., n - 1.

    dtype   default: int64 if all are ints, else float32
    """
    start, stop = (0, start) if stop is None else (start, stop)
    numbers = [as_number(x) for x in (start, stop, step)]
    if None in numbers or not all(map(math.isfinite, numbers)) or not numbers[2]:
        raise DTypeError(
            "arange: expected finite numbers and a step other than 0, got "
            f"{describe((start, stop, step))}."
        )
    first, last, each = numbers
    whole = all(isinstance(x, int) for x in numbers)
    count = -((first - last) // each) if whole else math.ceil((last - first) / each)
    wanted = promotion.as_supported(dtype or ("int64" if whole else "float32"))
    length = max(0, count)
    if first == 0 and each == 1:
        return _iota(_layout("arange", (length,), wanted, device))
    ends = [first, first + (length - 1) * each] if length else []
    if whole and not _fit(ends, _INT64):
        if is_integer(wanted) and not _fit(ends, wanted):
            raise DTypeError(
                f"arange: expected numbers that {wanted} can hold, got {first}..{ends[-1]}."
            )
        whole = is_integer(wanted)
    ids = _iota(_layout("arange", (length,), "int64" if whole else "float64", device))
    if whole:  # modulo 2**64, as a uint64 beyond int64 needs
        first, each = [(n + 2**63) % 2**64 - 2**63 for n in (first, each)]
    return (ids * each + first).astype(wanted, copy=False)  # type: ignore[no-any-return]


def _fit(numbers: Sequence[float], dtype: np.dtype[Any]) -> bool:
    return all(promotion.fits(number, dtype) for number in numbers)


def _iota(layout: Layout) -> NDArray:
    plan = _iotas.find(layout, lambda: _iota_plan(layout))
    return new_array(layout, plan.run())


def _iota_plan(layout: Layout) -> Plan:
    device: Any = layout.device
    return Plan(layout, checked("arange", device.iota(layout), layout))


def eye(
    n: int, m: int | None = None, k: int = 0, dtype: Any = "float32", device: Device | None = None
) -> NDArray:
    """An [n, m] matrix, by default square, with ones on its k-th diagonal, else zeros."""
    layout = _layout("eye", (n, n if m is None else m), dtype, device)
    rows, columns = layout.shape
    (k,) = as_shape("eye", k)
    matrix = filled("eye", layout, 0)
    length = min(rows + min(k, 0), columns - max(k, 0))
    if length > 0:
        corner = matrix[max(-k, 0) :, max(k, 0) :]
        corner.as_strided((length,), (columns + 1,)).fill(1)
    return matrix


def one_hot(n: int, i: Any, dtype: Any = "float32", device: Device | None = None) -> NDArray:
    """1 at the class ids `i`, else 0; shape `i.shape + (n,)`. Ids are cut off to integers."""
    with np.errstate(invalid="ignore"):  # NaN becomes a number that is no class
        ids = np.asarray(i).astype(np.int64)
    layout = _layout("one_hot", (*ids.shape, n), dtype, device)
    if layout.device.has_memory:
        require_memory("one_hot", max(layout.nbytes, _INT64.itemsize * n))
    if ids.size and not 0 <= ids.min() <= ids.max() < n:
        raise OutOfRangeError(
            f"one_hot: expected class ids in 0..{n - 1}, got {ids.min()}..{ids.max()}."
        )
    places = array(ids[..., None], "int64", device)
    return (places == arange(n, device=device)).astype(dtype)  # type: ignore[no-any-return]


def make(
    shape: Sequence[int],
    strides: Sequence[int] | None,
    device: Device | None,
    handle: Any,
    offset: int,
    dtype: Any,
) -> NDArray:
    """An array on the memory of `handle`, or on fresh memory: `NDArray.make`."""
    if handle is not None:
        device = _device_of(handle, device)
    layout = _layout("make", shape, dtype, device)
    memory = memory_for("make", layout) if handle is None else handle.memory
    array = new_array(layout, memory)
    (array._offset,) = as_shape("make", (offset,))
    if strides is not None:
        reach = (array._offset, array._memory_size())
        return array._view(
            layout.as_strided(layout.shape, as_shape("make", strides), *reach, "make")
        )
    if not 0 <= offset <= array._memory_size() - layout.size:
        raise OutOfRangeError(
            f"make: expected {layout.size} elements from an offset on that the handle's "
            f"{array._memory_size()} elements have, got offset {offset}."
        )
    return array


def _device_of(handle: Any, device: Device | None) -> Device:
    """Where the handle's memory is, which is where the array has to be."""
    from needle.backend_ndarray.raw import Array

    if not isinstance(handle, Array):
        raise DTypeError(f"make: expected an Array of a device as handle, got {handle!r}.")
    place: Device = handle.device
    if device not in (None, place):
        raise DeviceError(f"make: expected a handle of {device!r}, got one of {place!r}.")
    return place
