"""Some primitives as what they do to each element: then they are a part of loops, which fuse.

A product of a matrix and a vector uses each element of the matrix once. So does picking one
element of each row, or adding to one. Where a loop walks the matrix anyway, they cost next to
nothing in it, and what they read or write need not go through memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import Any

import numpy as np

from needle.backend_ndarray.device import Scalar
from needle.backend_ndarray.layout import Layout, result_strides
from needle.backend_ndarray.ndarray_backend_trace import Node, Operand
from needle.origins import current
from needle.program.graph import Graph

__all__ = ["expand"]

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_INT32, _BOOL = np.dtype(np.int32), np.dtype(bool)
# Elements of rows that are summed one by one; how many there are. A loop sums less as one row.
_ROW, _LONGEST_ROW, _ROWS, _ONE_ROW = 64, 1 << 16, 16, 1 << 12
_WIDEST = 1 << 24  # columns, whose numbers are then int32


def expand(graph: Graph) -> Graph:
    """A graph with the same results, up to the order of sums, and fewer kernels of one node.

    - outer products of vectors are products of elements
    - products of a matrix that a loop walks and a vector are products of elements, and their sums
    - one element of each row of a computed matrix is the row's maximum, the others being -inf
    - the sum of all that a loop computes is that of its rows' sums
    - a matrix that is 0 but for one element of each row is a choice for each element
    """
    return _Expanded(graph).graph


class _Expanded:
    def __init__(self, graph: Graph) -> None:
        self._new: dict[Node, Node] = {}
        self._walked = _walked(graph)
        self._checks: list[Operand] = []
        self._columns: dict[tuple[Any, int], Node] = {}
        for node in graph.nodes:
            current.origin = node.origin
            self._new[node] = self._expanded(node)
        current.origin = None
        outputs = [self._read(output) for output in graph.outputs]
        checks = [*[self._read(check) for check in graph.checks], *self._checks]
        self.graph = Graph(graph.inputs, outputs, checks=checks, updates=graph.updates)

    def _read(self, operand: Operand) -> Operand:
        return Operand(self._new[operand.node], operand.layout, operand.offset)

    def _expanded(self, node: Node) -> Node:
        if node.primitive in ("input", "constant", "empty"):
            return node
        inputs = tuple([self._read(operand) for operand in node.inputs])
        found = None
        if node.primitive == "contract":
            found = self._of_contraction(node, inputs)
        elif node.primitive == "gather":
            found = self._of_gather(node, inputs)
        elif node.primitive == "scatter_add":
            found = self._of_scatter(node, inputs)
        elif node.primitive == "reduce":
            found = _of_total(node, inputs)
        if found is not None:
            return found
        return Node(node.primitive, node.layout, inputs, node.parameters, node.numbers)

    # -- products ------------------------------------------------------------------------------

    def _of_contraction(self, node: Node, inputs: tuple[Operand, ...]) -> Node | None:
        (a, b), out = inputs, node.layout
        if not out.dtype == a.layout.dtype == b.layout.dtype or out.dtype not in _FLOATS:
            return None
        batch, m, n, k = node.parameters["groups"]
        rows, columns = out.shape[batch : batch + m], out.shape[batch + m :]
        deep = a.layout.shape[batch + m :]
        if prod(deep) == 1 and out.size:
            return _outer_product(a, b, out, (batch, m, n, k))
        if prod(columns) == 1 and self._is_walked(node.inputs[0]):
            steps = b.layout.strides
            view = _viewed(b, a.layout.shape, (*steps[:batch], *[0] * m, *steps[batch:][:k]))
            kept = [*range(batch + m)]
            gone = range(batch + m, batch + m + k)
            return _sums_of_products(a, view, _picked(out, kept), kept, gone)
        if prod(rows) == 1 and self._is_walked(node.inputs[1]):
            steps = a.layout.strides
            view = _viewed(a, b.layout.shape, (*steps[:batch], *steps[batch + m :], *[0] * n))
            kept = [*range(batch), *range(batch + k, batch + k + n)]
            own = [*range(batch), *range(batch + m, batch + m + n)]
            return _sums_of_products(b, view, _picked(out, own), kept, range(batch, batch + k))
        return None

    def _is_walked(self, operand: Operand) -> bool:
        """Whether a loop walks what is read, row after row."""
        return operand.node in self._walked and not operand.layout.repeats and operand.offset == 0

    # -- one element of each row -----------------------------------------------------------------

    def _of_gather(self, node: Node, inputs: tuple[Operand, ...]) -> Node | None:
        x, *indices = inputs
        if x.node.primitive != "elementwise" or not _picks_one_a_row(x.layout, node, indices):
            return None
        shape = x.layout.shape
        here = self._is_column(indices[1], shape)
        chosen = _elementwise("where", shape, [here, x, -inf], x.layout.dtype)
        out = node.layout
        kept = Layout.of(out.device, out.dtype, out.shape, (1, 1))
        given = {"name": "max", "axes": (1,)}  # which keeps -0.0, as a sum would not
        reduced = Layout.of(out.device, out.dtype, shape[:1])
        total = Node("reduce", reduced, (_whole(chosen),), given)
        copied = {"name": "copy", "operands": (kept,), "compute": (out.dtype,)}
        return Node("elementwise", out, (Operand(total, kept, 0),), copied)

    def _of_scatter(self, node: Node, inputs: tuple[Operand, ...]) -> Node | None:
        x, *indices = inputs
        if not _picks_one_a_row(node.layout, node, indices) or not node.layout.compact:
            return None
        shape = node.layout.shape
        here = self._is_column(indices[1], shape)
        value = _viewed(x, shape, (x.layout.strides[0], 0))
        added = _whole(_elementwise("add", shape, [value, 0.0], node.layout.dtype))  # -0.0 is 0.0
        return _elementwise("where", shape, [here, added, 0.0], node.layout.dtype)

    def _is_column(self, index: Operand, shape: Sequence[int]) -> Operand:
        """Whether each column of each row is the one that the index names; also that there is one.

        As in NumPy, those below 0 count from the end.
        """
        width, rows = shape[1], index.layout.shape
        self._require("greater_equal", index, -width)
        self._require("less", index, width)
        dtype = index.layout.dtype
        negative = _whole(_elementwise("less", rows, [index, 0], _BOOL, dtype))
        from_end = _whole(_elementwise("add", rows, [index, width], dtype))
        place = _whole(_elementwise("where", rows, [negative, from_end, index], dtype))
        place = _whole(_elementwise("copy", rows, [place], _INT32))
        row = _viewed(self._counted(index.layout.device, width), shape, (0, 1))
        column = _viewed(place, shape, (1, 0))
        return _whole(_elementwise("equal", shape, [row, column], _BOOL, _INT32))

    def _require(self, name: str, index: Operand, bound: int) -> None:
        given = [index, bound]
        holds = _elementwise(name, index.layout.shape, given, _BOOL, index.layout.dtype)
        self._checks.append(_whole(holds))

    def _counted(self, device: Any, count: int) -> Operand:
        """0, 1, 2, ..."""
        found = self._columns.get((device, count))
        if found is None:
            layout = Layout.of(device, _INT32, (count,))
            found = self._columns[device, count] = Node("iota", layout)
        return _whole(found)


def _walked(graph: Graph) -> set[Node]:
    """Nodes that loops compute, or read."""
    found = {node for node in graph.nodes if node.primitive == "elementwise"}
    for node in graph.nodes:
        if node.primitive == "elementwise":
            found |= {x.node for x in node.inputs if x.layout.size == node.layout.size}
    return found


def _picks_one_a_row(table: Layout, node: Node, indices: Sequence[Operand]) -> bool:
    """Whether indices (n, 1) name each row of a table (n, c) once, in order, and a column of it."""
    if len(indices) != 2 or node.parameters["axis"] != 0 or len(table.shape) != 2:
        return False
    first, shape = indices[0], indices[0].layout.shape
    return (
        table.dtype in _FLOATS
        and shape == indices[1].layout.shape == (table.shape[0], 1)
        and first.node.primitive == "iota"
        and first.offset == 0
        and (first.layout.strides[0] == 1 or shape[0] == 1)
        and 1 < table.shape[1] <= _WIDEST
        and shape[0] > 0
    )


# -- nodes -----------------------------------------------------------------------------------------


def _whole(node: Node) -> Operand:
    return Operand(node, node.layout, 0)


def _viewed(x: Operand, shape: Sequence[int], strides: Sequence[int]) -> Operand:
    """What is read, with other axes."""
    return Operand(x.node, x.layout.strided(tuple(shape), tuple(strides)), x.offset)


def _elementwise(
    name: str,
    shape: Sequence[int],
    given: Sequence[Any],
    dtype: np.dtype[Any],
    compute: np.dtype[Any] | None = None,
) -> Node:
    """A primitive of operands of that shape and of numbers; of `where`, the first is a bool."""
    compute = dtype if compute is None else compute
    dtypes = [_BOOL if name == "where" and i == 0 else compute for i in range(len(given))]
    arrays = tuple([x for x in given if isinstance(x, Operand)])
    operands = tuple(
        [
            x.layout if isinstance(x, Operand) else Scalar(to)
            for x, to in zip(given, dtypes, strict=True)
        ]
    )
    numbers = tuple([x for x in given if not isinstance(x, Operand)])
    layout = Layout.of(arrays[0].layout.device, dtype, tuple(shape))
    parameters = {"name": name, "operands": operands, "compute": tuple(dtypes)}
    return Node("elementwise", layout, arrays, parameters, numbers)


def _outer_product(a: Operand, b: Operand, out: Layout, groups: tuple[int, int, int, int]) -> Node:
    """out[batch, m, n] = a[batch, m] · b[batch, n]."""
    batch, m, n, k = groups
    left, right = a.layout.strides, b.layout.strides
    a = _viewed(a, out.shape, (*left[: batch + m], *[0] * n))
    b = _viewed(b, out.shape, (*right[:batch], *[0] * m, *right[batch + k :]))
    return _product(a, b, out)


def _product(a: Operand, b: Operand, out: Layout) -> Node:
    given = {
        "name": "multiply",
        "operands": (a.layout, b.layout),
        "compute": (out.dtype, out.dtype),
    }
    return Node("elementwise", out, (a, b), given)


def _sums_of_products(
    matrix: Operand, vector: Operand, out: Layout, kept: Sequence[int], gone: Sequence[int]
) -> Node | None:
    """Σ matrix · vector over the axes `gone`; None unless all of these are inner, or outer."""
    shape, steps = matrix.layout.shape, matrix.layout.strides
    left = [abs(steps[axis]) for axis in kept if shape[axis] > 1]
    summed = [abs(steps[axis]) for axis in gone if shape[axis] > 1]
    if not left or not summed:
        return None
    inside, outside = max(summed) < min(left), min(summed) > max(left)
    contiguous = min(summed if inside else left) == 1
    if not (inside or outside) or not contiguous:
        return None
    strides = result_strides(shape, [matrix.layout, vector.layout])
    product = _product(matrix, vector, Layout.of(out.device, out.dtype, shape, strides))
    given = {"name": "sum", "axes": tuple(gone)}
    return Node("reduce", out, (_whole(product),), given)


def _of_total(node: Node, inputs: tuple[Operand, ...]) -> Node | None:
    """A sum of everything, row by row: the loop that computes it can add up its rows."""
    (x,) = inputs
    shape, out = x.layout.shape, node.layout
    if node.parameters["name"] != "sum" or len(shape) < 2 or out.shape or out.dtype not in _FLOATS:
        return None
    if x.node.primitive != "elementwise" or not x.layout.compact or x.layout != x.node.layout:
        return None
    if x.layout.dtype != out.dtype or x.layout.size <= _ONE_ROW:
        return None
    if not (_ROW <= shape[-1] <= _LONGEST_ROW and prod(shape[:-1]) >= _ROWS):
        return None
    rows = Layout.of(out.device, out.dtype, shape[:-1])
    each = Node("reduce", rows, (x,), {"name": "sum", "axes": (len(shape) - 1,)})
    axes = tuple(range(len(shape) - 1))
    return Node("reduce", out, (_whole(each),), {"name": "sum", "axes": axes})


def _picked(layout: Layout, axes: Sequence[int]) -> Layout:
    """Without the other axes, which are of length 1."""
    shape = tuple([layout.shape[i] for i in axes])
    strides = tuple([layout.strides[i] for i in axes])
    return Layout.of(layout.device, layout.dtype, shape, strides)
