"""NumPy arrays whose values follow from shapes, options and Python's numbers alone: masks, tables.

A compiled function may hold on to such values. It refuses other arrays of NumPy, which may have
other values at the next call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Fixed", "as_values", "fixed", "numbers_are_fixed"]

_MANY = 4096  # numbers in a list that nobody watches any more


class Fixed(np.ndarray[Any, Any]):
    """An array of NumPy that is known to have the same values at each call."""


class _Marking(threading.local):
    numbers: bool = False


_marking = _Marking()


@contextmanager
def numbers_are_fixed() -> Iterator[None]:
    """In the block, and this thread, arrays made of Python's numbers are marked.

    For whoever sees to it that the numbers are the same at each call.
    """
    before, _marking.numbers = _marking.numbers, True
    try:
        yield
    finally:
        _marking.numbers = before


def as_values(array: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """`numpy.asarray`, but what is marked stays so."""
    if _marking.numbers:
        array = _plain(array)
    values = np.asarray(array, dtype=dtype)
    if isinstance(array, Fixed) or (_marking.numbers and _is_of_numbers(array, values.size)):
        return values.view(Fixed)
    return values


def _plain(x: Any) -> Any:
    """What stands for a number of the run by that number, which from then on is watched."""
    if type(x) in (list, tuple):
        return [_plain(item) for item in x]
    return x.plain() if getattr(x, "is_fixed", False) else x


def _is_of_numbers(x: Any, count: int) -> bool:
    if type(x) in (list, tuple):
        return count <= _MANY and all(_is_of_numbers(item, count) for item in x)
    return type(x) in (int, float, bool, range)


def fixed(values: Any) -> Fixed:
    """The array, marked; what is computed from it is marked too."""
    return np.asarray(values).view(Fixed)
