"""NumPy's look at memory that it does not own."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from needle.backend_ndarray.layout import Layout

__all__ = ["window"]


def window(layout: Layout, address: int, owner: Any) -> np.ndarray[Any, Any]:
    """A writable NumPy array laid out as `layout` from an address on; it holds `owner`."""
    array = np.asarray(_Window(layout, address, owner))
    return array if array.dtype is layout.dtype else array.view(layout.dtype)


@cache
def _typestr(dtype: np.dtype[Any]) -> str:
    """NumPy's code of a dtype; bfloat16, which has none, passes as an integer."""
    order = "<" if sys.byteorder == "little" else ">"
    return f"{order}u2" if dtype.name == "bfloat16" else dtype.str


class _Window:
    """NumPy holds this object, and this object the memory."""

    def __init__(self, layout: Layout, address: int, owner: Any) -> None:
        self._owner = owner
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": layout.shape,
            "strides": tuple([step * layout.itemsize for step in layout.strides]),
            "typestr": _typestr(layout.dtype),
        }
