"""The same values laid out in memory in other ways than row after row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LAYOUTS"]

Array = np.ndarray[Any, Any]


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
