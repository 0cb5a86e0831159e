"""Tensors for tests that run in both modes."""

from __future__ import annotations

from typing import Any

import numpy as np

import needle as ndl

__all__ = ["has_data", "taken_as", "tensor"]


def has_data(array: Any) -> bool:
    """Whether an op computes: in nd mode lazy ops run on arrays that have a shape only, too."""
    return bool(ndl.BACKEND == "np" or array.device.has_memory)


def taken_as(dtype: Any) -> Any:
    """The dtype of a Tensor made of an array of this one: float32 in nd mode."""
    return np.dtype(dtype if ndl.BACKEND == "np" else "float32")


def tensor(values: Any, dtype: Any = None, **options: Any) -> ndl.Tensor:
    """A Tensor in the dtype that NumPy has for the values; nd mode's own default is float32."""
    if dtype is None and not isinstance(values, ndl.Tensor):
        values = np.asarray(values)
        dtype = values.dtype
    return ndl.Tensor(values, dtype=dtype, **options)
