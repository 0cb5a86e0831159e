"""Rows of a table by number."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from needle.autograd.tensor import Tensor, TensorOp
from needle.backend_selection import Array, array_api, primitives
from needle.dtypes import is_floating, is_integer
from needle.errors import DTypeError, OptionError, ShapeError, describe
from needle.ops.comparison import equal, where
from needle.ops.indexing import ScatterAdd, _index_tensor, _split_index

__all__ = ["EmbeddingLookup", "embedding"]


class EmbeddingLookup(TensorOp):
    """y[...] = table[ids[...]]: a row for each id.

    table: (N, D); ids: any shape, whole numbers in 0..N-1, of an integer or float dtype -> y:
    (*ids.shape, D), the table's dtype. Raises OutOfRangeError; ids below 0 do not count from the
    end.
    Gradient: dy added to the rows it came from; to row `padding_idx` nothing. Raises OptionError if
    there is no such row; negative numbers count from the end.
    """

    name = "embedding"
    expects = "a table [n, d], and ids that are whole numbers in 0..n-1"

    def __init__(self, padding_idx: int | None = None) -> None:
        self.padding_idx = padding_idx

    def compute(self, table: Array, ids: Array) -> Array:
        if table.ndim != 2:
            raise ShapeError(f"embedding: expected {self.expects}, got {describe(table, ids)}.")
        self._padding_row(table)
        return primitives.index(table, (primitives.quietly(_row_numbers, ids, table.shape[0]),))

    def gradient(self, out_grad: Tensor, node: Tensor) -> Any:
        table, ids = node.inputs
        row = self._padding_row(table)
        if row is not None:
            padding = equal(ids, row)
            out_grad = where(padding.expand_dims(-1), 0, out_grad)
        template, rows = _split_index(ids.astype("int64"))
        return ScatterAdd(table.shape, template)(out_grad, *rows), None

    def _padding_row(self, table: Array | Tensor) -> int | None:
        return padding_row(self.name, self.padding_idx, table.shape[0])


def padding_row(name: str, padding_idx: Any, rows: int) -> int | None:
    """`padding_idx` as a number in 0..rows-1; None as it is. OptionError if there is none."""
    if padding_idx is None:
        return None
    try:
        number = operator.index(padding_idx)
    except TypeError:
        number = rows
    if not -rows <= number < rows:
        raise OptionError(
            f"{name}: expected padding_idx in [{-rows}, {rows}), got {padding_idx!r}."
        )
    return number % rows


def _row_numbers(ids: Array, count: int) -> Array:
    """The ids as int64, after a look at each."""
    if not (is_integer(ids.dtype) or is_floating(ids.dtype)):
        raise DTypeError(f"embedding: expected numbers for ids, got {describe(ids)}.")
    rows = ids.astype("int64")
    within = array_api.logical_and(rows >= 0, rows < count)
    primitives.require(within, lambda: _no_row(ids, count))
    if is_floating(ids.dtype):
        primitives.require(rows.astype(ids.dtype) == ids, lambda: _no_row(ids, count))
    return rows


def _no_row(ids: Array, count: int) -> IndexError:
    values = primitives.to_numpy(ids).reshape(-1).astype("float64")
    found = (values >= 0) & (values < count) & (values == np.trunc(values))
    return IndexError(f"There is no row {values[~found][0]:.9g}.")


def embedding(table: Tensor, ids: Any, padding_idx: int | None = None) -> Tensor:
    """A row of the table for each id: (N, D), ids of any shape -> (*ids.shape, D).

    padding_idx  the row that gets no gradient; negative ones count from the end
    """
    return EmbeddingLookup(padding_idx)(table, _index_tensor(ids, table.device))
