"""Graphs of primitives, recorded from functions of arrays, for tests of what is made of them."""

from __future__ import annotations

import numpy as np

from needle.backend_ndarray.devices import cpu
from needle.backend_ndarray.layout import Layout
from needle.backend_ndarray.ndarray_backend_trace import recorded, traced
from needle.program.graph import Graph


def layout(*shape, dtype="float32"):
    """Row after row, on the device that programs are for."""
    return Layout.of(cpu(), np.dtype(dtype), shape)


def graph_of(function, *layouts, updates=None):
    """What a function of arrays does, as a graph between them and what it returns."""
    arrays = [traced(given) for given in layouts]
    results = function(*arrays)
    results = results if isinstance(results, tuple) else (results,)
    inputs = [recorded(array).node for array in arrays]
    return Graph(inputs, [recorded(result) for result in results], updates=updates or {})
