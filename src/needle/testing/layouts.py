"""The same values laid out in memory in other ways than row after row; on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from needle.backend_selection import BACKEND, Device, default_device, primitives

__all__ = ["LAYOUTS", "raw_array"]

Array = np.ndarray[Any, Any]


def raw_array(array: Array, device: Device | None = None) -> Any:
    """A raw array with these values in this layout; in np mode the array itself.

    In nd mode it lies in a copy of the memory from the array's lowest element to its highest, with
    the same strides.
    """
    if BACKEND == "np":
        return array
    from needle.backend_ndarray.layout import Layout

    if array.size == 0 or any(step % array.itemsize for step in array.strides):
        return primitives.from_numpy(array, array.dtype, device)
    steps = tuple([step // array.itemsize for step in array.strides])
    spans = [(n - 1) * step for n, step in zip(array.shape, steps, strict=True)]
    length = 1 + sum(abs(span) for span in spans)
    rising = array[tuple([slice(None, None, -1 if step < 0 else 1) for step in steps])]
    memory = np.lib.stride_tricks.as_strided(rising, (length,), (array.itemsize,))
    place: Any = device or default_device()
    row: Any = primitives.from_numpy(memory, array.dtype, place)
    first = -sum(span for span in spans if span < 0)
    return row._view((Layout.of(place, array.dtype, array.shape, steps), first))


def _permuted(array: Array) -> Array:
    """Columns one after another: strides in the opposite order."""
    return np.asarray(array, order="F")


def _sliced(array: Array) -> Array:
    """Every other element of an array twice as long."""
    if array.ndim == 0:
        return array
    twice = np.repeat(array, 2, axis=-1)
    return twice[..., ::2]


def _flipped(array: Array) -> Array:
    """Back to front: negative strides."""
    if array.ndim == 0:
        return array
    return np.ascontiguousarray(np.flip(array))[(slice(None, None, -1),) * array.ndim]


def _repeated(array: Array) -> Array:
    """The first element along the first axis in place of all: a stride of zero. Other values."""
    return np.broadcast_to(array[:1], array.shape) if array.size else array


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "permuted": _permuted,
    "sliced": _sliced,
    "flipped": _flipped,
    "zero-stride": lambda array: array if array.ndim == 0 else _repeated(array),
}
