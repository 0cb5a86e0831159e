"""Layouts of NumPy's arrays, and what a layout shows when it is laid over an array's memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from needle.backend_ndarray.layout import Layout, View


def steps_of(array: np.ndarray) -> tuple[int, ...]:
    """NumPy's strides, in elements."""
    return tuple([stride // array.itemsize for stride in array.strides])


def layout_of(array: np.ndarray) -> Layout:
    return Layout.of("cpu", array.dtype, array.shape, steps_of(array))


def seen(array: np.ndarray, view: View) -> np.ndarray:
    """The elements that a view of `array`, counted from its first element, has."""
    layout, offset = view
    if layout.size == 0:
        return np.empty(layout.shape, layout.dtype)
    step = array.itemsize
    interface = {
        "data": (array.__array_interface__["data"][0] + offset * step, True),
        "shape": layout.shape,
        "strides": tuple([stride * step for stride in layout.strides]),
        "typestr": array.dtype.str,
        "version": 3,
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface, keeps=array))
