"""Arrays at hand as a dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.data.data_basic import Dataset
from needle.errors import ShapeError, describe

__all__ = ["NDArrayDataset"]


class NDArrayDataset(Dataset):
    """Item i is (a[i], b[i], ...) of the arrays given; i an int, a slice or an index array.

    arrays  NumPy arrays, lists or Tensors, as long as each other

    >>> import needle as ndl
    >>> ndl.data.NDArrayDataset([[1.0, 2.0], [3.0, 4.0]], [7, 8])[1:]
    (array([[3., 4.]]), array([8]))
    """

    takes_index_arrays = True

    def __init__(self, *arrays: Any) -> None:
        super().__init__()
        self.arrays = tuple([_array(a) for a in arrays])
        lengths = {a.shape[:1] for a in self.arrays}
        if len(lengths) != 1 or () in lengths:
            raise ShapeError(
                "NDArrayDataset: expected arrays as long as each other, got "
                f"{describe(*self.arrays) or 'none'}."
            )

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple([array[index] for array in self.arrays])

    def __len__(self) -> int:
        return len(self.arrays[0])


def _array(value: Any) -> np.ndarray[Any, Any]:
    try:
        return value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            "NDArrayDataset: expected arrays as long as each other, got a list whose rows differ "
            "in length."
        ) from error
