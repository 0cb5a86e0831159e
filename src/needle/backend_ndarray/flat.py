"""The elements of an array in order, where no 1-D view can walk them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from needle.backend_ndarray import elementwise, indexing
from needle.backend_ndarray.device import Device
from needle.backend_ndarray.layout import Shape
from needle.backend_ndarray.ndarray import NDArray
from needle.errors import OutOfRangeError

__all__ = ["Flat"]


class Flat:
    """`x.flat` of an x that does not lie row after row: reads like a 1-D array, and writes to x.

    Slices, arithmetic and NumPy get a copy, of the moment; one element is a view.

    >>> import needle.backend_ndarray as nd
    >>> x = nd.array([[1, 2, 3], [4, 5, 6]])
    >>> x.T.flat[1] += 10
    >>> x.T.flat + 1
    NDArray([ 2., 15.,  3.,  6.,  4.,  7.], device=cpu())
    """

    __slots__ = ("_array",)

    # NDArrays and NumPy's arrays leave operators to this class
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def __init__(self, array: NDArray) -> None:
        self._array = array

    @property
    def shape(self) -> Shape:
        """One extent: the number of elements."""
        return (self.size,)

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size

    @property
    def ndim(self) -> int:
        """1."""
        return 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self._array.dtype

    @property
    def device(self) -> Device:
        """Where the array lives."""
        return self._array.device

    def numpy(self) -> np.ndarray[Any, Any]:
        """A NumPy copy."""
        return self._row().numpy()

    def tolist(self) -> Any:
        """The elements as a Python list."""
        return self._row().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("expected no copy, but the elements of flat lie in no row.")
        return self._row().__array__(dtype)

    def __repr__(self) -> str:
        return repr(self._row()).replace("NDArray(", "Flat(", 1)

    def __str__(self) -> str:
        return str(self._row())

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[NDArray]:
        return (self._element(index) for index in range(self.size))

    def __contains__(self, value: Any) -> bool:
        return value in self._array

    def __getitem__(self, index: Any) -> NDArray:
        if indexing.is_int(index):
            return self._element(operator.index(index))
        return self._row()[index]  # type: ignore[no-any-return]

    def __setitem__(self, index: Any, value: Any) -> None:
        if indexing.is_int(index):
            self._array[self._place(operator.index(index))] = value
            return
        row = self._row()
        row[index] = value
        self._array[(...,)] = row.reshape(self._array.shape)

    def _row(self) -> NDArray:
        """A copy of the elements."""
        return self._array.reshape((-1,))

    def _element(self, index: int) -> NDArray:
        """A view of one element."""
        return self._array[self._place(index)].reshape((1,))  # type: ignore[no-any-return]

    def _place(self, index: int) -> tuple[int, ...]:
        """The array's indices of an element."""
        size = self.size
        if not -size <= index < size:
            raise OutOfRangeError(f"flat: expected an index in [{-size}, {size}), got {index}.")
        return tuple([int(i) for i in np.unravel_index(index % size, self._array.shape)])


def _of_copy(name: str) -> Callable[..., Any]:
    """An operator of Flat: the NDArray's, on a copy."""

    def method(self: Flat, *others: Any) -> Any:
        rows = [x._row() if isinstance(x, Flat) else x for x in others]
        return getattr(self._row(), name)(*rows)

    method.__name__ = name
    return method


for _name in (*elementwise.operators(), "__matmul__", "__rmatmul__", "__pos__"):
    setattr(Flat, _name, _of_copy(_name))
