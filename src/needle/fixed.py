"""NumPy arrays whose values follow from shapes and options alone: masks, tables, positions.

A compiled function may hold on to such values. It refuses other arrays of NumPy, which may have
other values at the next call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Fixed", "as_values", "fixed"]


class Fixed(np.ndarray[Any, Any]):
    """An array of NumPy that is known to have the same values at each call."""


def as_values(array: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """`numpy.asarray`, but what is marked stays so."""
    values = np.asarray(array, dtype=dtype)
    return values.view(Fixed) if isinstance(array, Fixed) else values


def fixed(values: Any) -> Fixed:
    """The array, marked; what is computed from it is marked too."""
    return np.asarray(values).view(Fixed)
